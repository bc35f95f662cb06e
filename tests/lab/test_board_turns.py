"""The home's board of a life in which people were asked twice: the second turn has a row of its own, below the first."""

import pytest
from django.utils import timezone

from lab.models import Artifact, Project
from lab.queries.board import Board, board
from tests.lab.test_pages_home import make_artifact, make_run

pytestmark = pytest.mark.django_db


def asked(name: str, rollouts: Artifact) -> tuple[Project, Artifact]:
    """A project over some answers, and its rankings."""
    project = Project.objects.create(name=name, source=rollouts, closed=timezone.now())
    rankings = Artifact.objects.create(
        id=f"{name}-rankings", kind="dataset", form="rankings", name=name, path=name, size=1,
        summary={"project": project.pk}, manifest={}, created=timezone.now(),
    )  # fmt: skip
    return project, rankings


@pytest.fixture
def stones():
    """Where every stone stands, by a short name, and the board."""
    made = {}

    def run(name, kind, output, what, **takes):
        given = [
            (key, one)
            for key, value in takes.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        made[name] = make_run(kind, name, takes=given)
        return make_artifact(made[name], output, "dataset" if output == "rollouts" else "checkpoint", what)

    base = run("base", "pretrain", "checkpoint", "base")
    chat = run("chat", "sft", "checkpoint", "chat", checkpoint=base)
    answers = run("answers", "rollouts", "rollouts", "rollouts", checkpoint=chat)
    made["people"], rankings = asked("one", answers)
    reward = run("reward", "reward", "checkpoint", "reward", checkpoint=chat, rankings=rankings)
    aligned = run("aligned", "rlhf", "checkpoint", "aligned", checkpoint=chat, reward=reward)
    again = run("answers 2", "rollouts", "rollouts", "rollouts", checkpoint=aligned)
    made["people 2"], more = asked("two", again)
    judge = run(
        "reward 2",
        "reward",
        "checkpoint",
        "reward",
        checkpoint=chat,
        rankings=[rankings, more],
        earlier=reward,
    )
    last = run("aligned 2", "rlhf", "checkpoint", "aligned", checkpoint=aligned, reference=chat, reward=judge)
    run(
        "card",
        "evaluate",
        "report",
        "rollouts",
        checkpoints=[base, chat, aligned, last],
        reward=[reward, judge],
    )
    drawn = board()
    at = {stone.id: stone for stone in drawn.stones}
    names = {
        name: f"{'project' if isinstance(one, Project) else 'run'}-{one.pk}" for name, one in made.items()
    }
    return {name: at[id] for name, id in names.items() if id in at}, drawn


def links(drawn: Board, stones: dict) -> dict[tuple[str, str], str]:
    names = {stone.id: name for name, stone in stones.items()}
    return {(names[link["from"]], names[link["to"]]): link["path"] for link in drawn.links}


def test_each_turn_has_its_row_from_answers_to_reward_model(stones):
    at, drawn = stones
    assert drawn.n_more == 0 and len(at) == 11
    first, second = (
        [at[f"{name}{turn}"].y for name in ("answers", "people", "reward")] for turn in ("", " 2")
    )
    assert len(set(first)) == len(set(second)) == 1
    main = at["chat"].y
    assert main == at["aligned"].y == at["card"].y
    assert {main, first[0], second[0], at["aligned 2"].y} == {main - 3, main, main + 3, main + 6}
    assert at["aligned 2"].y - second[0] == 3  # below the reward model that it practised against


def test_stones_are_listed_as_they_were_played_with_people_after_what_they_ranked(stones):
    at, drawn = stones
    listed = [stone.id for stone in drawn.stones]
    names = ["answers", "people", "reward", "answers 2", "people 2", "reward 2"]
    places = [listed.index(at[name].id) for name in names]
    assert places == sorted(places)
    assert [places[i + 1] - places[i] for i in (0, 3)] == [1, 1]


def test_the_second_reward_model_comes_from_the_last_people_that_were_asked(stones):
    at, drawn = stones
    told = links(drawn, at)
    assert at["reward 2"].parent == at["people 2"].id
    # What it takes by way of the second turn (chat model, first rankings, first reward model) is not drawn again.
    assert {source for source, target in told if target == "reward 2"} == {"people 2"}
    assert {source for source, target in told if target == "aligned 2"} == {"reward 2"}


def test_the_way_back_to_the_assistant_goes_between_the_rows(stones):
    at, drawn = stones
    path = links(drawn, at)["aligned", "answers 2"]
    corners = [tuple(map(int, part.split())) for part in path[1:].split("L")]
    (x1, y1), (_, between), _, (x2, y2) = corners
    assert (x1, x2) == (32 * 30, 32 * 20)
    rows = {round(32 * stone.y) for stone in at.values()}
    assert min(y1, y2) < between < max(y1, y2) and between not in rows
