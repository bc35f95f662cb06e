"""Votes out as rankings, verdicts of judges in as votes, and which models meet."""

import json

import pytest

from core_ml.artifact import Folder, Origin, Writer
from core_ml.evaluation.judge_prompt import SHORT
from core_ml.events import Done
from core_ml.execute import execute, read_config
from core_ml.feedback.pairs import read_rankings
from core_ml.recipes.judge import RECIPE
from core_ml.tasks.rows import read_rows, write_rows
from core_ml.workspace import Workspace
from lab.models import Artifact, Run, RunInput, Vote
from lab.queries import artifacts as artifact_queries
from lab.queries import judges, ratings
from lab.services import arena, artifacts
from tests.core_ml.judges import write_constant_judge
from tests.lab import fights, making

pytestmark = pytest.mark.django_db
ARENA = "/api/v1/arena"


@pytest.fixture
def lea(account):
    return account("labeler", "lea")


@pytest.fixture
def two(tmp_home):
    found = [fights.checkpoint("wren"), fights.checkpoint("owl")]
    return [fights.contender(one.name, model=one.pk, checkpoint=one) for one in found]


@pytest.fixture
def votes(lea, two):
    a, b = two
    return [
        fights.fought(lea, a, b, outcome, f"left {n}", f"right {n}", prompt=f"q{n}")
        for n, outcome in enumerate(("left", "right", "tie", "bad"))
    ]


def rows(artifact: Artifact) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(artifacts.local_path(artifact) / "rankings.parquet").to_pylist()


def judged(found: list[dict], uid: str = "0000eeee") -> Artifact:
    """What a run of the kind judge makes."""
    target = artifacts.Path(artifacts.settings.ARTIFACT_ROOT) / uid / "rankings"
    writer = Writer(
        target,
        id=f"{uid}-rankings",
        kind="dataset",
        form="rankings",
        name="verdicts",
        origin=Origin(recipe="import"),
    )
    write_rows(writer.path / "rankings.parquet", "rankings", found)
    writer.finish({"judge": "judge:J", "rankings": len(found)})
    return artifacts.adopt(target)


def verdict(row: dict, order: list, both: list[str] | None = None, **more) -> dict:
    """A row of an export as a judge answers it."""
    metadata = json.loads(row["metadata"]) | {
        "judge": {"model": "J", "verdicts": [[0, 1, *(both or ["left", "right"])]]}
    }
    return (
        row
        | {"labeler": "judge:J", "simulated": True, "order": order, "metadata": metadata, "all_bad": False}
        | more
    )


def test_votes_become_rankings_with_ties_and_both_bad_as_they_are(api, votes):
    answer = api().post(f"{ARENA}/export", {})
    assert answer.status_code == 201, answer.content
    made = Artifact.objects.get(pk=answer.json()["id"])
    found = rows(made)
    assert [(row["order"], row["all_bad"]) for row in found] == [
        ([[0], [1]], False),
        ([[1], [0]], False),
        ([[0, 1]], False),
        ([[0, 1]], True),
    ]
    first = found[0]
    assert (first["prompt"], first["completions"]) == ("q0", ["left 0", "right 0"])
    assert (first["labeler"], first["simulated"], first["seconds"]) == ("lea", False, 3.5)
    metadata = json.loads(first["metadata"])
    assert {name: metadata[name] for name in ("battle", "left", "right")} == {
        "battle": votes[0].battle_id,
        "left": "wren",
        "right": "owl",
    }
    assert made.summary["rankings"] == made.summary["groups"] == 4 and made.summary["pairs"] == 2


def test_a_reward_model_can_learn_from_an_export(lea, votes):
    made = arena.export(lea)
    read = read_rankings(Folder(artifacts.local_path(made)))
    assert [len(group.pairs()) for group in read.groups] == [1, 1, 0, 0]
    assert read.counts()["n_people"] == 1 and read.counts()["n_all_bad"] == 1 and not read.n_damaged


def test_a_conversation_is_one_completion_a_side(lea, two):
    battle = fights.answer(fights.begun(lea, *two, prompt="Sum?"), "4", "5")
    arena.follow_up(battle, lea, "Sure?")
    fights.answer(battle, "yes", "no")
    arena.vote(battle, lea, "left")
    [row] = rows(arena.export())
    assert row["prompt"] == "Sum?"
    assert row["completions"] == ["4\n\nUser: Sure?\n\nAssistant: yes", "5\n\nUser: Sure?\n\nAssistant: no"]


