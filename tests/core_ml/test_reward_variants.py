"""Ensembles, rankings with ties, what counts beside the text, imported bodies, and the reports of a reward run."""

import json
import math

import pytest
import torch

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.evaluation.statistics import clustered, wilson
from core_ml.events import Figure, Metric, Summary
from core_ml.feedback import reward_figures
from core_ml.feedback.orders import as_share
from core_ml.feedback.pairs import Group, Ranking
from core_ml.feedback.reward_model import FILE, RewardModel
from core_ml.model import checkpoint
from core_ml.recipes import import_model
from core_ml.recipes.reward import RECIPE, RewardConfig, run
from tests.core_ml import published
from tests.core_ml.models import ranking, workspace, write_checkpoint, write_dataset
from tests.core_ml.test_protocol import CHATML_TEMPLATE, FOREIGN, theirs

QUICK = {
    "epochs": 2,
    "lr": 3e-3,
    "tokens_per_step": 600,
    "eval_every": 50,
    "held_out_share": 0.3,
    "threads": 1,
}


@pytest.fixture(scope="module")
def rankings(tmp_path_factory):
    """Two labelers, who tie the bare and the wrong answer in every third group."""
    rows = []
    for i in range(16):
        answers = [f"{i + 1}", f"The sum is {i + 1}.", f"The sum is {i + 2}. I hope that helps."]
        order = [[1], [0, 2]] if i % 3 == 0 else [[1], [0], [2]]
        rows.append(ranking(f"g{i}", f"What is {i} + 1?", answers, order))
        rows.append(ranking(f"g{i}", f"What is {i} + 1?", answers, [[1], [0], [2]], labeler="eve"))
    return write_dataset(tmp_path_factory.mktemp("rankings"), "rankings", rows)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("chat"), "chat")


def trained(path, chat, rankings, **changes):
    events = list(
        run(RewardConfig(**QUICK | changes), workspace(path, {"checkpoint": chat, "rankings": rankings}))
    )
    return events, artifact.Folder(path / "out" / "checkpoint")


def test_an_ensemble_is_one_checkpoint_with_a_mean_and_a_spread(tmp_path, chat, rankings):
    events, folder = trained(tmp_path, chat, rankings, n_members=3)
    reward = RewardModel.load(folder)
    assert len(reward.members) == 3 and folder.manifest.summary["n_members"] == 3
    prompts, texts = ["What is 1 + 1?"] * 2, ["The sum is 2.", "no"]
    by_member = reward.scores(prompts, texts)
    assert len({tuple(own) for own in by_member}) == 3
    assert reward.score(prompts, texts) == pytest.approx(
        [sum(own) / 3 for own in zip(*by_member, strict=True)]
    )
    by_hand = [torch.tensor(own).std(correction=0).item() for own in zip(*by_member, strict=True)]
    assert reward.spread(prompts, texts) == pytest.approx(by_hand)
    assert folder.manifest.summary["members_spread"] > 0
    # Three times the steps of one member, which takes turns with the others.
    steps = [event.step for event in events if isinstance(event, Metric) and "lr" in event.values]
    assert steps == list(range(1, folder.manifest.summary["n_steps"] + 1)) and len(steps) % 3 == 0


def test_an_ensemble_that_was_stopped_goes_on_to_the_bit(tmp_path, chat, rankings):
    _, whole = trained(tmp_path / "whole", chat, rankings, n_members=2, loss="plackett_luce")
    config = RewardConfig(**QUICK, n_members=2, loss="plackett_luce")
    events = run(config, workspace(tmp_path / "part", {"checkpoint": chat, "rankings": rankings}))
    for event in events:
        if isinstance(event, Metric) and event.step >= 3:
            break
    events.close()
    _, stopped = trained(tmp_path / "part", chat, rankings, n_members=2, loss="plackett_luce")
    sums = [{file.path: file.sha256 for file in one.manifest.files} for one in (whole, stopped)]
    assert sums[0] == sums[1] and "member-2.safetensors" in sums[0]


