"""The recipe that makes conversations and problems."""

import pytest

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Artifact, Resumed, Sample, Summary
from core_ml.execute import read_config
from core_ml.recipes.conversations import RECIPE, ConversationsConfig, run
from core_ml.tasks import judge, solve
from core_ml.tasks.rows import read_rows
from core_ml.workspace import Workspace

SMALL = ConversationsConfig(n_conversations=300, n_problems=100, n_held_out=5)


def workspace(path):
    origin = artifact.Origin(recipe="conversations")
    return Workspace(path / "out", path / "state", {}, origin, "r1", "tiny")


def rows_of(path, output, columns):
    return list(read_rows(artifact.Folder(path / "out" / output), columns, input=output))


def test_it_makes_three_datasets_that_fit_each_other(tmp_path):
    events = list(run(SMALL, workspace(tmp_path)))
    assert events[0] == Resumed(-1)
    assert [e.output for e in events if isinstance(e, Artifact)] == ["conversations", "problems", "held_out"]
    conversations = rows_of(tmp_path, "conversations", ["messages"])
    assert len(conversations) == 300
    for row in conversations:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert solve(user["content"]) is not None
        good = judge(user["content"], assistant["content"]).liked
        assert good == (row["metadata"]["writer"] == "good")
    trained = {row["prompt"] for row in rows_of(tmp_path, "problems", ["prompt"])}
    held_out = rows_of(tmp_path, "held_out", ["prompt", "answer", "verifier"])
    assert len(held_out) == 25
    assert not trained & {row["prompt"] for row in held_out}
    assert all(solve(row["prompt"]) == row["answer"] and row["verifier"] == "task" for row in held_out)
    summary = next(e for e in events if isinstance(e, Summary)).values
    assert summary["n_held_out"] == 25
    assert sum(isinstance(e, Sample) for e in events) == 8


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        list(run(SMALL, workspace(tmp_path / name)))
    sums = [
        [file.sha256 for file in artifact.Folder(tmp_path / name / "out" / "conversations").manifest.files]
        for name in ("a", "b")
    ]
    assert sums[0] == sums[1]


def test_stopping_half_way_leaves_nothing_visible(tmp_path):
    events = run(SMALL, workspace(tmp_path))
    for _ in range(10):
        next(events)
    events.close()
    assert not [p for p in (tmp_path / "out").iterdir()]


@pytest.mark.parametrize("kind", ["share", "style"])
def test_weights_that_are_all_zero_are_refused_by_name(kind):
    zeros = {name: 0 for name in ConversationsConfig.model_fields if name.startswith(f"{kind}_")}
    with pytest.raises(UserError, match="at least one a weight above 0") as refused:
        read_config(RECIPE, zeros)
    assert refused.value.field.startswith(kind)


def test_a_task_without_weight_is_left_out_everywhere(tmp_path):
    config = SMALL.model_copy(update={"share_add": 0})
    list(run(config, workspace(tmp_path)))
    for output, columns in (("problems", ["prompt"]), ("held_out", ["prompt"])):
        assert all(row["metadata"]["task"] != "add" for row in rows_of(tmp_path, output, columns))
