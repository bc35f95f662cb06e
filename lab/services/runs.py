"""What people do with runs: submit, cancel, resume, clone, delete. How a run is executed stands in `claims`."""

import logging
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, ProtectedError
from django.utils import timezone
from pydantic import ValidationError

from core_ml import recipes
from core_ml.errors import UserError
from core_ml.execute import mismatch
from core_ml.recipe import Cost, Recipe
from lab.errors import Conflict, FieldError, Invalid
from lab.models import Account, Artifact, Run, RunInput, Tour
from lab.models.run import CANCELLED, ENDED, FAILED, INTERRUPTED, QUEUED, RUNNING, STARTING, SUCCEEDED
from lab.services import artifacts, wake
from lab.services.roots import path_errors

Inputs = dict[str, Any]
"""By input name: an artifact's id, a list of ids, or {"run": 41, "output": "checkpoint"} to wait for a run."""

logger = logging.getLogger(__name__)
UNDO_TIME = timedelta(hours=1)
"""How long a deleted run can be brought back."""


def submit(
    *,
    kind: str,
    config: dict[str, Any] | None = None,
    inputs: Inputs | None = None,
    preset: str | None = None,
    name: str | None = None,
    account: Account | None = None,
    cloned_from: Run | None = None,
    tour: Tour | None = None,
) -> Run:
    """Check everything, then queue. Raises Invalid with one error a field; nothing is stored then."""
    recipe, full, given, taken, pending, errors = _checked(kind, config, inputs, preset)
    name = (name or "").strip() or kind
    if tour is None:
        # A tour's path was weighed when the tour began, or given by the person who runs the lab.
        errors += path_errors(full, cloned_from.config if cloned_from else None)
    if len(name) > 100:
        errors.append(FieldError("name", f"the name has {len(name)} characters: use at most 100"))
    if errors:
        raise Invalid(errors)
    assert recipe is not None
    with transaction.atomic():
        run = Run.objects.create(
            kind=kind,
            name=name,
            preset=preset or "",
            config=full,
            given=given,
            pending=pending,
            created_by=account,
            cloned_from=cloned_from,
            tour=tour,
        )
        RunInput.objects.bulk_create(
            RunInput(run=run, name=name, position=position, artifact=artifact)
            for name, found in taken.items()
            for position, artifact in enumerate(found)
        )
        if not pending:
            transaction.on_commit(lambda: wake.up(run))
    return run


def estimate(
    kind: str, config: dict[str, Any] | None, inputs: Inputs | None, preset: str | None = None
) -> Cost | None:
    """What a run would take, or None where its recipe cannot say. Raises Invalid as `submit` does."""
    recipe, full, _, taken, _, errors = _checked(kind, config, inputs, preset)
    config_errors = [error for error in errors if not error.field.startswith("inputs")]
    if config_errors:
        raise Invalid(config_errors)
    assert recipe is not None
    if recipe.cost is None:
        return None
    summaries = {name: [artifact.summary for artifact in found] for name, found in taken.items()}
    return recipe.cost(recipe.config.model_validate(full), summaries)


def _checked(
    kind: str, config: dict[str, Any] | None, inputs: Inputs | None, preset: str | None
) -> tuple[
    Recipe | None, dict[str, Any], dict[str, Any], dict[str, list[Artifact]], Inputs, list[FieldError]
]:
    try:
        recipe = recipes.get(kind)
    except UserError as error:
        raise Invalid([FieldError("kind", error.message)]) from None
    errors: list[FieldError] = []
    base: dict[str, Any] = {}
    if preset:
        found = recipe.preset(preset)
        if found is None:
            names = ", ".join(preset.name for preset in recipe.presets) or "none"
            errors.append(FieldError("preset", f"{kind} has no preset {preset!r}: it has {names}"))
        else:
            base = found.config
    given = dict(config or {})
    full: dict[str, Any] = {}
    try:
        full = recipe.config.model_validate({**base, **given}).model_dump(mode="json")
    except ValidationError as error:
        errors += [_config_error(entry) for entry in error.errors()]
    taken, pending, input_errors = _matched(recipe, inputs or {})
    return recipe, full, given, taken, pending, errors + input_errors


def _config_error(entry: Any) -> FieldError:
    field = ".".join(["config", *(str(part) for part in entry["loc"])])
    value = entry.get("input")
    shown = f"{value!r}"[:60]
    if entry["type"] == "extra_forbidden":
        return FieldError(field, f"there is no field {entry['loc'][-1]!r}: remove it")
    if entry["type"] == "missing":
        return FieldError(field, "this field is needed: give it a value")
    if entry["type"] == "value_error":
        return FieldError(field, entry["msg"].removeprefix("Value error, "))
    return FieldError(field, f"{shown} will not do: {entry['msg'][0].lower()}{entry['msg'][1:]}")


