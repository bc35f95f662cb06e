"""Models that no run has made: addresses of other servers, and GGUF files on this machine."""

from django.db import models


class ModelAddress(models.Model):
    """One model at one OpenAI-compatible server. Its key is shown to that server and to nobody else."""

    name = models.CharField(max_length=100, unique=True)
    """What it is called here."""
    url = models.CharField(max_length=500)
    model = models.CharField(max_length=200)
    """What it is called there."""
    key = models.TextField(blank=True)
    is_local = models.BooleanField(default=False)
    """An administrator has said that it may be one of this machine or its network."""
    timeout = models.FloatField(default=120)
    """Seconds without a word after which it is given up."""
    problem = models.TextField(blank=True)
    """Why it did not answer when it was last tried; empty when it did."""
    tried = models.DateTimeField(null=True)
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey("Account", models.SET_NULL, null=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ModelFile(models.Model):
    """A GGUF file below an allowed folder."""

    name = models.CharField(max_length=100, unique=True)
    path = models.CharField(max_length=1000)
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey("Account", models.SET_NULL, null=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
