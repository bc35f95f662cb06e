"""A tour: one model's whole life as ordinary runs, advanced stage by stage.

The loop of feedback is gone through twice, so a tour has two runs of some kinds. Which turn a run belongs to needs no
column: a tour makes them one after the other, and a clone is no part of it.
"""

from typing import TYPE_CHECKING

from django.db import models

if TYPE_CHECKING:
    from lab.models.labeling import Project
    from lab.models.run import Run


def stage(kind: str, turn: int) -> str:
    """Name of a stage: "rlhf", and "rlhf 2" in the second turn."""
    return kind if turn == 1 else f"{kind} {turn}"


class Tour(models.Model):
    options = models.JSONField(default=dict)
    """{"pages": path or None, "documents": path or None, "small": bool, "seed": int}"""
    status = models.CharField(max_length=12, default="running")
    """running, succeeded, failed or cancelled"""
    stage = models.CharField(max_length=20, default="made")
    """made: its first runs are queued; ranking: people and the simulated labeler rank; aligning: what learns from that
    runs, and the aligned model answers anew; ranking 2, aligning 2: the same once more, and the report card."""
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

    def made(self) -> dict[str, "Run"]:
        """Its runs by stage, in the order in which it made them."""
        found: dict[str, Run] = {}
        for run in self.runs.order_by("pk"):
            turn = 1
            while stage(run.kind, turn) in found:
                turn += 1
            found[stage(run.kind, turn)] = run
        return found

    def project_of(self, rollouts: "Run | None") -> "Project | None":
        """The labelling project over the answers of one of its runs."""
        if rollouts is None:
            return None
        return self.projects.filter(source__run=rollouts).order_by("pk").first()
