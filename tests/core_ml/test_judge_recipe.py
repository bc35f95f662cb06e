"""The judge at work: a network of the lab, a served model, a run that was stopped, and what will not do."""

import json

import pytest

from core_ml import artifact
from core_ml.engine import asking
from core_ml.errors import UserError
from core_ml.events import Figure, Metric, Progress, Resumed, Sample, Summary
from core_ml.execute import execute, read_config
from core_ml.feedback.pairs import read_rankings
from core_ml.feedback.sets import stored
from core_ml.recipes.judge import FILE, RECIPE, JudgeConfig, run
from core_ml.tasks.rows import read_rows
from core_ml.workspace import FINISH
from tests import engines
from tests.core_ml.judges import TEMPLATE, longer, server, write_constant_judge
from tests.core_ml.models import ranking, workspace, write_checkpoint, write_dataset

COLUMNS = (
    "group_id",
    "prompt",
    "completions",
    "labeler",
    "simulated",
    "order",
    "all_bad",
    "flags",
    "seconds",
)
BY_SERVER = {"model": "by length", "template": TEMPLATE, "concurrency": 1}
KEY = "sk-not-to-be-told"


@pytest.fixture
def people(tmp_path):
    """Four battles as in an arena: the longer answer stands left, right, left, right; 7 votes, one of them a tie."""
    long, brief = "a long answer", "short"
    first, second, tie = [[0], [1]], [[1], [0]], [[0, 1]]
    rows = []
    for n, (texts, votes) in enumerate(
        [([long, brief], [first, first]), ([brief, long], [first, second]),
         ([long, brief], [tie, first]), ([brief, long], [first])]
    ):  # fmt: skip
        for k, order in enumerate(votes):
            metadata = {"battle": n, "comment": "a person's own", "weight": 0.5}
            rows.append(ranking(f"g{n}", f"question {n}", texts, order, labeler=f"p{k}", metadata=metadata))
    rows.append(ranking("g0", "question 0", [long, brief], second, labeler="judge:old", simulated=True))
    return write_dataset(tmp_path / "people", "rankings", rows)


@pytest.fixture
def groups(tmp_path):
    """Rollouts that nobody has ranked, with alike answers, and one group of nothing else."""
    rows = [
        {"group_id": f"r{n}", "prompt": f"What is {n} + 1?", "completions": ["four words stand here", "two words", "two words", "x"], "metadata": {"task": "add"}}
        for n in range(5)
    ]  # fmt: skip
    rows.append({"group_id": "same", "prompt": "?", "completions": ["x", "x"]})
    return write_dataset(tmp_path / "groups", "rollouts", rows)


@pytest.fixture
def by_length(monkeypatch):
    with server(longer) as it:
        monkeypatch.setenv("ENGINE_URL", it.url)
        monkeypatch.setenv("ENGINE_KEY", KEY)
        yield it


def rows_of(path):
    return list(read_rows(artifact.Folder(path / "out" / "rankings"), COLUMNS, input="rankings"))


def summary_of(events):
    return next(event for event in events if isinstance(event, Summary)).values


