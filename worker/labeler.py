"""The simulated labeler of a tour: it ranks by a stated preference, over the REST API, as a browser would.

It sees what a person sees, the prompt and the answers, and works the right answer out from the prompt. A
share of its scores is disturbed, since people are not of one mind either.
"""

import logging
import random
from collections import defaultdict
from datetime import timedelta
from typing import Any

import httpx
from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from core_ml.tasks.preference import judge
from lab.models import Tour
from lab.services import accounts
from lab.services import tour as tours

logger = logging.getLogger(__name__)
NOISE = 0.05
"""Share of the answers whose score is off by 3 of 7."""
SILENT = timedelta(seconds=10)


def rank(prompt: str, completions: list[str], cut_off: list[bool], chance: random.Random) -> list[list[int]]:
    """The order by 4·correct + 2·complete + 1·short, best first; equal scores are ties.

    Of a prompt that is none of the tour's tasks it knows nothing: there all answers are tied.
    """
    by_score: dict[float, list[int]] = defaultdict(list)
    for index, (completion, cut) in enumerate(zip(completions, cut_off, strict=True)):
        judgement = judge(prompt, completion, ended=not cut)
        score = float(judgement.score) if judgement else 0.0
        if judgement and chance.random() < NOISE:
            score += chance.choice((-3, 3))
        by_score[score].append(index)
    return [by_score[score] for score in sorted(by_score, reverse=True)]


def wanted() -> Tour | None:
    """A tour that waits for rankings and has no simulated labeler at work."""
    silent = Q(labeler_beat=None) | Q(labeler_beat__lt=timezone.now() - SILENT)
    return Tour.objects.filter(silent, status="running", stage__in=tours.RANKING).first()


def label(pk: int) -> None:
    """Rank the groups of a tour's project until none is left. One labeler at a time, by a conditional update."""
    now = timezone.now()
    silent = Q(labeler_beat=None) | Q(labeler_beat__lt=now - SILENT)
    waiting = Tour.objects.filter(silent, pk=pk, status="running", stage__in=tours.RANKING)
    if not waiting.update(labeler_beat=now):
        return
    project = tours.ranked_now(Tour.objects.get(pk=pk))
    if project is None:
        return  # the rankings were whole a moment ago
    token, secret = accounts.make_token(tours.labeler(), f"simulated labeler of tour {pk}")
    chance = random.Random(project.pk)
    try:
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(
            base_url=f"{settings.LAB_URL}/api/v1", headers=headers, timeout=30, trust_env=False
        ) as web:
            while _rank_one(web, project.pk, chance):
                if not Tour.objects.filter(pk=pk, status="running").update(labeler_beat=timezone.now()):
                    return
    except httpx.HTTPError as error:
        logger.warning("the simulated labeler waits for web to answer: %s", error)
    finally:
        accounts.revoke_token(token)


def _rank_one(web: httpx.Client, project: int, chance: random.Random) -> bool:
    answer = web.post(f"/labeling/projects/{project}/next", json={})
    if answer.status_code == 204:
        return False
    answer.raise_for_status()
    task: dict[str, Any] = answer.json()
    order = rank(task["prompt"], task["completions"], task["cut_off"], chance)
    ranking = {"order": order, "flags": {}, "seconds": 0}
    web.post(f"/labeling/tasks/{task['id']}/ranking", json=ranking).raise_for_status()
    return True
