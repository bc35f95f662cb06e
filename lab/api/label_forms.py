"""What the labelling endpoints take and answer."""

from datetime import datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import Field

from lab.api.base import Given, Page
from lab.models import FLAGS
from lab.services import labeling as services

Index = Annotated[int, Field(ge=0, le=10_000)]
Order = Annotated[
    list[Annotated[list[Index], Field(max_length=1000)]],
    Field(max_length=1000, description="Best first; answers in one list are tied: [[2], [0, 3], [1]]."),
]
Flags = Annotated[list[str], Field(max_length=20, description=f"Among: {', '.join(FLAGS)}.")]
Every = Annotated[int, Field(ge=0, le=services.MAX_EVERY)]
ExampleText = Annotated[str, Field(max_length=5000)]


class Example(Given):
    """An example beside the instructions."""

    prompt: ExampleText = ""
    better: ExampleText = ""
    worse: ExampleText = ""
    why: ExampleText = ""


class ProjectIn(Given):
    name: str = Field(min_length=1, max_length=100)
    source: str = Field(max_length=80, description="Id of a dataset of the form rollouts.")
    instructions: str = Field("", max_length=10_000)
    rankings_per_group: int = Field(1, ge=1, le=services.MAX_RANKINGS_PER_GROUP)
    examples: list[Example] = Field([], max_length=10)
    flags: Flags = list(FLAGS)
    scale: int = Field(0, description="Marks for each answer, 1 the worst: 5 or 7, or 0 for none.")
    asks_comment: bool = False
    asks_correction: bool = Field(
        False, description="Labelers may write the answer that they would have liked."
    )
    next_group: Literal["random", "uncertain"] = "random"
    gold_every: Every = Field(10, description="One in so many groups is gold, while there are gold ones.")
    repeat_every: Every = Field(0, description="One in so many groups is one that the labeler ranked before.")


class ProjectChange(Given):
    """Only what is named changes."""

    name: str | None = Field(None, min_length=1, max_length=100)
    instructions: str | None = Field(None, max_length=10_000)
    rankings_per_group: int | None = Field(None, ge=1, le=services.MAX_RANKINGS_PER_GROUP)
    examples: list[Example] | None = Field(None, max_length=10)
    flags: Flags | None = None
    scale: int | None = None
    asks_comment: bool | None = None
    asks_correction: bool | None = None
    next_group: Literal["random", "uncertain"] | None = None
    gold_every: Every | None = None
    repeat_every: Every | None = None


class ProjectOut(Schema):
    id: int
    name: str
    instructions: str
    source: str
    rankings_per_group: int
    groups: int = Field(description="Gold groups are not counted.")
    rankings: int
    wanted: int
    created: datetime
    closed: datetime | None
    examples: list[dict[str, str]]
    flags: list[str]
    scale: int
    asks_comment: bool
    asks_correction: bool


class LabelerPart(Schema):
    labeler: str
    simulated: bool
    rankings: int
    median_seconds: float
    last: datetime
    gold: int = Field(description="Gold groups that they ranked.")
    gold_right: int = Field(
        description="Of the pairs of answers that gold puts in an order, those they put so too."
    )
    gold_pairs: int
    repeated: int = Field(description="Groups that they ranked twice.")
    self_agreement: float | None = Field(
        description="Share of pairs on which both of their rankings say the same."
    )
    self_pairs: int


class ProjectWhole(ProjectOut):
    next_group: str
    gold_every: int
    repeat_every: int
    ranked: int
    simulated: int
    all_bad: int
    leased: int
    skipped: int
    gold: int
    settled: int
    uncertain: int = Field(description="Groups that carry an uncertainty.")
    labelers: list[LabelerPart]


class Html(Schema):
    prompt: str
    completions: list[str]


class Task(Schema):
    id: int
    project: int
    index: int
    prompt: str
    completions: list[str]
    shown: list[int] = Field(
        description="The completions' indices in the order of this labeler's screen, from above."
    )
    cut_off: list[bool]
    """By answer: whether the model was stopped at its limit instead of ending by itself."""
    mine: int
    rankings: int
    wanted: int
    html: Html | None = Field(None, description="Markdown and mathematics as safe HTML, when asked for.")


class LeaseOut(Schema):
    expires: datetime


class RankingIn(Given):
    order: Order
    all_bad: bool = False
    flags: dict[str, list[str]] = Field({}, description="By answer, among the project's flags.")
    marks: dict[str, Annotated[int, Field(ge=0, le=100)]] = Field({}, description="By answer, on the scale.")
    comment: str = Field("", max_length=services.MAX_TEXT)
    correction: str = Field("", max_length=services.MAX_TEXT)
    seconds: float = Field(0, ge=0, le=services.MAX_SECONDS)
    submission: str = Field(
        "", max_length=64, description="Your own name of this hand-in: what is sent twice counts once."
    )


