"""In which turn a project's groups are handed out: at random, or the uncertain first, spread over unlike prompts.

Uncertain is where the reward models of an ensemble disagree; whoever scores the groups says how far. Taking the most
uncertain alone asks many times the same thing, so each choice is weighed against its likeness to those before it.
Source: Carbonell and Goldstein 1998, "The use of MMR", with cosine over hashed trigrams of letters as the likeness.
Whether it pays is measured by benchmarks/selection.py: up to 3.5 times as few rankings, and sometimes nothing.
"""

import math
import random
import zlib

import numpy as np
from django.db import transaction

from lab.errors import FieldError, Invalid
from lab.models import Group, Project

LIKENESS_COST = 0.5
"""What full likeness to an earlier group costs, where uncertainty is worth its rank from 0 to 1."""
N_SPREAD = 3000
"""The most uncertain ones are spread; choosing among so many takes about a second."""
N_BUCKETS = 256
MAX_LETTERS = 1000
BATCH = 1000


def set_uncertainty(project: Project, scores: dict[str, float]) -> int:
    """Keep how uncertain groups are, by the id that they have in the dataset; returns how many were found.

    Raises: Invalid when a score is not finite, or a group is not there.
    """
    if bad := [name for name, score in scores.items() if not math.isfinite(score)]:
        raise Invalid([FieldError("scores", f"the score of {bad[0]!r} is not a finite number")])
    with transaction.atomic():
        project = Project.objects.select_for_update().get(pk=project.pk)
        known = {
            group.metadata["group_id"]: group for group in project.groups.only("metadata", "uncertainty")
        }
        if missing := [name for name in scores if name not in known]:
            raise Invalid([FieldError("scores", f"there is no group {missing[0]!r} in this project")])
        for name, score in scores.items():
            known[name].uncertainty = score
        changed = [known[name] for name in scores]
        Group.objects.bulk_update(changed, ["uncertainty"], batch_size=BATCH)
        deal(project)
    return len(changed)


def deal(project: Project) -> None:
    """Give every group its turn by the project's setting."""
    groups = list(project.groups.only("prompt", "uncertainty"))
    chance = random.Random(f"{project.source_id}/turns")
    for group in groups:
        group.turn = chance.random()
    if project.next_group == "uncertain":
        scored = [group for group in groups if group.uncertainty is not None]
        first = spread([group.prompt for group in scored], [group.uncertainty or 0.0 for group in scored])
        for group in groups:
            group.turn += len(scored)
        for turn, place in enumerate(first):
            scored[place].turn = turn
    Group.objects.bulk_update(groups, ["turn"], batch_size=BATCH)


def spread(prompts: list[str], uncertainty: list[float]) -> list[int]:
    """Places of the prompts, the most uncertain first, each choice less the likeness to those before it."""
    by_rank = np.argsort(-np.array(uncertainty), kind="stable")
    near, far = by_rank[:N_SPREAD], by_rank[N_SPREAD:]
    vectors = (
        np.stack([_trigrams(prompts[place]) for place in near]) if len(near) else np.zeros((0, N_BUCKETS))
    )
    worth = 1 - np.arange(len(near)) / max(1, len(by_rank))
    likest = np.zeros(len(near))
    left = np.ones(len(near), dtype=bool)
    chosen = []
    for _ in range(len(near)):
        best = int(np.argmax(np.where(left, worth - LIKENESS_COST * likest, -np.inf)))
        chosen.append(int(near[best]))
        left[best] = False
        likest = np.maximum(likest, vectors @ vectors[best])
    return chosen + [int(place) for place in far]


def _trigrams(text: str) -> np.ndarray:
    """(N_BUCKETS,) counts of trigrams of letters, of length 1."""
    counts = np.zeros(N_BUCKETS, dtype=np.float32)
    letters = f"  {text[:MAX_LETTERS].lower()} "
    for start in range(len(letters) - 2):
        # Python's own hash differs from process to process.
        counts[zlib.crc32(letters[start : start + 3].encode()) % N_BUCKETS] += 1
    return counts / max(1e-6, float(np.linalg.norm(counts)))