def _matched(recipe: Recipe, inputs: Inputs) -> tuple[dict[str, list[Artifact]], Inputs, list[FieldError]]:
    taken: dict[str, list[Artifact]] = {}
    pending: Inputs = {}
    errors: list[FieldError] = []
    for name, value in inputs.items():
        field = f"inputs.{name}"
        if name not in recipe.takes:
            takes = ", ".join(recipe.takes) or "none"
            errors.append(FieldError(field, f"{recipe.kind} has no input {name!r}: it has {takes}"))
            continue
        references = value if isinstance(value, list) else [value] if value else []
        if len(references) > 1 and not recipe.takes[name].many:
            errors.append(FieldError(field, f"{name} takes one artifact, and {len(references)} were given"))
        for reference in references:
            try:
                ready, waiting = _resolved(recipe, name, reference)
            except UserError as error:
                errors.append(FieldError(field, error.message))
                continue
            if ready is not None:
                taken.setdefault(name, []).append(ready)
            else:
                pending.setdefault(name, []).append(waiting)
    for name in recipe.lacking(inputs):
        kind = recipe.takes[name].kind
        errors.append(
            FieldError(f"inputs.{name}", f"{recipe.kind} needs the input {name!r}: choose a {kind}")
        )
    if pending:
        # Order matters where one input takes many: those that exist go where they stand once all are there.
        for name in pending:
            pending[name] = [{"artifact": found.pk} for found in taken.pop(name, [])] + pending[name]
    return taken, pending, errors


def _resolved(recipe: Recipe, name: str, reference: Any) -> tuple[Artifact | None, Any]:
    """An artifact, or the reference to wait for. Raises UserError."""
    if isinstance(reference, dict) and "run" in reference:
        return _from_run(recipe, name, reference)
    if not isinstance(reference, str):
        raise UserError(f'{reference!r} is not an artifact: give its id, or {{"run": 1, "output": "…"}}')
    artifact = Artifact.objects.filter(pk=reference).exclude(run__deleted__isnull=False).first()
    if artifact is None:
        raise UserError(f"there is no artifact {reference[:80]!r}")
    wrong = mismatch(recipe, name, artifact.kind, artifact.what)
    if wrong:
        raise UserError(f"{artifact.name} will not do: {wrong}")
    return artifact, None


def _from_run(recipe: Recipe, name: str, reference: dict[str, Any]) -> tuple[Artifact | None, Any]:
    number, output = reference.get("run"), reference.get("output", name)
    run = (
        Run.objects.filter(pk=number, deleted=None).first()
        if isinstance(number, int) and number < 2**31
        else None
    )
    if run is None:
        raise UserError(f"there is no run {number!r}")
    made = recipes.get(run.kind).makes.get(output)
    if made is None:
        raise UserError(f"run {run.pk} ({run.kind}) makes no {output!r}")
    if run.status in (FAILED, CANCELLED):
        raise UserError(f"run {run.pk} {run.status}, so it makes no {output}: resume it first")
    if run.status == SUCCEEDED:
        artifact = run.artifacts.filter(output=output).first()
        if artifact is None:
            raise UserError(f"run {run.pk} made no {output}")
        wrong = mismatch(recipe, name, artifact.kind, artifact.what)
        if wrong:
            raise UserError(f"{artifact.name} will not do: {wrong}")
        return artifact, None
    if made.what is not None:
        wrong = mismatch(recipe, name, made.kind, made.what)
        if wrong:
            raise UserError(f"what run {run.pk} makes will not do: {wrong}")
    return None, {"run": run.pk, "output": output}


def cancel(run: Run) -> Run:
    """Ask a run to stop; one that is only queued ends at once. Raises Conflict when it has ended."""
    now = timezone.now()
    n = Run.objects.filter(pk=run.pk, status__in=(QUEUED, INTERRUPTED)).update(
        status=CANCELLED, cancel_requested=now, ended=now, token="", version=F("version") + 1
    )
    if not n:
        n = Run.objects.filter(pk=run.pk, status__in=(STARTING, RUNNING)).update(
            cancel_requested=now, version=F("version") + 1
        )
    run.refresh_from_db()
    if not n and run.status != CANCELLED:
        raise Conflict(f"run {run.pk} has {run.status} already: there is nothing to cancel")
    return run


def finish(run: Run) -> Run:
    """Ask a run to end after the step at hand, as a success, with what it has. Raises Conflict when it cannot."""
    recipe = recipes.all_recipes().get(run.kind)
    if recipe is None or not recipe.finishes:
        raise Conflict(f"a run of {run.kind} has nothing to give before its end: stop it instead")
    n = Run.objects.filter(
        pk=run.pk, status__in=(STARTING, RUNNING, INTERRUPTED), cancel_requested=None
    ).update(finish_requested=timezone.now(), version=F("version") + 1)
    run.refresh_from_db()
    if not n:
        state = "being stopped" if run.is_live and run.cancel_requested else run.status
        raise Conflict(f"run {run.pk} is {state}: only one that is at work can end with what it has")
    return run


