"""Labelling: a project shows rollout groups to people, each of whom hands in a ranking of one group at a time."""

import random

from django.db import models
from django.db.models import Q
from django.db.models.fields.json import KT

FLAGS = ("untrue", "nonsense", "harmful", "not answering", "cut off")
NEXT = ("random", "uncertain")
"""Which group comes next: any, or first those on which reward models disagree and which are unlike each other."""


def all_flags() -> list[str]:
    return list(FLAGS)


class Project(models.Model):
    name = models.CharField(max_length=100)
    instructions = models.TextField(blank=True)
    examples = models.JSONField(default=list)
    """[{"prompt", "better", "worse", "why"}]: shown with the instructions."""
    source = models.ForeignKey("Artifact", models.PROTECT, related_name="projects")
    """The rollouts that are ranked; or a dataset of rankings, some of which are corrected."""
    rankings_per_group = models.IntegerField(default=1)
    flags = models.JSONField(default=all_flags)
    """Of FLAGS, those that a labeler may give a response."""
    scale = models.IntegerField(default=0)
    """Marks that a labeler gives each response, 1 for the worst up to so many for the best; 0 asks for none."""
    asks_comment = models.BooleanField(default=False)
    asks_correction = models.BooleanField(default=False)
    next_group = models.CharField(max_length=10, choices=[(name, name) for name in NEXT], default="random")
    gold_every = models.IntegerField(default=10)
    """One in so many groups that a labeler gets is gold, while there are gold ones; 0 for none."""
    repeat_every = models.IntegerField(default=0)
    """One in so many groups that a labeler gets is one that they ranked before; 0 for none."""
    scored_by = models.BigIntegerField(default=0)
    """The newest run whose uncertainties were taken over, by its number: it may be deleted since. 0 for none."""
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey("Account", models.SET_NULL, null=True)
    closed = models.DateTimeField(null=True)
    tour = models.ForeignKey("Tour", models.SET_NULL, null=True, related_name="projects")

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name

    @property
    def corrects(self) -> bool:
        """Whether it holds a researcher's corrections of a dataset of rankings, and nothing for labelers."""
        return self.source.form == "rankings"


GROUP_ID = KT("metadata__group_id")
"""A group's id in its dataset, as the text that it is: read as JSON, "140" would come back as a number."""


class Group(models.Model):
    """One prompt and its completions, in an order of its own: one task. Each labeler sees another order."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="groups")
    index = models.IntegerField()
    turn = models.FloatField(default=0)
    """When it is handed out, the lowest first: drawn, or counted from the most uncertain."""
    prompt = models.TextField()
    completions = models.JSONField()
    metadata = models.JSONField(default=dict)
    """Never shown to labelers: split, task, logprobs and the like."""
    gold = models.JSONField(null=True)
    """The known order, for a group that measures the labelers; each of them gets it once."""
    uncertainty = models.FloatField(null=True)
    """How far the reward models of an ensemble disagree about it."""
    settled = models.JSONField(null=True)
    """The order on which a researcher decided; an export takes it in place of the labelers'."""
    settled_by = models.ForeignKey("Account", models.SET_NULL, null=True, related_name="+")
    settled_at = models.DateTimeField(null=True)
    settled_note = models.TextField(blank=True)

    class Meta:
        ordering = ["index"]
        constraints = [models.UniqueConstraint(fields=["project", "index"], name="one_group_an_index")]
        indexes = [models.Index(fields=["project", "turn", "index"], name="groups_by_turn")]

    def __str__(self) -> str:
        return f"group {self.index} of {self.project}"


class Lease(models.Model):
    """A group that somebody is looking at now; it goes to the next person when the lease has expired."""

    group = models.ForeignKey(Group, models.CASCADE, related_name="leases")
    labeler = models.ForeignKey("Account", models.CASCADE)
    expires = models.DateTimeField()
    skipped = models.BooleanField(default=False)
    round = models.IntegerField(default=0)
    """1 when the labeler has ranked the group before and ranks it again."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "labeler"], name="one_lease_a_labeler")]

    def __str__(self) -> str:
        return f"{self.group} leased to {self.labeler}"

    @property
    def shown(self) -> list[int]:
        """The group's completions as they stand on this labeler's screen: drawn anew for each labeler and round.

        It follows from who looks at what, so that a reload and a taken back ranking show the same order again.
        """
        order = list(range(len(self.group.completions)))
        random.Random(f"{self.group_id}/{self.labeler_id}/{self.round}").shuffle(order)
        return order


class Ranking(models.Model):
    group = models.ForeignKey(Group, models.CASCADE, related_name="rankings")
    labeler = models.ForeignKey("Account", models.PROTECT, related_name="rankings")
    round = models.IntegerField(default=0)
    """1 for the second ranking by the same labeler, which measures how far they agree with themselves."""
    extra = models.BooleanField(default=False)
    """Handed in so late that others had the group by then: it counts like any, but for how far the project is."""
    order = models.JSONField()
    """Best first; indices of completions, those in one list tied: [[2], [0, 3], [1]]."""
    shown = models.JSONField(default=list)
    """The indices of the completions as they stood on the labeler's screen, from above."""
    all_bad = models.BooleanField(default=False)
    flags = models.JSONField(default=dict)
    """{"2": ["untrue"]} by index of the completion."""
    marks = models.JSONField(default=dict)
    """{"2": 5} by index of the completion, on the project's scale."""
    comment = models.TextField(blank=True)
    correction = models.TextField(blank=True)
    """The answer that the labeler would have liked, in their own words."""
    seconds = models.FloatField(default=0)
    submission = models.CharField(max_length=64, blank=True)
    """The client's own name of this hand-in: sent twice, it counts once."""
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["group", "labeler", "round"], name="one_ranking_a_round"),
            models.UniqueConstraint(
                fields=["labeler", "submission"], condition=~Q(submission=""), name="one_ranking_a_submission"
            ),
        ]

    def __str__(self) -> str:
        return f"ranking of {self.group} by {self.labeler}"
