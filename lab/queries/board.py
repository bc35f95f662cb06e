"""The home map: which stones stand where, and which lines join them.

Columns are the stages of the life, rows are lineages: a chain of stones from its first run to its last, each
fed by the one before. The map is read from the rows of the database alone (runs, what they took, what they
wait for, and projects), so it needs no upkeep. Units are those of the board: 38 across, one row line each.
"""

from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count

from core_ml import recipes
from lab.models import Artifact, Contender, Project, Run, RunInput, Vote
from lab.models.run import LIVE
from lab.queries.artifacts import inputs_of

COLUMNS = {"pages": 3, "tokens": 8, "base": 14, "assistant": 20, "reasoner": 25, "aligned": 30, "arena": 35}
KIND_COLUMNS = {"conversations": 3, "rollouts": 20, "evaluate": 35}
"""Runs that make data for a later stage stand beside what they come from; report cards where models are compared."""
PROJECT_COLUMN = 25
N_RUNS = 120
"""The newest runs that the map considers; older lineages are counted, not drawn."""
N_ROWS = 5
ROW = 3
NEAR = 4.5
"""Two stones of one chain that would stand nearer than this get rows of their own."""
LABEL = 2.7
"""Half the width of a stone's label: nothing else may stand so near in the same row."""
N_SMALL = 5
"""A sweep of more runs becomes one stack."""


@dataclass
class Stone:
    """One intersection: a run, a project, or a stack of sweep runs."""

    id: str
    x: float
    order: int
    """Grows with time."""
    run: Run | None = None
    project: Project | None = None
    planned: str = ""
    arena: tuple[int, int] | None = None
    """Where models met: how many of them, and votes on them."""
    links: list[tuple[str, int]] = field(default_factory=list)
    """(id of a stone that feeds this one, priority of the input: 0 is the main one)."""
    parent: str | None = None
    y: float = 0
    small: bool = False
    stack: list[Run] = field(default_factory=list)
    n_left: int = 0
    n_groups: int = 0
    """Of a project: the groups that want a ranking, and all of them."""

    @property
    def is_live(self) -> bool:
        if self.project:
            return self.project.closed is None and self.n_left > 0
        return bool(self.run and self.run.status in LIVE and self.run.status != "queued")

    @property
    def is_waiting(self) -> bool:
        return bool(self.planned or (self.run and self.run.status == "queued"))


@dataclass
class Board:
    stones: list[Stone]
    links: list[dict[str, Any]]
    n_rows: int
    """Height in units of the board."""
    n_more: int
    """Runs that are not drawn."""


def board(only: set[int] | None = None) -> Board:
    """The map of the newest runs, or of the runs with these numbers."""
    stones = _stones(only)
    _choose_parents(stones)
    _stack_sweeps(stones)
    rows = _rows(stones)
    drawn = [stone for stone in stones.values() if stone.id in rows]
    low = min(rows.values(), default=0)
    lines = max(rows.values(), default=0) - low + 1
    top = 5 if lines == 1 else 4
    for stone in drawn:
        stone.y = top + ROW * (rows[stone.id] - low)
    height = max(9, top + ROW * (lines - 1) + 3)
    n_all = len(only) if only is not None else Run.objects.filter(deleted=None).count()
    n_drawn = sum(max(1, len(stone.stack)) for stone in drawn if stone.run)
    # In the order in which they were played, people's after the answers that they rank: so a phone lists them.
    played = sorted(drawn, key=lambda stone: (stone.order, stone.run is None, stone.x))
    return Board(played, _links(drawn), height, n_all - n_drawn)


def _stones(only: set[int] | None) -> dict[str, Stone]:
    """Every run and project as a stone, with what feeds it."""
    kinds = recipes.all_recipes()
    visible = Run.objects.filter(deleted=None)
    runs = list((visible if only is None else visible.filter(pk__in=only)).order_by("-id")[:N_RUNS])
    stones = {}
    for run in runs:
        stage = kinds[run.kind].stage if run.kind in kinds else "pages"
        column = KIND_COLUMNS.get(run.kind, COLUMNS[stage])
        stones[f"run-{run.pk}"] = Stone(f"run-{run.pk}", column, run.pk, run=run)
    projects = list(Project.objects.select_related("source"))
    for project in projects:
        source = f"run-{project.source.run_id}"
        if source in stones:
            stone = Stone(f"project-{project.pk}", PROJECT_COLUMN, stones[source].order, project=project)
            stone.links.append((source, 0))
            stone.n_left, stone.n_groups = waiting_groups(project)
            stones[stone.id] = stone
    taken = RunInput.objects.filter(run__in=[run.pk for run in runs]).select_related("artifact")
    for given in taken.order_by("run_id", "id"):
        maker = _maker(given.artifact, projects)
        if maker in stones and maker != f"run-{given.run_id}":
            stones[f"run-{given.run_id}"].links.append((maker, _priority(given.artifact.kind, maker)))
    for run in runs:
        for name, references in run.pending.items():
            wanted = kinds[run.kind].takes.get(name) if run.kind in kinds else None
            for reference in references:
                maker = f"run-{reference.get('run')}"
                if maker in stones:
                    kind = wanted.kind if wanted else "dataset"
                    stones[f"run-{run.pk}"].links.append((maker, _priority(kind, maker)))
    _plan(stones, projects)
    if only is None:
        _meet(stones)
    return stones


