"""A tour: one model's whole life as ordinary runs, advanced stage by stage."""

from django.db import models


class Tour(models.Model):
    options = models.JSONField(default=dict)
    """{"pages": path or None, "documents": path or None, "small": bool, "seed": int}"""
    status = models.CharField(max_length=12, default="running")
    """running, succeeded, failed or cancelled"""
    stage = models.CharField(max_length=20, default="made")
    """made: its first runs are queued; ranking: people and the simulated labeler rank; aligning: the rest runs."""
    labeler_beat = models.DateTimeField(null=True)
    """When the simulated labeler last gave a sign of life; one at a time labels."""
    error = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    ended = models.DateTimeField(null=True)
    created_by = models.ForeignKey("Account", models.SET_NULL, null=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"tour {self.pk}"
