"""Labelling: projects over rollouts, leased groups, rankings handed in and taken back, gold and settled groups, export."""

from lab.services.labeling.checks import set_gold, settle, unsettle
from lab.services.labeling.corrections import correct, votes
from lab.services.labeling.doubts import ask, take_scores
from lab.services.labeling.export import export, rows
from lab.services.labeling.handout import (
    LEASE,
    MAX_SECONDS,
    MAX_TEXT,
    SAID,
    hand_in,
    next_group,
    next_lease,
    renew,
    skip,
    undo,
)
from lab.services.labeling.projects import (
    EXAMPLE,
    MAX_ANSWERS,
    MAX_EVERY,
    MAX_RANKINGS_PER_GROUP,
    SCALES,
    change,
    close,
    create_project,
    delete_project,
    reopen,
)
from lab.services.labeling.turns import set_uncertainty

__all__ = [
    "EXAMPLE",
    "LEASE",
    "MAX_ANSWERS",
    "MAX_EVERY",
    "MAX_RANKINGS_PER_GROUP",
    "MAX_SECONDS",
    "MAX_TEXT",
    "SAID",
    "SCALES",
    "ask",
    "change",
    "close",
    "correct",
    "create_project",
    "delete_project",
    "export",
    "hand_in",
    "next_group",
    "next_lease",
    "renew",
    "reopen",
    "rows",
    "set_gold",
    "set_uncertainty",
    "settle",
    "skip",
    "take_scores",
    "undo",
    "unsettle",
    "votes",
]