def _meet(stones: dict[str, Stone]) -> None:
    """One stone for the arena, fed by the runs whose models are drawn there; what learns from its votes goes on elsewhere."""
    contenders = Contender.objects.filter(checkpoint__run__in=[s.run.pk for s in stones.values() if s.run])
    makers = list(dict.fromkeys(contenders.values_list("checkpoint__run_id", flat=True)))
    if makers:
        met = Stone("arena", COLUMNS["arena"], max(s.order for s in stones.values()) + 1)
        met.arena = Contender.objects.count(), Vote.objects.count()
        met.links = [(f"run-{pk}", 1) for pk in sorted(makers, reverse=True)]
        stones[met.id] = met


def _maker(artifact: Artifact, projects: list[Project]) -> str:
    """The stone that an artifact comes from: rankings come from people, all else from a run."""
    if artifact.form == "rankings":
        for project in projects:
            if str(artifact.summary.get("project")) in (str(project.pk), project.name):
                return f"project-{project.pk}"
        # What a run made of a dataset that is corrected too is the run's.
        sources = [] if artifact.run_id else inputs_of(artifact)
        for project in projects:
            if project.source_id in sources:
                return f"project-{project.pk}"
        if isinstance(marked := artifact.summary.get("hunt"), int):
            return f"run-{marked}"
    return f"run-{artifact.run_id}"


def _priority(kind: str, maker: str) -> int:
    if maker.startswith("project"):
        return 0
    return {"checkpoint": 1, "tokenizer": 2}.get(kind, 3)


def _plan(stones: dict[str, Stone], projects: list[Project]) -> None:
    """An open project from which nothing has learned yet leaves room for a reward model."""
    fed = {link for stone in stones.values() for link, _ in stone.links}
    for project in projects:
        source = f"project-{project.pk}"
        if source in stones and source not in fed and project.closed is None:
            planned = Stone(
                f"planned-{project.pk}", COLUMNS["aligned"], stones[source].order, planned="reward"
            )
            planned.links.append((source, 0))
            planned.project = None
            stones[planned.id] = planned


def waiting_groups(project: Project) -> tuple[int, int]:
    """How many groups of a project still want a ranking, or to be settled, and how many it has."""
    if project.corrects:
        return project.groups.filter(settled__isnull=True).count(), project.groups.count()
    groups = project.groups.annotate(n=Count("rankings"))
    return groups.filter(n__lt=project.rankings_per_group).count(), groups.count()


def _choose_parents(stones: dict[str, Stone]) -> None:
    """Of what feeds a stone, the one whose row it continues: people first, and of them the last that were asked; then
    weights, then data; the nearest. A model that goes on practising stands by the newest of what it took in its column.
    """
    for stone in stones.values():
        if not stone.links:
            continue
        goes_on = any(_is_kin(stones[source], stone) for source, _ in stone.links)

        def key(entry: tuple[int, tuple[str, int]], stone: Stone = stone, goes_on: bool = goes_on) -> Any:
            place, (source, priority) = entry
            before = stones[source]
            here = goes_on and before.x == stone.x
            age = before.order if here or before.project else 0
            return priority, not here, before.x >= stone.x, -before.x, -age, place

        stone.parent = min(enumerate(stone.links), key=key)[1][0]


def _is_kin(source: Stone, stone: Stone) -> bool:
    """Whether a run took what one of its own kind made, as a second turn of practice does."""
    return bool(source.run and stone.run and source.run.kind == stone.run.kind)


