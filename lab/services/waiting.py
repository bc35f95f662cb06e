"""Runs that wait for what other runs have yet to make."""

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from lab.models import Artifact, Run, RunInput
from lab.models.run import CANCELLED, FAILED, QUEUED, SUCCEEDED
from lab.services import wake


def settle() -> None:
    """Give queued runs the inputs that have been made meanwhile; fail those whose input will never come."""
    for run in Run.objects.filter(status=QUEUED, deleted=None).exclude(pending={}):
        states = {ref["run"] for refs in run.pending.values() for ref in refs if "run" in ref}
        makers = {maker.pk: maker for maker in Run.objects.filter(pk__in=states)}
        broken = [pk for pk in states if pk not in makers or makers[pk].status in (FAILED, CANCELLED)]
        if broken:
            _fail(run, broken[0], makers.get(broken[0]))
        elif all(makers[pk].status == SUCCEEDED for pk in states):
            _give_inputs(run, makers)


def _give_inputs(run: Run, makers: dict[int, Run]) -> None:
    found: list[RunInput] = []
    for name, references in run.pending.items():
        for position, ref in enumerate(references):
            if "artifact" in ref:
                artifact = Artifact.objects.filter(pk=ref["artifact"]).first()
            else:
                artifact = makers[ref["run"]].artifacts.filter(output=ref["output"]).first()
            if artifact is None:
                _fail(run, ref.get("run"), makers.get(ref.get("run", 0)))
                return
            found.append(RunInput(run=run, name=name, position=position, artifact=artifact))
    with transaction.atomic():
        # The filter makes this happen once, whoever settles at the same time.
        if Run.objects.filter(pk=run.pk, status=QUEUED).exclude(pending={}).update(pending={}):
            RunInput.objects.bulk_create(found)
            run.pending = {}
            transaction.on_commit(lambda: wake.up(run))


def _fail(run: Run, number: int | None, maker: Run | None) -> None:
    what = f"{maker.status}" if maker else "was deleted"
    Run.objects.filter(pk=run.pk, status=QUEUED).update(
        status=FAILED,
        ended=timezone.now(),
        version=F("version") + 1,
        error={
            "message": f"Run {number}, whose output this run waits for, {what}.",
            "hint": f"Resume run {number}, then resume this one.",
        },
    )