def test_the_lineage_leads_from_the_models_over_the_arena_to_the_rankings(lea, two, votes):
    made = arena.export(lea)
    told = artifact_queries.lineage(made)
    names = {node["id"]: node["name"] for node in told["nodes"]}
    assert names[f"arena:{made.pk}"] == "Arena"
    assert {edge for edge in told["edges"] if f"arena:{made.pk}" in edge} == {
        (f"arena:{made.pk}", f"artifact:{made.pk}"),
        *((f"artifact:{one.checkpoint_id}", f"arena:{made.pk}") for one in two),
    }
    below = artifact_queries.lineage(two[0].checkpoint)
    assert f"artifact:{made.pk}" in {node["id"] for node in below["nodes"]}
    # The index is rebuilt without a run that never was.
    Artifact.objects.filter(pk=made.pk).delete()
    assert artifacts.reindex()["runs"] == 0
    assert Artifact.objects.get(pk=made.pk).run is None


def test_an_empty_arena_has_nothing_to_export(api, two):
    answer = api().post(f"{ARENA}/export", {})
    assert answer.status_code == 409 and "nothing to export" in answer.json()["detail"]


def test_judges_votes_are_left_out_unless_asked_for(lea, votes):
    Vote.objects.create(
        battle=votes[0].battle, kind="judge", judge="J", outcome="right", verdicts=["right", "left"]
    )
    assert len(rows(arena.export())) == 4
    found = rows(arena.export(judges=True))
    assert len(found) == 5
    [row] = [row for row in found if row["labeler"] == "judge:J"]
    assert row["simulated"] and json.loads(row["metadata"])["judge"]["verdicts"] == [[0, 1, "right", "left"]]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "trl", "trl-conversational", "openassistant"])
def test_votes_are_downloaded_in_the_forms_of_others(api, votes, form):
    answer = api().get(f"{ARENA}/export?form={form}")
    assert answer.status_code == 200 and "arena-votes" in answer["Content-Disposition"]
    content = b"".join(answer.streaming_content)
    assert b"left 0" in content
    if form == "jsonl":
        assert len(content.splitlines()) == 4


def test_verdicts_of_a_judge_become_votes_once(api, lea, votes):
    exported = rows(arena.export())
    made = judged([verdict(exported[0], [[0], [1]]), verdict(exported[1], [[0, 1]], ["left", "left"])])
    answer = api().post(f"{ARENA}/judgements", {"artifact": made.pk})
    assert answer.status_code == 200, answer.content
    assert answer.json() == {"votes": 2, "repeated": 0, "passed_over": {}}
    again = api().post(f"{ARENA}/judgements", {"artifact": made.pk})
    assert again.json() == {"votes": 0, "repeated": 2, "passed_over": {}}
    stored = Vote.objects.filter(kind="judge").order_by("battle_id")
    assert [(one.judge, one.outcome, one.verdicts, one.source_id) for one in stored] == [
        ("J", "left", ["left", "right"], made.pk),
        ("J", "tie", ["left", "left"], made.pk),
    ]
    [judge] = judges.judges().judges
    assert (judge.n_votes, judge.agreement.decided.value, judge.place.first.value) == (2, 1.0, 0.5)


def test_battles_that_nobody_voted_on_go_out_for_a_judge(api, lea, two, votes):
    left = fights.answer(fights.begun(lea, *two, prompt="left"), "a", "b")
    arena.leave(left, lea)
    unanswered = fights.begun(lea, *two, prompt="unanswered")
    arena.leave(unanswered, lea)
    fights.answer(fights.begun(lea, *two, prompt="still open"))
    made = Artifact.objects.get(pk=api().post(f"{ARENA}/export", {"battles": True}).json()["id"])
    assert made.form == "rollouts" and made.summary["n_rows"] == 5
    found = list(read_rows(Folder(artifacts.local_path(made)), ("prompt", "completions", "ended"), input="x"))
    assert [row["prompt"] for row in found] == ["q0", "q1", "q2", "q3", "left"]
    assert found[-1]["completions"] == ["a", "b"] and found[-1]["ended"] == [True, True]
    assert found[-1]["metadata"]["battle"] == left.pk


