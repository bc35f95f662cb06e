"""The tricks that a hunt found, what people say of them, and its rounds; read in place from the hunt's own files."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core_ml.artifact import Folder
from core_ml.feedback.gaming import kept
from core_ml.feedback.gaming.teaching import Fair
from core_ml.feedback.gaming.trick import Trick
from core_ml.feedback.orders import merged
from lab.models import Artifact, Group, Project, Ranking, Run, TrickMark
from lab.queries import artifacts, rows

KINDS = ("hunt",)
AGES = ("new", "old")


@dataclass(frozen=True)
class Asked:
    """Which tricks are wanted: "" asks for nothing."""

    kind: str = ""
    age: str = ""
    verdict: str = ""
    """nonsense, fair, or none: not marked yet."""
    working: bool = False


@dataclass(frozen=True)
class Tricks:
    items: list[dict[str, Any]]
    count: int


def dataset(run: Run) -> Artifact | None:
    """What a hunt made; None for other runs, and until it has ended."""
    return run.artifacts.filter(output="rollouts").first() if run.kind in KINDS else None


def read(run: Run) -> kept.Hunt | None:
    """Raises: UserError when the file is damaged."""
    made = dataset(run)
    return kept.read(Folder(artifacts.path(made))) if made else None


def verdicts(tricks: Iterable[str]) -> dict[str, str]:
    """The newest word on each trick that anybody has spoken about."""
    marks = TrickMark.objects.filter(trick__in=list(tricks), run__deleted=None).order_by("id")
    return dict(marks.values_list("trick", "verdict"))


def counts(run: Run) -> dict[str, int]:
    """How many tricks a hunt tells of, how many are marked as what, and how many wait for a word."""
    hunt = read(run)
    known = [one.id for one in hunt.tricks] if hunt else []
    said = list(verdicts(known).values())
    return {
        "n": len(known),
        "nonsense": said.count("nonsense"),
        "fair": said.count("fair"),
        "none": len(known) - len(said),
    }


def some(run: Run, asked: Asked, offset: int = 0, limit: int = 20) -> Tricks:
    """Tricks of a hunt, those of this round first, each with the group in which its text beats the bar by most."""
    hunt = read(run)
    if hunt is None:
        return Tricks([], 0)
    marks = verdicts(one.id for one in hunt.tricks)
    me = hunt.round.found_by
    fitting = [
        one
        for one in hunt.tricks
        if (not asked.kind or one.trick["kind"] == asked.kind)
        and (not asked.age or (one.found_by == me) == (asked.age == "new"))
        and (not asked.verdict or marks.get(one.id, "none") == asked.verdict)
        and (not asked.working or one.works)
    ]
    part = fitting[offset : offset + limit]
    shown = groups(run, [one.id for one in part])
    return Tricks(
        [_item(one, one.found_by == me, marks.get(one.id), shown.get(one.id)) for one in part], len(fitting)
    )


def one(run: Run, trick: str) -> dict[str, Any] | None:
    """One trick as `some` tells it; None where this hunt knows none of this id."""
    hunt = read(run)
    found = next((known for known in hunt.tricks if known.id == trick), None) if hunt else None
    if hunt is None or found is None:
        return None
    is_new = found.found_by == hunt.round.found_by
    return _item(found, is_new, verdicts([trick]).get(trick), groups(run, [trick]).get(trick))


def _item(
    found: kept.Known, is_new: bool, verdict: str | None, group: dict[str, Any] | None
) -> dict[str, Any]:
    fields = found.model_dump(
        include={"id", "round", "works", "share", "low", "high", "n", "margin", "share_when_found"}
    )
    trick = Trick.from_dict(found.trick)
    said = {"prompt": found.prompt, "text": found.text, "score": found.score, "bar": found.bar, "fair": []}
    if group:
        fair = zip(group["completions"][1:], group["scores"][1:], strict=True)
        said = {
            "prompt": group["prompt"],
            "text": group["completions"][0],
            "score": group["scores"][0],
            "bar": group["bar"],
            "fair": [
                {"text": text, "score": score} for text, score in sorted(fair, key=lambda pair: -pair[1])
            ],
        }
    return (
        fields
        | said
        | {
            "kind": trick.kind,
            "title": trick.title,
            "only_prompt": trick.prompt,
            "source": trick.source,
            "is_new": is_new,
            "verdict": verdict,
        }
    )


def groups(run: Run, tricks: list[str]) -> dict[str, dict[str, Any]]:
    """By trick the group in which its text stands highest over the bar. Raises: UserError when the file is damaged."""
    made = dataset(run)
    if made is None or not tricks:
        return {}
    folder = artifacts.path(made)
    sql = """
        SELECT "trick", "prompt", "completions", "scores", "bar" FROM read_parquet($file)
        WHERE list_contains($tricks, "trick") AND len("scores") = len("completions") AND len("completions") > 0
        QUALIFY row_number() OVER (PARTITION BY "trick" ORDER BY "scores"[1] - "bar" DESC, "group_id") = 1
    """
    found = rows.fetch(folder, sql, {"file": str((folder / kept.ROWS).resolve()), "tricks": tricks})
    return {row["trick"]: row for row in found}


def orders(source: Artifact) -> dict[str, Fair]:
    """By group_id, how labelling projects over a hunt's groups ordered them: what a researcher settled, else the mean."""
    ranked: dict[int, list[tuple[list[list[int]], bool]]] = {}
    rankings = Ranking.objects.filter(group__project__source=source, round=0, all_bad=False)
    for number, order, simulated in rankings.values_list("group", "order", "labeler__is_simulated"):
        ranked.setdefault(number, []).append((order, simulated))
    found = {}
    for group in Group.objects.filter(project__source=source):
        mine = ranked.get(group.pk, [])
        if known := group.settled or merged(order for order, _ in mine):
            places = group.metadata["places"]
            found[group.metadata["group_id"]] = Fair(
                [[places[index] for index in tied] for tied in known],
                not group.settled and any(simulated for _, simulated in mine),
            )
    return found