def resume(run: Run) -> Run:
    """Queue an ended run again; it goes on from what it saved. Raises Conflict when it is not stopped or failed."""
    n = Run.objects.filter(pk=run.pk, status__in=(FAILED, CANCELLED), deleted=None).update(
        status=QUEUED,
        cancel_requested=None,
        finish_requested=None,
        ended=None,
        error=None,
        sent=None,
        token="",
        version=F("version") + 1,
    )
    run.refresh_from_db()
    if not n:
        raise Conflict(f"run {run.pk} is {run.status}: only a failed or a cancelled run can be resumed")
    run.shards.filter(status__in=(FAILED, CANCELLED)).update(
        status=QUEUED, error=None, ended=None, token="", n_deaths=0
    )
    if run.tour_id:
        Tour.objects.filter(pk=run.tour_id, status__in=(FAILED, CANCELLED)).update(
            status="running", error="", ended=None
        )
    wake.up(run)
    return run


def clone(
    run: Run, account: Account | None = None, config: dict[str, Any] | None = None, name: str | None = None
) -> Run:
    """A new run with the same recipe, config and inputs, but for what is given."""
    inputs: Inputs = {}
    for taken in run.inputs.select_related("artifact"):
        inputs.setdefault(taken.name, []).append(taken.artifact_id)
    for key, references in run.pending.items():
        inputs.setdefault(key, []).extend(reference.get("artifact", reference) for reference in references)
    return submit(
        kind=run.kind,
        config={**run.given, **(config or {})},
        inputs=inputs,
        preset=run.preset or None,
        name=name or run.name,
        account=account,
        cloned_from=run,
    )


def dependants(run: Run) -> list[Run]:
    """Runs that took, or wait for, something that this run made."""
    waiting = [
        other
        for other in Run.objects.filter(status=QUEUED, deleted=None).exclude(pending={})
        if any(ref.get("run") == run.pk for refs in other.pending.values() for ref in refs)
    ]
    took = Run.objects.filter(inputs__artifact__run=run, deleted=None).exclude(pk=run.pk).distinct()
    return [*took, *waiting]


def delete(run: Run) -> Run:
    """Hide an ended run and what it made; `restore` undoes it for an hour. Raises Conflict naming dependants."""
    others = dependants(run)
    if others:
        names = ", ".join(str(other) for other in others[:5])
        raise Conflict(
            f"{names} took what run {run.pk} made: delete {'it' if len(others) == 1 else 'them'} first"
        )
    projects = list(run.artifacts.filter(projects__isnull=False).values_list("projects__name", flat=True))
    if projects:
        raise Conflict(f"the labelling project {projects[0]!r} ranks what run {run.pk} made: delete it first")
    n = Run.objects.filter(pk=run.pk, status__in=ENDED, deleted=None).update(
        deleted=timezone.now(), version=F("version") + 1
    )
    run.refresh_from_db()
    if not n and not run.deleted:
        raise Conflict(f"run {run.pk} is {run.status}: cancel it first")
    return run


def restore(run: Run) -> Run:
    """Undo `delete`. Raises Conflict when something that the run took is deleted too."""
    maker = Run.objects.filter(artifacts__taken_by__run=run, deleted__isnull=False).exclude(pk=run.pk).first()
    if maker is not None:
        raise Conflict(f"run {run.pk} took what run {maker.pk} made, which is deleted: bring that back first")
    Run.objects.filter(pk=run.pk).update(deleted=None, version=F("version") + 1)
    run.refresh_from_db()
    return run


def purge_deleted() -> None:
    """Remove for good what was deleted longer ago than undo reaches; a few at a time."""
    for run in Run.objects.filter(deleted__lt=timezone.now() - UNDO_TIME)[:5]:
        try:
            purge(run)
        except ProtectedError:
            logger.warning("run %s stays: something still needs what it made", run.pk)


def purge(run: Run) -> None:
    """Remove a deleted run for good, with its artifacts, its metrics and its files.

    Files go first: a kill in between leaves rows, which the next sweep removes, and never files without rows,
    which `reindex` would take for a lost run.
    """
    others = RunInput.objects.filter(artifact__run=run).exclude(run=run)
    if others.exists() or Run.objects.filter(pk=run.pk, deleted=None).exists():
        return
    artifacts.remove(run)
    with transaction.atomic():
        run.inputs.all().delete()
        run.artifacts.all().delete()
        run.delete()


def rename(run: Run, name: str) -> Run:
    name = name.strip()
    if not 0 < len(name) <= 100:
        raise Invalid([FieldError("name", f"a name has 1 to 100 characters, and this has {len(name)}")])
    Run.objects.filter(pk=run.pk).update(name=name, version=F("version") + 1)
    run.refresh_from_db()
    return run
