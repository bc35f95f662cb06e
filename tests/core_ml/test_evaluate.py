"""The report card."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.evaluation.exam import Answer, Exam, Problem, as_plain_text, read_exam
from core_ml.evaluation.report import Candidate, findings, headline
from core_ml.evaluation.verify import Verdict, check, verify
from core_ml.events import Artifact, Figure, Metric, Resumed, Summary
from core_ml.recipes.evaluate import EvaluateConfig, run
from core_ml.tasks.problems import draw_evenly
from core_ml.tasks.rows import read_rows
from tests.core_ml.models import TEXTS, workspace, write_checkpoint, write_dataset

SMALL = EvaluateConfig(n_per_task=3, max_new_tokens=8, seq_len=16, val_tokens=128, threads=1)


@pytest.mark.parametrize(
    ("verifier", "prompt", "answer", "completion", "verdict"),
    [
        ("task", "What is 1 + 2?", "", "The sum is 3.", Verdict(True, True)),
        ("task", "What is 1 + 2?", "", "3", Verdict(True, False)),
        ("number", "How many?", "1,250", "First 3, then 1250.0", Verdict(True)),
        ("number", "How many?", "-4", "It is 4.", Verdict(False)),
        ("number", "How many?", "4", "No idea.", Verdict(False)),
        ("exact", "Capital of France?", "Paris", " paris\n", Verdict(True)),
        ("exact", "Capital of France?", "Paris", "It is Paris.", Verdict(False)),
    ],
)
def test_each_verifier_judges_by_its_own_rule(verifier, prompt, answer, completion, verdict):
    assert verify(verifier, prompt, answer, completion, True) == verdict


@pytest.mark.parametrize(
    ("verifier", "message"), [("magic", "no verifier is called"), ("task", "our own five tasks")]
)
def test_problems_that_cannot_be_verified_are_refused_with_the_mend(verifier, message):
    with pytest.raises(UserError, match=message) as refused:
        check(verifier, "Write a poem.")
    assert refused.value.field == "problems"


def held_out(path, n=6):
    rows = [
        {"prompt": p.prompt, "answer": p.answer, "verifier": "task", "metadata": {"task": p.task}}
        for p in draw_evenly(n, 0)
    ]
    return write_dataset(path, "problems", rows)


def test_examples_are_never_asked(tmp_path):
    exam = read_exam(held_out(tmp_path), n_per_task=3)
    shots = {shot.prompt for shots in exam.shots.values() for shot in shots}
    assert len(shots) == 10
    assert not shots & {problem.prompt for problem in exam.problems}
    assert len(exam.problems) == 15
    text = as_plain_text(exam.problems[0], exam.shots[exam.problems[0].task])
    assert text.count("Question: ") == 3
    assert text.count("Answer: ") == 2
    assert text.endswith("Answer:")


def test_a_dataset_with_nothing_left_to_ask_is_refused(tmp_path):
    with pytest.raises(UserError, match="choose a dataset with more"):
        read_exam(held_out(tmp_path, n=2), n_per_task=3)


def candidate(name, correct, liked=None):
    answers = [
        Answer("", [-1.0], True, c, k) for c, k in zip(correct, liked or [False] * len(correct), strict=True)
    ]
    return Candidate(name, name, {"greedy": answers})


def test_the_findings_say_what_rose_what_fell_and_what_did_not_change():
    exam = Exam([Problem("add", str(i), "", "task") for i in range(100)], {"add": []})
    base = candidate("base", [False] * 100)
    chat = candidate("chat", [True] * 60 + [False] * 40, [False] * 100)
    aligned = candidate("aligned", [True] * 58 + [False] * 42, [True] * 50 + [False] * 50)
    worse = candidate("worse", [True] * 20 + [False] * 80, [False] * 100)
    said = findings([base, chat, aligned, worse], exam)
    assert said[0].endswith("rose: 0% to 60%.")
    assert any("solves did not change measurably: 60% to 58%" in sentence for sentence in said)
    assert any("likes rose: 0% to 50%" in sentence for sentence in said)
    assert any("solves fell: 58% to 20%" in sentence for sentence in said)
    values = headline([base, chat, aligned])
    assert (values["accuracy_base"], values["accuracy_chat"], values["liked_aligned"]) == (0.0, 0.6, 0.5)


def test_a_base_model_is_compared_by_the_way_of_asking_that_suits_it_best():
    exam = Exam([Problem("add", str(i), "", "task") for i in range(40)], {"add": []})
    base = candidate("base", [False] * 40)
    base.answers["few-shot"] = [Answer("", [], True, i < 20) for i in range(40)]
    said = findings([base, candidate("chat", [True] * 40)], exam)
    assert "base model (with examples)" in said[0]
    assert said[0].endswith("rose: 50% to 100%.")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate")
    documents = artifact.Writer(
        path / "documents",
        id="d",
        kind="dataset",
        form="documents",
        name="d",
        origin=artifact.Origin(recipe="test"),
    )
    rows = [{"id": str(i), "url": f"https://x.invalid/{i}", "text": f"{i} {t}"} for i, t in enumerate(TEXTS)]
    pq.write_table(pa.Table.from_pylist(rows), documents.path / "documents-00000.parquet")
    documents.finish()
    return {
        "checkpoints": [
            write_checkpoint(path, role, seed) for seed, role in enumerate(("base", "chat", "aligned"))
        ],
        "problems": held_out(path),
        "reward": write_checkpoint(path, "reward", 9, value_head=True),
        "documents": artifact.Folder(path / "documents"),
    }


def test_the_report_has_every_models_answer_to_every_problem(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    assert events[0] == Resumed(-1)
    assert [event.output for event in events if isinstance(event, Artifact)] == ["report"]
    rows = list(
        read_rows(artifact.Folder(tmp_path / "out" / "report"), ["prompt", "completions"], input="report")
    )
    assert len(rows) == 3 * 15
    assert rows[0]["metadata"]["modes"] == ["few-shot", "greedy", "sampled"]
    assert rows[-1]["metadata"]["modes"] == ["greedy", "sampled"]
    assert len(rows[0]["metadata"]["correct"]) == len(rows[0]["completions"]) == 3
    figures = {event.name: event for event in events if isinstance(event, Figure)}
    assert {"report_card", "accuracy", "liked", "accuracy_by_task"} <= set(figures)
    card = figures["report_card"].content
    assert len(card["rows"]) == 7
    assert all(len(row) == len(card["columns"]) for row in card["rows"])
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    for role in ("base", "chat", "aligned"):
        for name in ("accuracy_{}", "accuracy_{}_sampled", "liked_{}", "reward_{}", "bits_per_byte_{}"):
            assert name.format(role) in summary
    assert "accuracy_base_few_shot" in summary
    # An untrained network of 340 tokens spreads its guesses: a few bits for each byte.
    assert 1 < summary["bits_per_byte_base"] < 10
    assert summary["findings"]


def test_a_stopped_exam_goes_on_and_ends_with_the_same_report(tmp_path, inputs):
    whole = list(run(SMALL, workspace(tmp_path / "whole", inputs)))
    events = run(SMALL, workspace(tmp_path / "stopped", inputs))
    for event in events:
        if isinstance(event, Metric) and event.step == 4:
            break
    events.close()
    rest = list(run(SMALL, workspace(tmp_path / "stopped", inputs)))
    assert rest[0] == Resumed(3)
    tables = [
        next(e for e in run_ if isinstance(e, Figure) and e.name == "report_card") for run_ in (whole, rest)
    ]
    assert tables[0] == tables[1]


def test_one_model_without_documents_or_reward_model_has_a_report_too(tmp_path, inputs):
    few = {"checkpoints": inputs["checkpoints"][1:2], "problems": inputs["problems"]}
    summary = [e for e in run(SMALL, workspace(tmp_path, few)) if isinstance(e, Summary)][-1].values
    assert "accuracy_chat" in summary
    assert not any(name.startswith(("reward_", "bits_per_byte_")) for name in summary)


def test_two_models_of_one_role_are_told_apart_and_one_model_twice_is_refused(tmp_path, inputs):
    chat = inputs["checkpoints"][1]
    other = write_checkpoint(tmp_path / "other", "chat", 5)
    other.manifest.id, other.manifest.name = "other-checkpoint", "second try"
    both = {"checkpoints": [chat, other], "problems": inputs["problems"]}
    summary = [e for e in run(SMALL, workspace(tmp_path / "a", both)) if isinstance(e, Summary)][-1].values
    assert summary["models"] == ["chat", "second try"]
    assert "accuracy_second_try" in summary
    with pytest.raises(UserError, match="given twice"):
        list(run(SMALL, workspace(tmp_path / "b", {**both, "checkpoints": [chat, chat]})))


def test_a_model_that_came_out_of_another_of_its_role_is_numbered(tmp_path, inputs):
    aligned = inputs["checkpoints"][2]
    second = write_checkpoint(tmp_path, "aligned", 6)
    second.manifest.id, second.manifest.name = "second-checkpoint", "second turn"
    second.manifest.origin.inputs = {"checkpoint": [aligned.manifest.id]}
    given = {"checkpoints": [*inputs["checkpoints"], second], "problems": inputs["problems"]}
    summary = [e for e in run(SMALL, workspace(tmp_path, given)) if isinstance(e, Summary)][-1].values
    assert summary["models"] == ["base", "chat", "aligned", "aligned 2"]
    assert "liked_aligned_2" in summary


def test_each_of_two_reward_models_scores_every_answer_and_the_last_is_the_headline(tmp_path, inputs):
    newer = write_checkpoint(tmp_path, "reward", 10, value_head=True)
    newer.manifest.id, newer.manifest.name = "newer-checkpoint", "newer"
    two = {"checkpoints": inputs["checkpoints"][:2], "problems": inputs["problems"]}
    single = {}
    for name, judge in (("reward", inputs["reward"]), ("newer", newer)):
        events = run(SMALL, workspace(tmp_path / name, {**two, "reward": judge}))
        summary = [event for event in events if isinstance(event, Summary)][-1].values
        single[name] = [round(summary[f"reward_{role}"], 2) for role in ("base", "chat")]
    events = list(run(SMALL, workspace(tmp_path / "both", {**two, "reward": [inputs["reward"], newer]})))
    both = [event for event in events if isinstance(event, Summary)][-1].values
    assert [(one["judge"], one["means"]) for one in both["rewards"]] == list(single.items())
    assert single["reward"] != single["newer"]
    assert [round(both[f"reward_{role}"], 2) for role in ("base", "chat")] == single["newer"]
    said = " ".join(both["findings"])
    assert "the mean reward by reward of its" in said and "the mean reward by newer of its" in said
    card = next(e for e in events if isinstance(e, Figure) and e.name == "report_card").content
    columns = {name: place for place, name in enumerate(card["columns"])}
    greedy = [row for row in card["rows"] if row[columns["answers"]] == "greedy"]
    for name in single:
        assert [row[columns[f"reward by {name}"]] for row in greedy] == single[name]
    # Exams that were sat before remember both scores.
    again = list(run(SMALL, workspace(tmp_path / "both", {**two, "reward": [inputs["reward"], newer]})))
    assert next(e for e in again if isinstance(e, Figure) and e.name == "report_card").content == card