def test_scores_of_the_training_prompts_have_mean_0_and_spread_1_and_show_as_shares(tmp_path, chat, rankings):
    _, folder = trained(tmp_path, chat, rankings, n_members=2, held_out_share=0.1)
    reward, held_out = RewardModel.load(folder), {f"What is {i} + 1?" for i in range(16)}
    kept = json.loads((folder.path / FILE).read_text())
    assert (kept["mean"], kept["std"]) == (reward.mean, reward.std)
    import pyarrow.parquet as pq

    from core_ml.feedback import orders
    from core_ml.feedback.pairs import read_rankings, split

    groups, out = split(read_rankings(rankings).groups, 0.1, 0)
    assert {g.id for g in out} == set(pq.read_table(folder.file(orders.FILE))["group_id"].to_pylist())
    assert {g.prompt for g in groups} < held_out
    prompts = [g.prompt for g in groups for _ in g.completions]
    texts = [text for g in groups for text in g.completions]
    for values in (reward.score(prompts, texts), *reward.scores(prompts, texts)):
        assert sum(values) / len(values) == pytest.approx(0, abs=0.02)
    values = torch.tensor(reward.score(prompts, texts))
    assert values.std(correction=0).item() == pytest.approx(1, abs=0.02)
    # 1 / (1 + e^-1), and no overflow however high a score is.
    assert (
        as_share(0) == 0.5 and as_share(1) == pytest.approx(0.7310586) and as_share(-1e9) == pytest.approx(0)
    )