def _stack_sweeps(stones: dict[str, Stone]) -> None:
    """Siblings of one kind on which nothing was built, three or more, become small stones or one stack."""
    feeds = {link for stone in stones.values() for link, _ in stone.links}
    families: dict[tuple[str, str], list[Stone]] = {}
    for stone in stones.values():
        if (
            stone.run
            and not stone.is_live
            and not stone.is_waiting
            and stone.id not in feeds
            and stone.parent
        ):
            families.setdefault((stone.run.kind, stone.parent), []).append(stone)
    for family in families.values():
        if len(family) < 3:
            continue
        family.sort(key=lambda stone: stone.order)
        if len(family) > N_SMALL:
            newest = family.pop()
            newest.stack = [stone.run for stone in family if stone.run] + [newest.run]  # type: ignore[list-item]
            for stone in family:
                del stones[stone.id]
            continue
        for place, stone in enumerate(family):
            stone.small = True
            stone.x += 2 * (place - (len(family) - 1) // 2)
            if place:
                stone.parent = family[place - 1].id


def _rows(stones: dict[str, Stone]) -> dict[str, int]:
    """A row for each stone, 0 the main lineage's; chains that would not fit on the map are left out."""
    rows: dict[str, int] = {}
    taken: dict[int, list[tuple[float, float]]] = {}
    for chain in _chains(stones):
        parent = stones[chain[0].parent] if chain[0].parent else None
        half = 1 if chain[-1].small else LABEL
        start, end = chain[0].x - half, chain[-1].x + half
        if parent:
            start = min(start, parent.x - 0.5)
        row = None
        if parent is None or parent.id in rows:
            row = _free_row(taken, rows, stones, start, end, parent)
        if row is None:
            continue
        taken.setdefault(row, []).append((start, end))
        rows.update({stone.id: row for stone in chain})
    return rows


def _chains(stones: dict[str, Stone]) -> list[list[Stone]]:
    """The forest of parents cut into chains that run to the right: the longest first, then what is live, then the newest.

    A chain never comes before the one that it branches off.
    """
    left = dict(stones)
    chains: list[list[Stone]] = []
    while left:
        tails = [_tail(stone, stones, left) for stone in left.values()]
        tails.sort(key=lambda chain: (len(chain), chain[-1].order), reverse=True)
        chains.append(tails[0])
        for stone in tails[0]:
            del left[stone.id]
    main, others = chains[:1], chains[1:]
    others.sort(
        key=lambda chain: (any(s.is_live for s in chain), not chain[-1].small, chain[-1].order), reverse=True
    )
    found, placed = list(main), {stone.id for chain in main for stone in chain}
    while others:
        chain = next((one for one in others if one[0].parent is None or one[0].parent in placed), others[0])
        others.remove(chain)
        found.append(chain)
        placed |= {stone.id for stone in chain}
    return found


def _tail(stone: Stone, stones: dict[str, Stone], left: dict[str, Stone]) -> list[Stone]:
    """The chain that ends in a stone: back along parents while they are free and stand far enough to the left."""
    chain = [stone]
    while (parent := chain[0].parent) and parent in left:
        if chain[0].x - stones[parent].x < (1 if chain[0].small else NEAR):
            break
        chain.insert(0, stones[parent])
        if chain[1].small and not chain[0].small:
            # A sweep is a row of its own beside what it varies.
            del chain[0]
            break
    return chain


def _free_row(
    taken: dict[int, list[tuple[float, float]]],
    rows: dict[str, int],
    stones: dict[str, Stone],
    start: float,
    end: float,
    parent: Stone | None,
) -> int | None:
    """The free row nearest to the parent's: away from the main row first, and never past a stone in the way."""
    home = rows[parent.id] if parent else 0
    sign = -1 if home < 0 else 1
    orders = [home + sign * step for step in (0, 1, -1, 2, -2, 3, -3, 4, -4)]
    if not parent:
        orders = [0, -1, 1, -2, 2, -3, 3]
    for row in orders:
        between = range(min(home, row) + 1, max(home, row))
        blocked = parent and any(rows[id] in between and stones[id].x == parent.x for id in rows)
        free = all(end <= other_start or start >= other_end for other_start, other_end in taken.get(row, []))
        used = [*taken, row]
        if free and not blocked and max(used) - min(used) < N_ROWS:
            return row
    return None


def _links(stones: list[Stone]) -> list[dict[str, Any]]:
    """Lines of the map as SVG paths; what a stone takes by way of another stone is not drawn twice."""
    by_id = {stone.id: stone for stone in stones}
    above: dict[str, set[str]] = {}

    def ancestors(id: str) -> set[str]:
        if id not in above:
            above[id] = set()
            for source, _ in by_id[id].links:
                if source in by_id:
                    above[id] |= {source} | ancestors(source)
        return above[id]

    drawn = []
    for stone in stones:
        sources = {source for source, _ in stone.links if source in by_id} | {stone.parent} & set(by_id)
        if stone.small and stone.parent:
            sources = {stone.parent}
        for source in sources - {None}:
            others = sources - {source}
            if source != stone.parent and any(source in ancestors(other) for other in others):
                continue
            look = "now" if stone.is_live else "wait" if stone.is_waiting else ""
            drawn.append(
                {"path": _path(by_id[source], stone, stones), "look": look, "from": source, "to": stone.id}
            )
    return sorted(drawn, key=lambda link: link["look"] == "now")


def _path(source: Stone, target: Stone, stones: list[Stone]) -> str:
    """Straight along a row, else one corner: first down or up, then along; the other way where a stone is in the way.

    What leads back to an earlier stage, as a second turn does, goes between the rows.
    """
    x1, y1, x2, y2 = (round(32 * value) for value in (source.x, source.y, target.x, target.y))
    if y1 == y2 or x1 == x2:
        return f"M{x1} {y1}L{x2} {y2}"
    if x2 < x1:
        between = y2 - 32 if y2 > y1 else y1 - 32
        return f"M{x1} {y1}L{x1} {between}L{x2} {between}L{x2} {y2}"
    low, high = sorted((source.y, target.y))
    in_the_way = [s for s in stones if s.x == source.x and low <= s.y <= high and s is not source]
    if in_the_way:
        return f"M{x1} {y1}L{x2} {y1}L{x2} {y2}"
    return f"M{x1} {y1}L{x1} {y2}L{x2} {y2}"