def test_without_a_battle_that_is_over_there_is_nothing_for_a_judge(api, lea, two):
    fights.answer(fights.begun(lea, *two))
    answer = api().post(f"{ARENA}/export", {"battles": True})
    assert answer.status_code == 409 and "no battle is over" in answer.json()["detail"]


@pytest.mark.parametrize("battles", [False, True], ids=["votes", "battles"])
def test_what_a_judges_run_makes_of_an_export_becomes_votes(api, lea, two, votes, tmp_path, battles):
    """A network that always says A prefers whichever stands first: ties, with both verdicts kept."""
    arena.leave(fights.answer(fights.begun(lea, *two, prompt="left"), "**a**", "b"), lea)
    follow = fights.answer(fights.begun(lea, *two, prompt="Sum?"), "4", "5")
    arena.follow_up(follow, lea, "Sure?")
    fights.answer(follow, "yes", "no")
    arena.vote(follow, lea, "left")
    given = arena.export_battles(lea) if battles else arena.export(lea)
    inputs = {
        "answers": [Folder(artifacts.local_path(given))],
        "checkpoint": [write_constant_judge(tmp_path / "always", "0000ffff-checkpoint")],
    }
    out = artifacts.Path(artifacts.settings.ARTIFACT_ROOT) / "0000eeee"
    run = Workspace(out, tmp_path / "state", inputs, Origin(recipe="judge"), "0000eeee", "verdicts")
    events = list(execute(RECIPE, read_config(RECIPE, {"template": SHORT, "threads": 1}), run))
    assert isinstance(events[-1], Done), events[-1]
    made = artifacts.adopt(out / "rankings")
    n = 6 if battles else 5
    assert api().post(f"{ARENA}/judgements", {"artifact": made.pk}).json() == {
        "votes": n, "repeated": 0, "passed_over": {},
    }  # fmt: skip
    stored = Vote.objects.filter(kind="judge")
    assert {(one.judge, one.outcome, *one.verdicts) for one in stored} == {
        ("always, 0000ffff", "tie", "left", "left")
    }
    assert ratings.leaderboard("people").n_votes == 5 and ratings.leaderboard("all").n_votes == 5 + n
    [judge] = judges.judges().judges
    assert judge.place.first.value == 1 and judge.n_shared == 5
    if battles:
        unvoted = Vote.objects.get(kind="judge", battle__turns__prompt="left").battle
        assert unvoted.style == [[5, 0, 1, 0], [1, 0, 0, 0]]


def test_judges_of_runs_that_share_a_name_both_vote(api, votes):
    """A run without a name is named for its kind, and so is its checkpoint."""
    [row, *_] = rows(arena.export())
    for uid, checkpoint in (("0000eee1", "aaaa1111-checkpoint"), ("0000eee2", "bbbb2222-checkpoint")):
        told = verdict(row, [[0], [1]])
        told["metadata"]["judge"]["checkpoint"] = checkpoint
        assert arena.import_judgements(judged([told], uid)).votes == 1
    assert {one.name for one in judges.judges().judges} == {"J, aaaa1111", "J, bbbb2222"}


def test_a_judge_that_read_a_models_name_and_people_who_did_are_not_measured(api, lea, two):
    a, b = (fights.contender(name) for name in ("Wren-27", "Owl-8"))
    fights.fought(lea, a, b, "left", "I am Wren-27.", "no")
    [row] = rows(arena.export())
    arena.import_judgements(judged([verdict(row, [[0], [1]])]))
    assert [vote.counts for vote in Vote.objects.all()] == [False, False]
    assert judges.judges().judges == [] and judges.judges().people_longer is None


def test_rows_that_are_no_verdicts_on_our_battles_are_counted_by_why(api, votes):
    exported = rows(arena.export())
    made = judged(
        [
            verdict(exported[0], [[0], [1]]),
            exported[1] | {"metadata": json.loads(exported[1]["metadata"])},
            verdict(exported[1], [[0], [1]], completions=["of another lab", "too"]),
            verdict(exported[2], [[0]]),
            verdict(exported[2], []),
            verdict(exported[3], [[1], [0]], metadata={"battle": 99_999}),
            verdict(exported[3], [[1], [0]], metadata={"battle": True}),
        ]
    )
    told = api().post(f"{ARENA}/judgements", {"artifact": made.pk}).json()
    assert told["votes"] == 1
    assert told["passed_over"] == {
        "by a labeler who is no judge": 1,
        "on other texts than the battle's": 1,
        "without a verdict on two answers": 2,
        "on a battle that is not here": 2,
    }