def test_a_reward_model_whose_file_is_damaged_is_refused(tmp_path, chat, rankings):
    _, folder = trained(tmp_path, chat, rankings, epochs=0.1, n_members=2)
    good = json.loads((folder.path / FILE).read_text())
    for change in ({"std": 0}, {"shifts": []}, {"mean": "high"}, {"surface": {"names": ["soul"]}}):
        (folder.path / FILE).write_text(json.dumps(good | change))
        with pytest.raises(UserError, match="damaged"):
            RewardModel.load(folder)
    (folder.path / FILE).write_text(json.dumps(good))
    (folder.path / "member-2.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        RewardModel.load(folder)


def test_surface_features_count_beside_the_text_and_length_can_be_kept_out(tmp_path, chat, rankings):
    _, with_features = trained(tmp_path / "a", chat, rankings, surface_features=True, epochs=0.5)
    reward = RewardModel.load(with_features)
    assert reward.surface is not None and not reward.surface.left_out
    bare = RewardModel(reward.model, reward.tokenizer, reward.mean, reward.std)
    text = "The sum is 2."
    beside = reward.surface.scores(["p"], [text])[0]
    assert reward.score(["p"], [text])[0] == pytest.approx(
        bare.score(["p"], [text])[0] + beside / reward.std, abs=1e-4
    )
    _, without_length = trained(tmp_path / "b", chat, rankings, length_control=True, epochs=0.5)
    assert RewardModel.load(without_length).surface.left_out == ("characters",)


def test_a_run_tells_how_sure_it_is_and_whether_more_rankings_would_help(tmp_path, chat, rankings):
    events, _ = trained(tmp_path, chat, rankings, learning_curve=2, label_smoothing=0.1)
    figures = {event.name: event for event in events if isinstance(event, Figure)}
    assert {"held_out_pairs", "calibration", "by_length", "by_places", "best_of_n", "learning_curve"} <= set(
        figures
    )
    curve = figures["learning_curve"].content["data"][0]
    # 11 of 16 prompts are learned from: a quarter, a half and all of them.
    assert curve["x"] == [2, 5, 11]
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    assert curve["y"][-1] == pytest.approx(summary["val_accuracy"], abs=1e-4)
    assert summary["val_accuracy_labelers"] == 1.0  # where one of two tied, they are not compared
    assert any("two people, they agree with each other" in sentence for sentence in summary["findings"])


def imported(path, network, template, **options):
    """A checkpoint from a folder as `transformers` writes it, with random weights."""
    published.make(network, vocab_size=FOREIGN.vocab_size + 5).save_pretrained(path / "in")
    tokenizer = theirs(template)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(path / "in")
    config = import_model.ImportModelConfig(path=str(path / "in"), **options)
    list(import_model.run(config, workspace(path / "imported", {})))
    return artifact.Folder(path / "imported" / "out" / "checkpoint")


@pytest.mark.parametrize(
    ("network", "template", "options"),
    [
        ("llama", CHATML_TEMPLATE, {"role": "chat"}),
        ("gemma2", CHATML_TEMPLATE, {"role": "chat"}),
        ("gpt2", None, {"chat_tokens": True}),
        ("qwen3", None, {"chat_tokens": True}),
    ],
)
def test_an_imported_model_can_be_the_body(network, template, options, tmp_path, rankings):
    body = imported(tmp_path, network, template, **options)
    assert body.manifest.role in RECIPE.takes["checkpoint"].accepts
    _, folder = trained(tmp_path / "reward", body, rankings, epochs=4, n_members=2)
    assert folder.manifest.summary["val_accuracy"] > 0.6
    # What was saved reads the conversation in the protocol that the body was taught, with the body's own network.
    reward, (start, tokenizer) = RewardModel.load(folder), checkpoint.load(body.path)
    assert reward.model.config == start.config.model_copy(update={"value_head": True})
    assert reward.tokenizer.protocol == tokenizer.protocol
    ids = [*tokenizer.prompt([{"role": "user", "content": "p"}]), *tokenizer.encode("a"), tokenizer.end_id]
    raw = reward.model.value(reward.model.hidden(torch.tensor([ids]))[:, -1]).item()
    expected = (raw - reward.shifts[0] - reward.mean) / reward.std
    assert reward.scores(["p"], ["a"])[0][0] == pytest.approx(expected, abs=0.05)


def test_an_imported_model_that_cannot_read_a_conversation_is_told(tmp_path, rankings):
    body = imported(tmp_path, "gpt2", None)
    with pytest.raises(UserError, match="import it with chat_tokens") as error:
        trained(tmp_path / "reward", body, rankings)
    assert error.value.field == "checkpoint"


def group(n, *orders, texts=None):
    return Group(
        "g", "p", texts or tuple("x" * (i + 1) for i in range(n)), [Ranking("a", False, o) for o in orders]
    )


def points(figure):
    trace = figure.content["data"][-1]
    return list(zip(trace["x"], trace["y"], trace["customdata"], strict=True))


def test_best_of_n_is_the_mean_over_all_sets_of_n():
    # People: 2 above 1 above 0 (worths 1, 1/2, 0). The model: 1 above 2 above 0.
    one = group(3, ((2,), (1,), (0,)))
    (figure,) = reward_figures.best_of_n([one, one], [[0, 2, 1], [0, 2, 1]], 7)
    traces = {trace["name"]: trace["y"] for trace in figure.content["data"]}
    # One: 1/2. Two: {0,1} 1/2, {0,2} 1, {1,2} 1/2. Three: 1/2.
    assert traces["this model"] == pytest.approx([0.5, 2 / 3, 0.5], abs=1e-4)
    # People, and the longest, which is their best: 1/2; {0,1} 1/2, {0,2} 1, {1,2} 1; 1.
    assert traces["people themselves"] == traces["the longest"] == pytest.approx([0.5, 5 / 6, 1], abs=1e-4)
    # Two that are tied are worth the same: the place between the first and the second of three, 3/4.
    assert reward_figures._worth(group(3, ((2, 1), (0,)))) == [0, 0.75, 0.75]


def test_calibration_holds_what_it_says_against_what_is_so():
    # Margins of 1 on a scale of log 3 say 3/4, margins of 2 say 9/10.
    groups = [group(2, ((0,), (1,))) for _ in range(20)]
    rewards = [[1, 0]] * 6 + [[0, 1]] * 4 + [[2, 0]] * 9 + [[0, 2]]
    (figure,) = reward_figures.calibration(groups, rewards, math.log(3), 0)
    found = points(figure)
    assert sum(n for _, _, n in found) == 20
    assert [(x, y) for x, y, _ in found] == [pytest.approx((0.825, 0.75))] or found == [
        (pytest.approx(0.75), pytest.approx(0.6), 10),
        (pytest.approx(0.9), pytest.approx(0.9), 10),
    ]


def test_right_by_length_and_by_places():
    texts = ("x" * 10, "x" * 40, "x" * 41)
    ranked = group(3, ((1,), (2,), (0,)), texts=texts)
    (by_length,) = reward_figures.by_length([ranked], [[3, 2, 1]], 0)
    # 1 over 2 is of like length and right; 1 and 2 over 0 are more than twice as long and wrong.
    assert points(by_length) == [("like length", 1.0, 1), ("twice as long or more", 0.0, 2)]
    (by_places,) = reward_figures.by_places([ranked], [[3, 2, 1]], 0)
    assert points(by_places) == [("1", 0.5, 2), ("2", 0.0, 1)]
    assert list(reward_figures.by_places([group(2, ((0,), (1,)))], [[1, 0]], 0)) == []


def test_a_learning_curve_says_whether_more_would_help():
    rising = [(10, wilson(55, 100)), (20, wilson(65, 100)), (40, wilson(75, 100))]
    assert "so more would likely help" in reward_figures.learning_curve(rising, 0).finding
    assert "rose: 55%, then 75%" in reward_figures.learning_curve(rising, 0).finding
    flat = [(10, wilson(70, 100)), (20, wilson(71, 100)), (40, wilson(71, 100))]
    finding = reward_figures.learning_curve(flat, 0).finding
    assert "no more than chance may do" in finding and "hardly help" in finding
    assert clustered([[1.0]]).n == 1


def test_labelers_count_by_how_far_the_others_bear_them_out(tmp_path, chat):
    rows = []
    for i in range(16):
        answers = [f"{i + 1}", f"The sum is {i + 1}.", f"The sum is {i + 2}. I hope that helps."]
        prompt = f"What is {i} + 1?"
        rows += [ranking(f"g{i}", prompt, answers, [[1], [0], [2]], labeler=who) for who in ("ada", "eve")]
        rows.append(ranking(f"g{i}", prompt, answers, [[2], [0], [1]], labeler="mal"))
    rankings = write_dataset(tmp_path / "rankings", "rankings", rows)
    _, folder = trained(tmp_path / "with", chat, rankings, weigh_labelers=True)
    weights = folder.manifest.summary["labeler_weights"]
    assert weights["mal"] == 0 and min(weights["ada"], weights["eve"]) > 0.9
    # Without what mal says the sound answer stands above the wrong one in every group.
    reward = RewardModel.load(folder)
    for i in range(16):
        sound, wrong = reward.score(
            [f"What is {i} + 1?"] * 2, [rows[3 * i]["completions"][k] for k in (1, 2)]
        )
        assert sound > wrong
    _, folder = trained(tmp_path / "without", chat, rankings)
    assert "labeler_weights" not in folder.manifest.summary


def test_votes_without_texts_teach_nothing_and_are_refused(tmp_path, chat):
    rows = [
        ranking(f"g{i}", f"prompt {i}", ["[a]", "[b]"], [[0], [1]], metadata={"without_texts": True})
        for i in range(4)
    ]
    rankings = write_dataset(tmp_path / "rankings", "rankings", rows)
    with pytest.raises(UserError, match="texts are not in it"):
        trained(tmp_path, chat, rankings)
