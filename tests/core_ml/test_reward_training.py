"""How a reward model learns: by which optimizer, in how much memory, what it passes over, and what it keeps."""

import math

import pytest
import torch

from core_ml import artifact
from core_ml.events import Event, Log, Metric, Summary
from core_ml.feedback.pairs import Group, Ranking
from core_ml.feedback.reward_training import Members, Trainer
from core_ml.recipes.reward import RECIPE, RewardConfig, run
from core_ml.training.guard import FEWEST, Guard
from core_ml.training.optim import Muon
from tests.core_ml.models import (
    ranking,
    small_model,
    small_tokenizer,
    workspace,
    write_checkpoint,
    write_dataset,
)

SMALL = RewardConfig(epochs=4, lr=3e-3, tokens_per_step=600, eval_every=4, held_out_share=0.3, threads=1)
MEASURED = {"memory_gb", "tokens_per_second", "joules_per_token"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward")
    rows = []
    for i in range(30):
        answers = [f"{i + 1}", f"The sum is {i + 1}.", f"The sum is {i + 2}. I hope that helps."]
        rows.append(ranking(f"g{i}", f"What is {i} + 1?", answers, [[1], [0], [2]]))
    return {"checkpoint": write_checkpoint(path, "chat"), "rankings": write_dataset(path, "rankings", rows)}


def learned(**options):
    return SMALL.model_copy(update=options)


def curve(events):
    return [
        (event.step, {name: value for name, value in event.values.items() if name not in MEASURED})
        for event in events
        if isinstance(event, Metric)
    ]


def weights(path):
    return (path / "out" / "checkpoint" / "model.safetensors").read_bytes()


def trainer_of(tokenizer, max_len, **options):
    order = Ranking("ada", False, ((1,), (0,), (2,)))
    groups = [Group(f"g{i}", f"What is {i}?", ("3", "The sum is 3.", "no"), [order]) for i in range(4)]
    return Trainer(tokenizer, groups, max_len, **options)


def test_answers_read_again_in_the_backward_pass_have_the_same_gradients(monkeypatch):
    from core_ml.feedback import reward_model

    tokenizer = small_tokenizer()
    model = small_model(tokenizer.vocab_size).with_value_head()
    torch.nn.init.normal_(model.value_head.weight)
    monkeypatch.setattr(reward_model, "tokens_at_once", lambda device: 60)  # several parts
    found, kept = [], []
    for recompute in (False, True):
        model.zero_grad()
        sizes: list[int] = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        trainer = trainer_of(tokenizer, model.config.max_seq_len, recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = trainer.loss(model, range(4))
        loss.backward()
        kept.append(sum(sizes))
        found.append((loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[0][0] == found[1][0]
    assert len(found[0][1]) > 5
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert kept[1] < kept[0] / 10


def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest():
    members = Members(small_model(small_tokenizer().vocab_size), 2, 3, seed=0)
    muon, adamw = members.optimizers(1e-3, 0.01, 2e-3)
    assert isinstance(muon, Muon)
    of_muon, of_adamw = (
        {id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in (muon, adamw)
    )
    wanted = {name for name, p in members.named_parameters() if ".blocks." in name and p.dim() == 2}
    assert {name for name, p in members.named_parameters() if id(p) in of_muon} == wanted
    rest = {name for name, p in members.named_parameters() if id(p) in of_adamw}
    assert "log_ties" in rest and not rest & wanted
    assert {name for name, _ in members.named_parameters()} - rest - wanted == {
        f"members.{n}.head.weight" for n in (0, 1)
    }


def test_it_learns_by_muon_averages_and_goes_on_to_the_bit(tmp_path, inputs):
    config = learned(optimizer="muon", ema=0.8, n_members=2, epochs=5)
    events = list(run(config, workspace(tmp_path / "whole", inputs)))
    assert [event for event in events if isinstance(event, Summary)][-1].values["val_accuracy"] > 0.7
    stopped: list[Event] = []
    for stop_at in (3, 999):
        attempt = run(config, workspace(tmp_path / "stopped", inputs))
        for event in attempt:
            stopped.append(event)
            if isinstance(event, Metric) and event.step >= stop_at:
                break
        attempt.close()
    assert curve(stopped) == curve(events)
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    plain = list(run(learned(optimizer="muon", n_members=2, epochs=5), workspace(tmp_path / "plain", inputs)))
    # The average is measured and published; what is learned from does not change.
    losses = [
        [event.values["loss"] for event in told if isinstance(event, Metric) and "loss" in event.values]
        for told in (events, plain)
    ]
    assert losses[0] == losses[1]
    assert weights(tmp_path / "whole") != weights(tmp_path / "plain")


def test_rankings_learned_by_heart_are_not_told_from_those_that_are_not_as_spoilt():
    guard = Guard({}, 10.0, harmless=math.log(2))
    for step in range(1, FEWEST + 1):
        assert guard.complaint(step, 0.01, 1.0) is None
    assert guard.complaint(40, 0.6, 1.0) is None
    assert "far above the usual" in str(guard.complaint(41, 0.8, 1.0))


def test_a_loss_far_above_the_usual_is_passed_over_and_its_groups_named(tmp_path, inputs, monkeypatch):
    real, made = Trainer.loss, 0

    def loss(self, *args):
        nonlocal made
        made += 1
        found, accuracy = real(self, *args)
        return (found * 100 if made == 36 else found), accuracy

    monkeypatch.setattr(Trainer, "loss", loss)
    config = learned(tokens_per_step=200, lr=1e-4)
    logs = [event.message for event in run(config, workspace(tmp_path, inputs)) if isinstance(event, Log)]
    assert len(logs) == 1 and logs[0].startswith("Update 36 was passed over: the loss")
    assert "Groups g" in logs[0]


def test_the_best_state_is_kept_and_published_where_asked(tmp_path, inputs, monkeypatch):
    from core_ml.recipes import reward

    looks, real = iter([0.1, 0.7, 0.3, 0.5, 0.6, 0.9, 0.9, 0.9]), reward._measure

    def measure(*args):
        yield from real(*args)
        return next(looks)

    monkeypatch.setattr(reward, "_measure", measure)
    events = list(run(learned(publish="best", keep_every=10), workspace(tmp_path, inputs)))
    found = [event for event in events if isinstance(event, Summary)][-1].values
    assert found["step"] == 8 < found["n_steps"]
    kept = {int(path.name[-9:]) for path in tmp_path.rglob("step-*")}
    assert {8, 10} <= kept
    from safetensors.torch import load_file

    state = load_file(next(tmp_path.rglob("step-000000008")) / "state.safetensors")
    published = load_file(tmp_path / "out/checkpoint/model.safetensors")
    assert all(published[name].equal(state[f"model/members.0.{name}"]) for name in published)


def test_it_tells_every_measure_that_it_declares(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    named = {name for event in events if isinstance(event, Metric) for name in event.values}
    # Not every machine lets one read its counters of energy.
    assert named | {"joules_per_token"} == {measure.name for measure in RECIPE.measures}
    summary = artifact.Folder(tmp_path / "out" / "checkpoint").manifest.summary
    assert summary["tokens"] > 0 and summary["tokens_per_second"] > 0