class Said(Schema):
    order: list[list[int]]
    all_bad: bool
    flags: dict[str, list[str]]
    marks: dict[str, int]
    comment: str
    correction: str


class RankingOut(Said):
    id: int
    task: int
    shown: list[int]
    seconds: float


class UndoneOut(Said, Task):
    """The task at hand again, with the ranking that it had."""


class MeasuredOut(Schema):
    value: float | None
    low: float | None
    high: float | None


class OfLabeler(Schema):
    labeler: str
    simulated: bool
    pairs: int
    agreement: MeasuredOut
    alpha: MeasuredOut


class OfFlag(Schema):
    flag: str
    unit: str
    marked: int
    share: float
    agreement: MeasuredOut
    alpha: MeasuredOut


class BetweenOut(Schema):
    labelers: list[str]
    simulated: list[bool]
    pairs: int
    agreement: float | None
    with_ties: float | None


class DisputeOut(Schema):
    task: int
    prompt: str
    tau_b: float
    orders: dict[str, list[list[int]]]


class OfPrograms(MeasuredOut):
    groups: int
    pairs: int


class AgreementWhole(Schema):
    among: Literal["people", "programs"] = Field(
        description="Whose agreement it is: people's, or that of programs where no person ranked."
    )
    programs: OfPrograms | None = Field(
        description="The same share of programs with each other, where people are measured and two programs ranked."
    )
    groups: int
    pairs: int
    agreement: float | None = Field(
        description="Of the pairs that two labelers put in an order, those alike."
    )
    low: float | None
    high: float | None
    with_ties: MeasuredOut = Field(description="The same with a tie as a third verdict.")
    alpha: MeasuredOut = Field(description="Krippendorff's, ordinal.")
    tau_b: float | None
    labelers: list[OfLabeler]
    flags: list[OfFlag]
    between: list[BetweenOut]
    disputes: list[DisputeOut]


class OrdersOut(Schema):
    """A held-out group as the labelers order it and as a reward model does."""

    task: int
    prompt: str
    completions: list[str]
    scores: list[float] = Field(description="By answer; 0 is the mean of the ranked answers, 1 their spread.")
    labelers_order: list[list[int]] = Field(
        description="All rankings as one, best first; who was not placed is not named."
    )
    model_order: list[list[int]]
    pairs: int
    agree: int = Field(description="Of the pairs in the labelers' order, those that the model orders alike.")
    rankings: int
    simulated: int = Field(description="Of the rankings, those by a program that plays a labeler.")


class HeldOutOut(Schema):
    """A held-out group of any reward model; nothing is said of its texts where its dataset is gone."""

    group_id: str
    dataset: str | None = Field(description="Id of the dataset of rankings that it stands in.")
    project: int | None = Field(description="The labelling project that it belongs to, where it does.")
    task: int | None = Field(description="Its number there.")
    prompt: str | None
    completions: list[str] | None
    scores: list[float] = Field(description="By answer; 0 is the mean of the ranked answers, 1 their spread.")
    shares: list[float] = Field(description="The same between 0 and 1, by the sigmoid.")
    raw: list[float] = Field(description="The network's own numbers.")
    labelers_order: list[list[int]]
    model_order: list[list[int]]
    pairs: int
    agree: int
    rankings: int
    simulated: int

    @staticmethod
    def resolve_dataset(item: Any) -> str | None:
        return item["dataset"].pk if item["dataset"] else None


class OrdersPage(Page[OrdersOut]):
    model: str | None = Field(
        description="Id of the reward model; none when no model learned from this project."
    )


class GroupOut(Schema):
    id: int
    group_id: str = Field(description="As the dataset names it.")
    prompt: str
    completions: list[str]
    rankings: int
    gold: list[list[int]] | None
    uncertainty: float | None
    settled: list[list[int]] | None
    settled_by: str | None
    settled_note: str


class CorrectionIn(Given):
    dataset: str = Field(max_length=80, description="Id of a dataset of the form rankings.")
    group_id: str = Field(max_length=200, description="As the dataset names the group.")


class CorrectionOut(Schema):
    project: int = Field(description="The project that holds corrections of the dataset.")
    task: int = Field(description="Settle this one.")


class GoldIn(Given):
    order: Order | None = Field(description="The known order; null makes it an ordinary group again.")


class SettlementIn(Given):
    order: Order
    note: str = Field("", max_length=services.MAX_TEXT)


class UncertaintyIn(Given):
    scores: dict[Annotated[str, Field(max_length=200)], float] = Field(
        max_length=100_000,
        description="By the group's id in the dataset; the higher, the sooner it is shown.",
    )


class UncertaintyOut(Schema):
    groups: int


def settings(data: ProjectIn | ProjectChange) -> dict[str, Any]:
    """What was named of a project's settings."""
    given = data.model_dump(exclude={"source"}, exclude_unset=isinstance(data, ProjectChange))
    return {name: value for name, value in given.items() if value is not None}
