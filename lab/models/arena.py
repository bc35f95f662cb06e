"""The arena: contenders, battles in which two of them answer one person, and votes of people and of judge models."""

from typing import Any

from django.db import models
from django.db.models import Q

SIDES = ("left", "right")
OUTCOMES = ("left", "right", "tie", "bad")
"""Which side was better; both as good; both bad."""
HUMAN, JUDGE = "human", "judge"
WAITING, DONE, FAILED = "waiting", "done", "failed"
SILENT = ("reward", "player")
"""Roles of checkpoints that write no text."""


class Contender(models.Model):
    """A model that may be drawn. Nobody who votes is told its name before the vote."""

    name = models.CharField(max_length=100, unique=True)
    """As it is shown after a vote and in the ratings."""
    model = models.CharField(max_length=200, unique=True)
    """As the engine knows it: an artifact's id, `address-3` or `file-2`."""
    checkpoint = models.ForeignKey("Artifact", models.SET_NULL, null=True, related_name="contenders")
    """The checkpoint or export that it is, where it is one of the lab's own."""
    is_active = models.BooleanField(default=True)
    """A resting one keeps its votes and its rating, and is not drawn."""
    is_anchor = models.BooleanField(default=False)
    """It stands at 1,000 points."""
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey("Account", models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["is_anchor"], condition=Q(is_anchor=True), name="one_anchor")
        ]

    def __str__(self) -> str:
        return self.name


class Battle(models.Model):
    """One person's conversation with two hidden models, over when they have voted or gone on without a vote."""

    account = models.ForeignKey("Account", models.PROTECT, related_name="battles")
    left = models.ForeignKey(Contender, models.PROTECT, related_name="battles_on_the_left")
    right = models.ForeignKey(Contender, models.PROTECT, related_name="battles_on_the_right")
    seed = models.IntegerField()
    """Of the sampling: an answer that was lost is sampled again as it was."""
    settings = models.JSONField(default=dict)
    """How both were sampled: temperature, top_p, max_tokens."""
    style = models.JSONField(null=True)
    """[counts of the left, counts of the right] of what may please beside the content; see `arena.style`."""
    created = models.DateTimeField(auto_now_add=True)
    ended = models.DateTimeField(null=True)
    abandoned = models.BooleanField(default=False)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["account", "ended"], name="open_battles"),
        ]

    def __str__(self) -> str:
        return f"battle {self.pk}"

    def vote_of(self, account: Any) -> "Vote | None":
        """Their own vote, which lets them see who spoke; a judge's that they have brought in is not."""
        if account.is_simulated:
            return self.votes.filter(kind=JUDGE, judge=account.username).first()
        return self.votes.filter(kind=HUMAN, account=account).first()


class Turn(models.Model):
    """One prompt, which both models get."""

    battle = models.ForeignKey(Battle, models.CASCADE, related_name="turns")
    number = models.IntegerField()
    prompt = models.TextField()

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["battle", "number"], name="one_turn_a_number")]

    def __str__(self) -> str:
        return f"turn {self.number} of {self.battle}"


class Answer(models.Model):
    """What one side says in one turn."""

    turn = models.ForeignKey(Turn, models.CASCADE, related_name="answers")
    side = models.CharField(max_length=5, choices=[(side, side) for side in SIDES])
    status = models.CharField(max_length=7, default=WAITING)
    text = models.TextField(blank=True)
    n_tokens = models.IntegerField(null=True)
    finish = models.CharField(max_length=20, blank=True)
    """Why it ended: stop, or length."""
    seconds = models.FloatField(default=0)
    problem = models.TextField(blank=True)
    """Why it failed, in the engine's words: they may name the model, so only researchers read them."""
    claim = models.CharField(max_length=32, blank=True)
    """Of the stream that samples it now; who asks again takes it over, and what an older one brings is not kept."""

    class Meta:
        ordering = ["turn__number", "side"]
        constraints = [models.UniqueConstraint(fields=["turn", "side"], name="one_answer_a_side")]

    def __str__(self) -> str:
        return f"{self.side} of {self.turn}"


class Vote(models.Model):
    """Which side of one battle is better: one vote a person, one a judge."""

    battle = models.ForeignKey(Battle, models.CASCADE, related_name="votes")
    kind = models.CharField(max_length=5, choices=[(HUMAN, HUMAN), (JUDGE, JUDGE)], default=HUMAN)
    account = models.ForeignKey("Account", models.PROTECT, null=True, related_name="votes")
    """Whose vote it is, or who brought a judge's in."""
    judge = models.CharField(max_length=200, blank=True)
    """The model or program that voted."""
    outcome = models.CharField(max_length=5, choices=[(outcome, outcome) for outcome in OUTCOMES])
    seconds = models.FloatField(default=0)
    counts = models.BooleanField(default=True)
    """False where an answer told its model's name: such a vote was not blind, and is left out of the ratings."""
    verdicts = models.JSONField(null=True)
    """A judge's two verdicts, each by place: as shown, and with the sides swapped."""
    source = models.ForeignKey("Artifact", models.SET_NULL, null=True, related_name="+")
    """The dataset that brought a judge's vote."""
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["battle", "account"], condition=Q(kind=HUMAN), name="one_vote_a_person"
            ),
            models.UniqueConstraint(
                fields=["battle", "judge"], condition=Q(kind=JUDGE), name="one_vote_a_judge"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.outcome} in {self.battle}"