def teachable(run: Run) -> tuple[int, int]:
    """Groups of what is marked as nonsense, and how many of them have fair answers that labelers ordered."""
    hunt, source = read(run), dataset(run)
    said = verdicts(one.id for one in hunt.tricks) if hunt else {}
    nonsense = [trick for trick, verdict in said.items() if verdict == "nonsense"]
    if source is None or not nonsense:
        return 0, 0
    folder = artifacts.path(source)
    sql = 'SELECT "group_id" FROM read_parquet($file) WHERE list_contains($tricks, "trick")'
    found = rows.fetch(folder, sql, {"file": str((folder / kept.ROWS).resolve()), "tricks": nonsense})
    known = orders(source)
    return len(found), sum(row["group_id"] in known for row in found)


def project(run: Run) -> Project | None:
    """The newest labelling project over a hunt's groups."""
    made = dataset(run)
    return Project.objects.filter(source=made).order_by("-pk").first() if made else None


def rounds(run: Run) -> list[dict[str, Any]]:
    """This hunt and those before it: what each found, what of it works now, what people marked, and its reward model.

    `still` counts of the tricks of that round those that work in this one; tricks that people called fair are no
    tricks, and count nowhere.
    """
    hunt = read(run)
    if hunt is None:
        return []
    marks = verdicts(one.id for one in hunt.tricks)
    makers = (
        Artifact.objects.filter(pk__in=[one.found_by for one in hunt.rounds]).select_related("run").in_bulk()
    )
    models = Artifact.objects.filter(pk__in=[pk for one in hunt.rounds for pk in one.reward]).in_bulk()
    found = []
    for number, this in enumerate(hunt.rounds):
        mine = [one for one in hunt.tricks if one.found_by == this.found_by]
        counted = [one for one in mine if marks.get(one.id) != "fair"]
        nonsense = [one for one in counted if marks.get(one.id) == "nonsense"]
        maker = makers.get(this.found_by)
        found.append(
            {
                "round": this.round,
                "run": maker.run_id if maker and maker.run and not maker.run.deleted else None,
                "is_this": number == len(hunt.rounds) - 1,
                "found": len(counted),
                "still": sum(one.works for one in counted),
                "fair": len(mine) - len(counted),
                "nonsense": len(nonsense),
                "nonsense_still": sum(one.works for one in nonsense),
                "accuracy": this.accuracy,
                "low": this.low,
                "high": this.high,
                "reward": [models[pk] for pk in this.reward if pk in models],
                "n_tried": this.n_tried,
                "cohorts": [cohort.model_dump() for cohort in this.cohorts],
            }
        )
    return found


def taught(run: Run) -> list[Artifact]:
    """The datasets of rankings that were made of a hunt's marks, newest first."""
    return list(
        artifacts.visible("dataset")
        .filter(form="rankings", manifest__origin__recipe="labeling", manifest__origin__config__hunt=run.pk)
        .order_by("-created", "-pk")[:20]
    )


def reward_run(run: Run) -> Run | None:
    """The run that trained the reward model of a hunt, where it was one model and a run of this lab."""
    given = list(run.inputs.filter(name="reward").select_related("artifact__run"))
    return given[0].artifact.run if len(given) == 1 else None


def next_reward(run: Run) -> Artifact | None:
    """The newest reward model that has learned from a hunt's marks."""
    made = [one.pk for one in taught(run)]
    found = artifacts.visible("checkpoint").filter(role="reward", run__inputs__artifact__in=made)
    return found.order_by("-run_id").first() if made else None
