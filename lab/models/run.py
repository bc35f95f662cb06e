"""Runs: the row is the queue, the claim and the record of one execution of a recipe."""

import secrets

from django.db import models
from django.db.models import Q

QUEUED, STARTING, RUNNING = "queued", "starting", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
INTERRUPTED = "interrupted"
STATUSES = (QUEUED, STARTING, RUNNING, INTERRUPTED, SUCCEEDED, FAILED, CANCELLED)
LIVE = (QUEUED, STARTING, RUNNING, INTERRUPTED)
ENDED = (SUCCEEDED, FAILED, CANCELLED)


def new_uid() -> str:
    return secrets.token_hex(4)


class Claim(models.Model):
    """What runs and shards share: a status that one worker at a time may hold, by a token and a heartbeat."""

    status = models.CharField(max_length=12, choices=[(s, s) for s in STATUSES], default=QUEUED)
    token = models.CharField(max_length=32, blank=True)
    heartbeat = models.DateTimeField(null=True)
    attempt = models.IntegerField(default=0)
    sent = models.DateTimeField(null=True)
    """When a wake-up was last sent for it."""
    reading = models.IntegerField(default=0)
    """The attempt whose event file is being stored; it lags behind `attempt` until the older file is read out."""
    seq = models.BigIntegerField(default=0)
    """The number of the last event of that attempt that is stored."""
    offset = models.BigIntegerField(default=0)
    """How many bytes of that attempt's event file are stored."""
    created = models.DateTimeField(auto_now_add=True)
    started = models.DateTimeField(null=True)
    ended = models.DateTimeField(null=True)
    error = models.JSONField(null=True)
    """{"message", "field", "hint", "traceback"} of a failure."""

    class Meta:
        abstract = True


class Run(Claim):
    uid = models.CharField(max_length=16, unique=True, default=new_uid)
    """Prefix of its artifacts' ids and name of its folders; survives a lost database."""
    kind = models.CharField(max_length=20, db_index=True)
    name = models.CharField(max_length=100)
    preset = models.CharField(max_length=40, blank=True)
    config = models.JSONField(default=dict)
    given = models.JSONField(default=dict)
    """The part of the config that the person chose on top of the preset."""
    pending = models.JSONField(default=dict)
    """Inputs that are outputs of runs not yet ended: {"checkpoint": [{"run": 41, "output": "checkpoint"}]}."""
    cancel_requested = models.DateTimeField(null=True)
    finish_requested = models.DateTimeField(null=True)
    """When a person asked it to end early, as a success, with what it has."""
    progress = models.JSONField(default=dict)
    """{"step", "total", "unit", "message", "rate", "seconds_left"} as last told."""
    summary = models.JSONField(default=dict)
    version = models.BigIntegerField(default=0)
    """Grows with every stored change, so that a listener knows when to look."""
    cloned_from = models.ForeignKey("self", models.SET_NULL, null=True, related_name="clones")
    created_by = models.ForeignKey("Account", models.SET_NULL, null=True)
    tour = models.ForeignKey("Tour", models.SET_NULL, null=True, related_name="runs")
    note = models.TextField(blank=True)
    deleted = models.DateTimeField(null=True)
    """Hidden since then; the files go when the time for undo has passed."""

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["status", "heartbeat"])]

    def __str__(self) -> str:
        return f"#{self.pk} {self.name}"

    @property
    def is_live(self) -> bool:
        return self.status in LIVE

    @property
    def is_waiting(self) -> bool:
        """Queued, but an input is still being made by another run."""
        return self.status == QUEUED and bool(self.pending)


class RunInput(models.Model):
    run = models.ForeignKey(Run, models.CASCADE, related_name="inputs")
    name = models.CharField(max_length=60)
    position = models.IntegerField(default=0)
    artifact = models.ForeignKey("Artifact", models.PROTECT, related_name="taken_by")

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["run", "name", "position"], name="one_input_a_place")]

    def __str__(self) -> str:
        return f"{self.name} of {self.run}"


class Shard(Claim):
    """One piece of one stage of a sharded run; claimed, lost and resumed exactly as a run is."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="shards")
    stage = models.CharField(max_length=40)
    name = models.CharField(max_length=100)
    n_deaths = models.IntegerField(default=0)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["run", "stage", "name"], name="one_row_a_shard")]

    def __str__(self) -> str:
        return f"{self.stage}/{self.name} of {self.run}"


class Attempt(models.Model):
    """The record of one claim: who held it, from which step it went on, and how it ended."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="attempts")
    number = models.IntegerField()
    worker = models.CharField(max_length=100, blank=True)
    started = models.DateTimeField(auto_now_add=True)
    ended = models.DateTimeField(null=True)
    resumed_step = models.BigIntegerField(null=True)
    outcome = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="one_row_an_attempt")]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.run}"


class Sample(models.Model):
    run = models.ForeignKey(Run, models.CASCADE, related_name="samples")
    step = models.BigIntegerField()
    prompt = models.TextField(blank=True)
    text = models.TextField(blank=True)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["run", "step"])]

    def __str__(self) -> str:
        return f"sample of {self.run} at step {self.step}"


class Figure(models.Model):
    run = models.ForeignKey(Run, models.CASCADE, related_name="figures")
    name = models.CharField(max_length=60)
    step = models.BigIntegerField()
    title = models.CharField(max_length=200)
    content = models.JSONField()
    finding = models.TextField(blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="one_figure_a_name")]

    def __str__(self) -> str:
        return f"{self.title} of {self.run}"


class LogLine(models.Model):
    """The tail of a run's log; the whole of it stays in the run's folder."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="log")
    time = models.DateTimeField()
    level = models.CharField(max_length=8, default="info")
    message = models.TextField()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.message[:60]


class IdempotencyKey(models.Model):
    """The answer to a POST, kept so that a repeated one does nothing twice."""

    account = models.ForeignKey("Account", models.CASCADE)
    key = models.CharField(max_length=200)
    fingerprint = models.CharField(max_length=64)
    """Of method, path and body: the same key with another request is a mistake of the caller."""
    status = models.IntegerField(null=True)
    body = models.JSONField(null=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "key"], name="one_answer_a_key")]

    def __str__(self) -> str:
        return self.key


LIVE_RUNS = Q(status__in=LIVE)
