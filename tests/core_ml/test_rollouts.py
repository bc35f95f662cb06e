"""Sampling groups of answers."""

import weakref

import pytest

from core_ml import artifact, parquet
from core_ml.errors import UserError
from core_ml.events import Metric, Resumed, Summary
from core_ml.recipes import rollouts
from core_ml.recipes.rollouts import RolloutsConfig, run
from core_ml.tasks.rows import read_rows
from tests.core_ml.models import workspace, write_checkpoint, write_dataset

SMALL = RolloutsConfig(n_prompts=10, n_completions=3, max_new_tokens=6, threads=1)
COLUMNS = ["group_id", "prompt", "completions", "logprobs", "ended"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("rollouts")
    rows = [
        {"prompt": f"What is {i} + 1?", "answer": str(i + 1), "verifier": "task", "metadata": {"task": "add"}}
        for i in range(14)
    ]
    return {"checkpoint": write_checkpoint(path, "chat"), "problems": write_dataset(path, "problems", rows)}


def rows_of(path):
    return list(read_rows(artifact.Folder(path / "out" / "rollouts"), COLUMNS, input="rollouts"))


def test_each_prompt_has_its_group_of_answers_with_a_logprob_for_each_token(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    assert events[0] == Resumed(-1)
    rows = rows_of(tmp_path)
    assert len({row["prompt"] for row in rows}) == len({row["group_id"] for row in rows}) == 10
    for row in rows:
        assert len(row["completions"]) == len(row["logprobs"]) == len(row["ended"]) == 3
        assert all(1 <= len(logprobs) <= 6 and max(logprobs) <= 0 for logprobs in row["logprobs"])
        assert row["metadata"]["task"] == "add"
    summary = next(event for event in events if isinstance(event, Summary)).values
    assert summary["n_completions"] == 30
    assert 0 <= summary["liked"] <= summary["correct"] <= 1


# In bfloat16 the best two tokens are often equal, and min_p draws between them.
@pytest.mark.usefixtures("in_float32")
def test_answers_end_before_a_stop_string_and_penalties_reach_the_sampler(tmp_path, inputs):
    free = [text for row in _texts(tmp_path / "free", inputs) for text in row]
    pairs = [text[at : at + 2] for text in free for at in range(2, len(text) - 1)]
    stop = next(pair for pair in pairs if pair.isascii())  # and no half of a character
    config = SMALL.model_copy(update={"stop": (stop, "never")})
    list(run(config, workspace(tmp_path / "stopped", inputs)))
    stopped = rows_of(tmp_path / "stopped")
    n_cut = 0
    for text, short, ended in zip(
        free,
        [text for row in stopped for text in row["completions"]],
        [ended for row in stopped for ended in row["ended"]],
        strict=True,
    ):
        assert short == text.partition(stop)[0]
        n_cut += stop in text
        assert ended or stop not in text
    assert n_cut > 0
    assert [text for row in _texts(tmp_path / "min_p", inputs, min_p=1.0) for text in row] == [
        text for row in _texts(tmp_path / "greedy", inputs, temperature=0.0) for text in row
    ]
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        changed = [text for row in _texts(tmp_path / name, inputs, **{name: 2.0}) for text in row]
        assert changed != free


def _texts(path, inputs, **more):
    list(run(SMALL.model_copy(update=more), workspace(path, inputs)))
    return [row["completions"] for row in rows_of(path)]


def test_a_run_that_was_killed_does_no_chunk_twice_and_ends_with_the_same_rows(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(rollouts, "CHUNK", 3)
    whole = list(run(SMALL, workspace(tmp_path / "whole", inputs)))
    sampled = []
    real = rollouts._sample

    def counted(config, model, tokenizer, prompts, number):
        sampled.append(number)
        return real(config, model, tokenizer, prompts, number)

    monkeypatch.setattr(rollouts, "_sample", counted)
    events = run(SMALL, workspace(tmp_path / "killed", inputs))
    for event in events:
        if isinstance(event, Metric) and event.step == 6:
            break
    events.close()
    rest = list(run(SMALL, workspace(tmp_path / "killed", inputs)))
    assert rest[0] == Resumed(6)
    assert sampled == [0, 1, 2, 3]
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    last = [event for event in whole if isinstance(event, Metric)][-1]
    assert [event for event in rest if isinstance(event, Metric)][-1] == last


def test_publishing_holds_the_rows_of_one_chunk_at_a_time(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(rollouts, "CHUNK", 2)
    alive, most = weakref.WeakSet(), []

    class Texts(list):
        __hash__ = object.__hash__

    real = parquet.rows

    def watched(file, *columns):
        if columns:  # the prompts, before any answer
            yield from real(file, *columns)
            return
        for row in real(file):
            texts = Texts(row["completions"])
            alive.add(texts)
            most.append(len(alive))
            yield {**row, "completions": texts}
            del texts

    monkeypatch.setattr(parquet, "rows", watched)
    list(run(SMALL, workspace(tmp_path, inputs)))
    # Five chunks of two rows: those of the chunk before may still be there while the next is read.
    assert len(most) == 10 and max(most) <= 4


def test_another_seed_draws_other_prompts_and_answers(tmp_path, inputs):
    for seed in (0, 1):
        list(run(SMALL.model_copy(update={"seed": seed}), workspace(tmp_path / str(seed), inputs)))
    assert [row["prompt"] for row in rows_of(tmp_path / "0")] != [
        row["prompt"] for row in rows_of(tmp_path / "1")
    ]


def test_a_second_run_answers_the_prompts_that_the_first_left_under_ids_of_their_own(tmp_path, inputs):
    list(run(SMALL, workspace(tmp_path / "first", inputs)))
    list(run(SMALL.model_copy(update={"skip_prompts": 10}), workspace(tmp_path / "second", inputs)))
    first, second = rows_of(tmp_path / "first"), rows_of(tmp_path / "second")
    assert (len(first), len(second)) == (10, 4)  # of 14 prompts
    for name in ("prompt", "group_id"):
        assert not {row[name] for row in first} & {row[name] for row in second}


def test_passing_over_all_prompts_is_refused_by_the_field_that_mends_it(tmp_path, inputs):
    config = SMALL.model_copy(update={"skip_prompts": 14})
    with pytest.raises(UserError, match="there are 14 prompts and skip_prompts passes over 14") as refused:
        list(run(config, workspace(tmp_path, inputs)))
    assert refused.value.field == "skip_prompts"


def test_plain_prompts_do_as_well_and_are_judged_by_nobody(tmp_path, inputs):
    prompts = write_dataset(tmp_path, "prompts", [{"prompt": "Write a poem."}, {"prompt": "Write a poem."}])
    events = list(run(SMALL, workspace(tmp_path, {**inputs, "problems": prompts})))
    summary = next(event for event in events if isinstance(event, Summary)).values
    assert summary["n_rows"] == 1
    assert "liked" not in summary


@pytest.mark.parametrize(
    ("rows", "message"), [([], "has no rows"), ([{"prompt": "  "}], "no prompt with any text")]
)
def test_a_dataset_without_a_prompt_is_refused_by_name(tmp_path, inputs, rows, message):
    prompts = write_dataset(tmp_path, "prompts", rows)
    with pytest.raises(UserError, match=message) as refused:
        list(run(SMALL, workspace(tmp_path, {**inputs, "problems": prompts})))
    assert refused.value.field == "problems"
