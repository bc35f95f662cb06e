"""The index of artifacts. The truth is each artifact's manifest; these rows can be rebuilt from it."""

from django.db import models


class Artifact(models.Model):
    id = models.CharField(primary_key=True, max_length=80)
    kind = models.CharField(max_length=12, db_index=True)
    form = models.CharField(max_length=16, blank=True)
    """Of a dataset: pages, documents, conversations, …"""
    role = models.CharField(max_length=12, blank=True)
    """Of a checkpoint: base, chat, aligned, reward, …"""
    name = models.CharField(max_length=200)
    path = models.CharField(max_length=300)
    """Relative to the artifact root."""
    size = models.BigIntegerField()
    summary = models.JSONField(default=dict)
    manifest = models.JSONField(default=dict)
    run = models.ForeignKey("Run", models.SET_NULL, null=True, related_name="artifacts")
    output = models.CharField(max_length=60, blank=True)
    created = models.DateTimeField()
    note = models.TextField(blank=True)

    class Meta:
        ordering = ["-created", "-id"]

    def __str__(self) -> str:
        return self.name

    @property
    def what(self) -> str:
        """The form of a dataset, the role of a checkpoint, or nothing."""
        return self.form or self.role
