"""An aligned model that goes on practising: what it is compared with, and how far it may stand from where it came from."""

import pytest

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Metric
from core_ml.model import checkpoint
from core_ml.recipes.rlhf import RlhfConfig, run
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.core_ml.models import TEXTS, small_model, workspace, write_checkpoint, write_dataset

SMALL = RlhfConfig(
    steps=3, prompts_per_step=4, n_completions=4, max_new_tokens=8, n_watched=5, threads=1, lr=3e-3
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("rlhf")
    rows = [
        {"prompt": f"What is {i} + 1?", "answer": "", "verifier": "task", "metadata": {"task": "add"}}
        for i in range(20)
    ]
    return {
        "checkpoint": write_checkpoint(path, "chat"),
        "reward": write_checkpoint(path, "reward", seed=1, value_head=True),
        "problems": write_dataset(path, "problems", rows),
    }


def first_round(events):
    found = {}
    for event in events:
        if isinstance(event, Metric) and event.step == 1:
            found |= event.values
    return found


def test_the_distance_of_a_second_turn_is_measured_to_the_reference_or_else_to_its_own_start(
    tmp_path, inputs
):
    list(run(SMALL, workspace(tmp_path / "first", inputs)))
    again = {**inputs, "checkpoint": artifact.Folder(tmp_path / "first" / "out" / "checkpoint")}
    apart, itself = (
        first_round(run(SMALL, workspace(tmp_path / name, {**again, **more})))
        for name, more in (("apart", {"reference": inputs["checkpoint"]}), ("itself", {}))
    )
    # The first round's answers are the same model's on the same prompts.
    assert apart["mean_tokens"] == itself["mean_tokens"]
    assert itself["kl"] == pytest.approx(0, abs=1e-4)
    assert apart["kl"] > 1e-3


def test_a_reference_with_another_tokenizer_is_refused(tmp_path, inputs):
    tokenizer = Tokenizer.train([*TEXTS[:5], "zebras fizz and buzz"], 300)
    origin = artifact.Origin(recipe="test")
    writer = artifact.Writer(
        tmp_path / "other", id="o", kind="checkpoint", role="chat", name="other", origin=origin
    )
    checkpoint.save(small_model(tokenizer.vocab_size), tokenizer, writer.path)
    writer.finish({})
    given = {**inputs, "reference": artifact.Folder(tmp_path / "other")}
    with pytest.raises(UserError, match="other reads with another tokenizer") as refused:
        list(run(SMALL, workspace(tmp_path, given)))
    assert refused.value.field == "reference"
