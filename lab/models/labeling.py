"""Labelling: a project shows rollout groups to people, each of whom hands in a ranking of one group at a time."""

from django.db import models

FLAGS = ("untrue", "nonsense", "harmful", "not answering", "cut off")


class Project(models.Model):
    name = models.CharField(max_length=100)
    instructions = models.TextField(blank=True)
    source = models.ForeignKey("Artifact", models.PROTECT, related_name="projects")
    """The rollouts that are ranked."""
    rankings_per_group = models.IntegerField(default=1)
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey("Account", models.SET_NULL, null=True)
    closed = models.DateTimeField(null=True)
    tour = models.ForeignKey("Tour", models.SET_NULL, null=True, related_name="projects")

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name


class Group(models.Model):
    """One prompt and its completions, in the order in which every labeler sees them: one task."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="groups")
    index = models.IntegerField()
    prompt = models.TextField()
    completions = models.JSONField()
    metadata = models.JSONField(default=dict)
    """Never shown to labelers: split, task, logprobs and the like."""

    class Meta:
        ordering = ["index"]
        constraints = [models.UniqueConstraint(fields=["project", "index"], name="one_group_an_index")]

    def __str__(self) -> str:
        return f"group {self.index} of {self.project}"


class Lease(models.Model):
    """A group that somebody is looking at now; it goes to the next person when the lease has expired."""

    group = models.ForeignKey(Group, models.CASCADE, related_name="leases")
    labeler = models.ForeignKey("Account", models.CASCADE)
    expires = models.DateTimeField()
    skipped = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "labeler"], name="one_lease_a_labeler")]

    def __str__(self) -> str:
        return f"{self.group} leased to {self.labeler}"


class Ranking(models.Model):
    group = models.ForeignKey(Group, models.CASCADE, related_name="rankings")
    labeler = models.ForeignKey("Account", models.PROTECT, related_name="rankings")
    order = models.JSONField()
    """Best first; indices of completions, those in one list tied: [[2], [0, 3], [1]]."""
    all_bad = models.BooleanField(default=False)
    flags = models.JSONField(default=dict)
    """{"2": ["untrue"]} by index of the completion."""
    seconds = models.FloatField(default=0)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["group", "labeler"], name="one_ranking_a_labeler")]

    def __str__(self) -> str:
        return f"ranking of {self.group} by {self.labeler}"
