"""A judge model asked to vote: a run over all battles that are over is queued, and its verdicts are votes when it has ended."""

from lab.errors import FieldError, Invalid
from lab.models import Account, Artifact, Run, RunInput
from lab.models.run import SUCCEEDED
from lab.services import runs
from lab.services.arena.export import export_battles
from lab.services.arena.judgements import import_judgements

KIND = "judge"
TAKEN = "votes"
"""Of a run's summary, once its verdicts were taken: how many are votes."""
JUDGES = ("chat", "reasoner", "aligned")


def ask_judge(model: str, account: Account | None = None) -> Run:
    """Queue a run in which a model judges all battles that are over.

    Args:
        model: id of a checkpoint of the lab that answers, or a name that the engine knows.
    Raises: Conflict where no battle is over, Invalid when the model will not do.
    """
    if not model.strip():
        raise Invalid([FieldError("model", "no model is chosen: name the one that is to judge")])
    own = Artifact.objects.filter(pk=model, kind="checkpoint").first()
    if own is not None and own.role not in JUDGES:
        raise Invalid(
            [FieldError("model", f"{own.name} is a {own.role} model and answers nothing: choose another")]
        )
    battles = export_battles(account, asked=True)
    inputs: runs.Inputs = {"answers": battles.pk, **({"checkpoint": own.pk} if own else {})}
    return runs.submit(
        kind=KIND,
        name=f"judges the arena: {own.name if own else model}"[:100],
        config={"n_groups": max(1, battles.summary["n_rows"])} | ({} if own else {"model": model}),
        inputs=inputs,
        account=account,
    )


def take_verdicts() -> None:
    """Store what runs that were asked from the arena came to. Called by the sweep; done twice, it counts once."""
    asked = RunInput.objects.filter(
        name="answers",
        artifact__manifest__origin__recipe="arena",
        artifact__manifest__origin__config__asked=True,
        run__kind=KIND,
        run__status=SUCCEEDED,
        run__deleted=None,
    ).exclude(run__summary__has_key=TAKEN)
    for given in asked.select_related("run__created_by").order_by("run"):
        run = given.run
        made = run.artifacts.filter(output="rankings").first()
        try:
            n = import_judgements(made, run.created_by).votes if made else 0
        except Invalid:
            n = 0  # its battles were removed meanwhile; brought in by hand, the verdicts say so
        Run.objects.filter(pk=run.pk).update(summary=run.summary | {TAKEN: n})