def test_what_holds_no_verdict_is_refused_with_the_reason(api, votes):
    own = arena.export()
    answer = api().post(f"{ARENA}/judgements", {"artifact": own.pk})
    assert answer.status_code == 422 and "4 by a labeler who is no judge" in answer.json()["detail"]
    rollouts = making.rollouts()
    answer = api().post(f"{ARENA}/judgements", {"artifact": rollouts.pk})
    assert answer.status_code == 422 and "rankings" in answer.json()["detail"]
    assert api().post(f"{ARENA}/judgements", {"artifact": "nothing"}).status_code == 422
    assert not Vote.objects.filter(kind="judge").exists()


def test_only_researchers_choose_export_and_bring_in(api, two):
    paths = [
        ("post", "contenders"),
        ("post", "export"),
        ("post", "judgements"),
        ("get", "contenders"),
        ("get", "export"),
    ]
    paths += [("patch", f"contenders/{two[0].pk}"), ("delete", f"contenders/{two[0].pk}")]
    for method, path in paths:
        assert getattr(api("labeler"), method)(f"{ARENA}/{path}").status_code == 403, path
        assert getattr(api(None), method)(f"{ARENA}/{path}").status_code == 401, path


def test_a_judge_is_asked_from_the_page_and_its_verdicts_are_votes_when_its_run_has_ended(browser, api, votes, monkeypatch, tmp_path):  # fmt: skip
    head = browser()
    assert "Let it vote" in head.get("/arena/ratings").content.decode()
    answer = head.post("/arena/judge", {"model": "gpt-judge"})
    run = Run.objects.get(kind="judge")
    assert answer.status_code == 302 and answer["Location"] == f"/runs/{run.pk}"
    given = run.inputs.get(name="answers").artifact
    assert (run.config["model"], run.config["n_groups"], given.form) == (
        "gpt-judge",
        given.summary["n_rows"],
        "rollouts",
    )
    arena.take_verdicts()
    assert not Vote.objects.filter(kind="judge").exists()
    [row, *_] = rows(arena.export())
    told = verdict(row, [[0], [1]])
    made = judged([told], run.uid)
    Artifact.objects.filter(pk=made.pk).update(run=run, output="rankings")
    Run.objects.filter(pk=run.pk).update(status="succeeded", summary={"rankings": 1})
    arena.take_verdicts()
    arena.take_verdicts()
    [vote] = Vote.objects.filter(kind="judge")
    assert (vote.outcome, vote.source_id) == ("left", made.pk)
    run.refresh_from_db()
    assert run.summary == {"rankings": 1, "votes": 1}


def test_without_battles_there_is_nothing_to_ask_a_judge_about(api, two):
    assert api().post(f"{ARENA}/judge", {"model": "any"}).status_code == 409


def test_only_researchers_ask_a_judge_and_only_of_models_that_answer(browser, api, votes):
    reward = fights.checkpoint("taste", role="reward")
    assert api().post(f"{ARENA}/judge", {"model": reward.pk}).status_code == 422
    assert api().post(f"{ARENA}/judge", {"model": ""}).status_code == 422
    assert api("labeler").post(f"{ARENA}/judge", {"model": "any"}).status_code == 403
    assert api(None).post(f"{ARENA}/judge", {"model": "any"}).status_code == 401
    assert browser("labeler").post("/arena/judge", {"model": "any"}).status_code in (302, 403)
    assert not Run.objects.filter(kind="judge").exists()


def test_verdicts_of_a_run_that_nobody_asked_from_the_arena_wait_to_be_brought_in(votes, lea):
    given = arena.export_battles(lea)
    run = making.run("succeeded", kind="judge")
    RunInput.objects.create(run=run, name="answers", artifact=given, position=0)
    [row, *_] = rows(arena.export())
    made = judged([verdict(row, [[0], [1]])], run.uid)
    Artifact.objects.filter(pk=made.pk).update(run=run, output="rankings")
    arena.take_verdicts()
    assert not Vote.objects.filter(kind="judge").exists()
