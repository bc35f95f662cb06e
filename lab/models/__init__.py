"""Every noun that the database keeps, one file for each."""

from lab.models.account import ROLES, Account, SignInLink, Token
from lab.models.arena import OUTCOMES, Answer, Battle, Contender, Turn, Vote
from lab.models.artifact import Artifact
from lab.models.labeling import FLAGS, NEXT, Group, Lease, Project, Ranking
from lab.models.metric import MetricChunk
from lab.models.run import Attempt, Figure, IdempotencyKey, LogLine, Run, RunInput, Sample, Shard
from lab.models.served import ModelAddress, ModelFile
from lab.models.tour import Tour
from lab.models.trick import VERDICTS, TrickMark

__all__ = [
    "FLAGS",
    "NEXT",
    "OUTCOMES",
    "ROLES",
    "VERDICTS",
    "Account",
    "Answer",
    "Artifact",
    "Attempt",
    "Battle",
    "Contender",
    "Figure",
    "Group",
    "IdempotencyKey",
    "Lease",
    "LogLine",
    "MetricChunk",
    "ModelAddress",
    "ModelFile",
    "Project",
    "Ranking",
    "Run",
    "RunInput",
    "Sample",
    "Shard",
    "SignInLink",
    "Token",
    "Tour",
    "TrickMark",
    "Turn",
    "Vote",
]
