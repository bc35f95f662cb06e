"""The arena's writes: contenders, battles and their answers, votes, what goes out to learn from and comes in from judges."""

from lab.services.arena.answering import answers, claim
from lab.services.arena.battles import (
    MAX_PROMPT,
    MAX_SECONDS,
    MAX_TURNS,
    SETTINGS,
    begin,
    follow_up,
    leave,
    vote,
)
from lab.services.arena.contenders import MAX_NAME, add, change, remove
from lab.services.arena.export import export, export_battles, rows
from lab.services.arena.judgements import Imported, import_judgements
from lab.services.arena.judging import JUDGES, ask_judge, take_verdicts

__all__ = [
    "JUDGES",
    "MAX_NAME",
    "MAX_PROMPT",
    "MAX_SECONDS",
    "MAX_TURNS",
    "SETTINGS",
    "Imported",
    "add",
    "answers",
    "ask_judge",
    "begin",
    "change",
    "claim",
    "export",
    "export_battles",
    "follow_up",
    "import_judgements",
    "leave",
    "remove",
    "rows",
    "take_verdicts",
    "vote",
]