def test_a_served_judge_is_measured_against_people_with_figures_by_hand(tmp_path, people, by_length):
    events = list(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": people})))
    assert events[0] == Resumed(-1)
    found = summary_of(events)
    # See test_judged for how these come about; the vote of another judge counts for nothing.
    assert found["agreement"] == round(4 / 6, 4) and found["agreement_with_ties"] == round(4 / 7, 4)
    assert found["agreement_people"] == 0.5 and found["agreement_shared"] == 0.8
    assert found["consistent"] == 1 and found["prefers_longer"] == 1 and found["ties"] == 0
    assert found["people_prefer_longer"] == round(4 / 6, 4)
    assert found["n_battles"] == found["rankings"] == found["simulated"] == 4 and found["n_unreadable"] == 0
    assert {event.name for event in events if isinstance(event, Figure)} == {
        "judge", "judge_agreement", "judge_biases",
    }  # fmt: skip
    assert [event for event in events if isinstance(event, Progress)][-1].step == 4
    assert [event for event in events if isinstance(event, Metric)][-1].values["agreement"] == pytest.approx(
        4 / 6
    )
    sample = next(event for event in events if isinstance(event, Sample))
    assert sample.text.startswith("The judge prefers the ") and "People prefer the " in sample.text


def test_its_rankings_are_marked_and_keep_what_the_source_says(tmp_path, people, by_length):
    list(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": people})))
    rows = {row["group_id"]: row for row in rows_of(tmp_path)}
    assert {key: row["order"] for key, row in rows.items()} == {
        "g0": [[0], [1]], "g1": [[1], [0]], "g2": [[0], [1]], "g3": [[1], [0]],
    }  # fmt: skip
    assert all(row["labeler"] == "judge:by length" and row["simulated"] for row in rows.values())
    assert rows["g2"]["metadata"] == {
        "battle": 2, "judge": {"model": "by length", "verdicts": [[0, 1, "left", "right"]]},
    }  # fmt: skip
    # What a reward model learns from and what an import counts know them for a program's.
    folder = artifact.Folder(tmp_path / "out" / "rankings")
    counts = read_rankings(folder).counts()
    assert counts["n_rankings_simulated"] == counts["n_rankings"] == 4 and counts["n_people"] == 0
    assert counts["n_weighted"] == 0
    votes = [vote for _, _, cast in stored.votes(folder.files(".parquet")) for vote in cast]
    assert all(vote.simulated and vote.labeler == "judge:by length" for vote in votes)


def test_the_server_is_shown_the_key_and_nobody_else_is(tmp_path, people, by_length):
    events = list(execute(RECIPE, JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": people})))
    assert set(by_length.keys) == {f"Bearer {KEY}"}
    body = by_length.asked[0]
    assert body["model"] == "by length" and body["temperature"] == 0 and "seed" not in body
    assert KEY not in repr(events)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not any(KEY.encode() in path.read_bytes() for path in kept)


def test_groups_of_many_answers_are_ordered_by_all_their_pairs(tmp_path, groups, by_length):
    events = list(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": groups})))
    rows = rows_of(tmp_path)
    assert len(rows) == 5 and len(by_length.asked) == 2 * 5 * 3
    assert all(row["order"] == [[0], [1, 2], [3]] and row["metadata"]["task"] == "add" for row in rows)
    found = summary_of(events)
    assert "agreement" not in found and found["prefers_longer"] == 1
    assert any("nothing says whether it judges as people do" in said for said in found["findings"])
    # The right answer of our own tasks is worked out from the request.
    assert all("known to be right" in body["messages"][0]["content"] for body in by_length.asked)


def test_a_number_of_groups_and_pairs_is_drawn_by_the_seed(tmp_path, groups, by_length):
    config = JudgeConfig(**BY_SERVER, n_groups=2, pairs_per_group=1, use_reference=False)
    list(run(config, workspace(tmp_path, {"answers": groups})))
    assert len(by_length.asked) == 4 and len(rows_of(tmp_path)) == 2
    assert not any("known to be right" in body["messages"][0]["content"] for body in by_length.asked)


def test_a_network_that_always_says_a_is_found_to_prefer_the_first_place_in_every_battle(tmp_path, people):
    always = write_constant_judge(tmp_path / "always", "always-checkpoint")
    events = list(run(JudgeConfig(template=TEMPLATE, threads=1), workspace(tmp_path, {"answers": people, "checkpoint": always})))  # fmt: skip
    found = summary_of(events)
    assert found["prefers_first"] == 1 and found["consistent"] == 0 and found["ties"] == 1
    assert found["findings"][0].startswith("It prefers whichever answer stands first in 100% of battles")
    assert "names no winner where people do" in found["findings"][1]
    assert found["mass_on_letters"] > 0.99
    sample = next(event for event in events if isinstance(event, Sample))
    assert sample.text.startswith(
        "The judge prefers whichever answer stands first: a tie. People prefer the "
    )
    rows = rows_of(tmp_path)
    assert all(row["order"] == [[0, 1]] and row["labeler"] == "judge:always" for row in rows)
    assert all(row["metadata"]["judge"]["checkpoint"] == "always-checkpoint" for row in rows)


def test_the_same_network_behind_the_engine_gives_the_same_verdicts(tmp_path, people, monkeypatch):
    write_constant_judge(tmp_path / "artifacts" / "aaaa1111" / "checkpoint", "aaaa1111-checkpoint", "B")
    with engines.running(tmp_path / "artifacts") as url:
        monkeypatch.setenv("ENGINE_URL", url)
        monkeypatch.setenv("ENGINE_KEY", engines.KEY)
        config = JudgeConfig(model="always", template=TEMPLATE, max_new_tokens=1)
        events = list(run(config, workspace(tmp_path, {"answers": people})))
        found = summary_of(events)
        assert found["prefers_second"] == 1 and found["prefers_first"] == 0 and found["n_unreadable"] == 0
        monkeypatch.setattr(asking, "FORGOTTEN", 0.0)
        missing = JudgeConfig(model="nobody", template=TEMPLATE)
        with pytest.raises(UserError, match="no model 'nobody'") as caught:
            list(run(missing, workspace(tmp_path / "missing", {"answers": people})))
        assert caught.value.field == "model"


def test_a_random_network_gives_the_same_numbers_in_every_attempt(tmp_path, people):
    drawn = write_checkpoint(tmp_path / "drawn", "chat", seed=5, max_seq_len=512)
    config = JudgeConfig(template=TEMPLATE, threads=1)
    inputs = {"answers": people, "checkpoint": drawn}
    for name in ("whole", "again"):
        list(run(config, workspace(tmp_path / name, inputs)))
    lines = [
        [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in (tmp_path / name / "state" / FILE).open()]
        for name in ("whole", "again")
    ]  # fmt: skip
    assert lines[0] == lines[1] and len(lines[0]) == 4
    assert all(len(scores) == 3 for line in lines[0] for scores in line["logprobs"])


def test_a_run_that_was_stopped_asks_nothing_twice(tmp_path, groups, by_length):
    config = JudgeConfig(**BY_SERVER)
    place = {"answers": groups}
    events = run(config, workspace(tmp_path, place))
    for event in events:
        if isinstance(event, Progress) and event.step == 6:
            break
    events.close()
    assert len(by_length.asked) == 12
    with (tmp_path / "state" / FILE).open("a") as file:
        file.write('{"battle": 14, "ver')  # as a kill in the middle of a line leaves it
    rest = list(run(config, workspace(tmp_path, place)))
    assert rest[0] == Resumed(6)
    assert len(by_length.asked) == 30
    assert len({json.dumps(body) for body in by_length.asked}) == 30
    assert all(row["order"] == [[0], [1, 2], [3]] for row in rows_of(tmp_path))


def test_a_run_that_is_asked_to_finish_ends_with_what_it_has(tmp_path, groups, by_length):
    place = workspace(tmp_path, {"answers": groups})
    events = []
    for event in run(JudgeConfig(**BY_SERVER), place):
        events.append(event)
        if isinstance(event, Progress) and event.step == 4:
            (place.state / FINISH).touch()
    found = summary_of(events)
    assert found["n_battles"] == 4 and found["rankings"] == 2 and len(by_length.asked) == 8
    assert found["findings"][-1] == "It was asked to end after 4 of 15 battles."


def test_many_battles_are_asked_about_at_a_time(tmp_path, groups, by_length):
    config = JudgeConfig(**(BY_SERVER | {"concurrency": 8}))
    list(run(config, workspace(tmp_path, {"answers": groups})))
    assert len(by_length.asked) == 30
    assert all(row["order"] == [[0], [1, 2], [3]] for row in rows_of(tmp_path))


def test_replies_without_a_verdict_are_passed_over_and_counted(tmp_path, groups, by_length):
    by_length.judge = lambda prompt: "I would rather not say." if "\nB: x" in prompt else longer(prompt)
    found = summary_of(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": groups})))
    assert found["n_unreadable"] == 10 and found["n_battles"] == 5
    assert any("10 of 15 battles were passed over" in said for said in found["findings"])
    assert all(row["order"] == [[0], [1, 2]] for row in rows_of(tmp_path))


def test_a_judge_that_gives_no_verdict_at_all_is_told_with_its_words(tmp_path, groups, by_length):
    by_length.judge = lambda prompt: "As you like."
    with pytest.raises(UserError, match=r"'As you like\.'") as caught:
        list(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": groups})))
    assert caught.value.field == "template" and not (tmp_path / "out" / "rankings").exists()


def test_battles_that_do_not_fit_a_context_are_told(tmp_path, groups, by_length):
    by_length.judge = lambda prompt: (400, "maximum context length is 4096 tokens") if "x" in prompt.splitlines()[-2] else longer(prompt)  # fmt: skip
    found = summary_of(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": groups})))
    assert found["n_too_long"] == 10 and found["n_unreadable"] == 0
    small = write_checkpoint(tmp_path / "small", "chat", max_seq_len=32)
    place = workspace(tmp_path / "none", {"answers": groups, "checkpoint": small})
    with pytest.raises(UserError, match="fits the judge's context"):
        list(run(JudgeConfig(threads=1), place))


@pytest.mark.parametrize(
    ("config", "has_checkpoint", "field", "message"),
    [
        ({}, False, "model", "neither is given"),
        ({"model": "m"}, True, "model", "both are given"),
        ({"reasons": True}, True, "reasons", "writes no reasons"),
    ],
)
def test_who_judges_is_said_once(tmp_path, people, config, has_checkpoint, field, message):
    inputs = {"answers": people}
    if has_checkpoint:
        inputs["checkpoint"] = write_checkpoint(tmp_path / "chat", "chat")
    with pytest.raises(UserError, match=message) as caught:
        list(run(JudgeConfig(**config), workspace(tmp_path, inputs)))
    assert caught.value.field == field


def test_a_template_without_an_answer_is_refused_before_anything_runs():
    with pytest.raises(UserError, match=r"lacks \{answer_b\}") as caught:
        read_config(RECIPE, {"template": "{question} {answer_a} {verdict}"})
    assert caught.value.field == "template"


def test_votes_without_texts_and_groups_without_a_choice_are_refused(tmp_path, by_length):
    votes = [ranking("g", "q", ["[not here]", "[nor here]"], [[0], [1]], metadata={"without_texts": True})]
    same = [{"group_id": "g", "prompt": "q", "completions": ["x", "x"]}]
    for name, form, rows, message in (
        ("votes", "rankings", votes, "texts are not in it"),
        ("same", "rollouts", same, "nothing to compare"),
    ):
        place = workspace(tmp_path / name, {"answers": write_dataset(tmp_path / f"{name}-set", form, rows)})
        with pytest.raises(UserError, match=message) as caught:
            list(run(JudgeConfig(**BY_SERVER), place))
        assert caught.value.field == "answers"


def test_a_server_that_refuses_or_is_not_there_is_told_without_its_key(
    tmp_path, people, by_length, monkeypatch
):
    by_length.judge = lambda prompt: (401, f"{KEY} is wrong")
    with pytest.raises(UserError, match="does not take the key") as caught:
        list(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": people})))
    assert KEY not in caught.value.message and caught.value.field == "model"
    monkeypatch.setattr(asking, "PATIENCE", 0.0)
    monkeypatch.setenv("ENGINE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="does not answer") as caught:
        list(run(JudgeConfig(**BY_SERVER), workspace(tmp_path / "gone", {"answers": people})))
    assert "Resume" in caught.value.hint
    monkeypatch.delenv("ENGINE_URL")
    with pytest.raises(UserError, match="set ENGINE_URL"):
        list(run(JudgeConfig(**BY_SERVER), workspace(tmp_path / "nowhere", {"answers": people})))


def test_a_server_that_is_away_for_a_while_is_waited_for(tmp_path, people, by_length, monkeypatch):
    monkeypatch.setattr(asking, "PAUSE", 0.01)
    away = iter([(503, "starting")] * 7)
    by_length.judge = lambda prompt: next(away, None) or longer(prompt)
    found = summary_of(run(JudgeConfig(**BY_SERVER), workspace(tmp_path, {"answers": people})))
    assert found["n_battles"] == 4 and len(by_length.asked) == 15
