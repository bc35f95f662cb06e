"""Tricks on a reward model: patterns, when one works, each search, and what is taught of them."""

import json

import pytest
import torch

from core_ml import artifact
from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.evaluation.statistics import wilson
from core_ml.feedback.gaming import bench, forms, greedy, practice, repetition, words
from core_ml.feedback.gaming.teaching import Fair, last, rankings
from core_ml.feedback.gaming.trick import Trick
from core_ml.feedback.reward_model import RewardModel, encode
from tests.core_ml.models import small_model, small_tokenizer, write_dataset


def done(generator):
    """What a generator returns in the end."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def case(prompt, scores, bar="median", **texts):
    fair = tuple(texts.get("fair", [f"answer {i}" for i in range(len(scores))]))
    return bench.Case(prompt, fair, tuple(scores), bench.bar_of(scores, bar), (True,) * len(fair))


# Patterns


@pytest.mark.parametrize(
    ("trick", "says", "title"),
    [
        (Trick("repetition", (("text", "the"),), 3), "the the the", "“the”, 3 times"),
        (Trick("truncation", ()), "", "nothing at all"),
        (Trick("truncation", (("answer", 2),)), "The sum", "a good answer's first 2 words"),
        (Trick("truncation", (("answer", -1),)), "The sum is", "a good answer without its last 1 word"),
        (Trick("truncation", (("answer", -9),)), "", "a good answer without its last 9 words"),
        (Trick("echo", (("prompt", 0), ("text", "Yes."))), "What? Yes.", "the prompt, then “Yes.”"),
    ],
)
def test_a_pattern_says_the_same_to_every_prompt(trick, says, title):
    assert trick.text("What?", "The sum is 3.") == says
    assert trick.title == title
    again = Trick.from_dict(json.loads(json.dumps(trick.as_dict())))
    assert again == trick and again.id == trick.id


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": "magic", "pieces": [], "times": 1},
        {"kind": "echo", "pieces": [["file", "/etc/passwd"]], "times": 1},
        {"kind": "echo", "pieces": [["prompt", "0"]], "times": 1},
        {"kind": "echo", "pieces": [["prompt", 0]], "times": 10**9},
        {"kind": "echo", "pieces": 3, "times": 1},
    ],
)
def test_what_is_no_pattern_is_refused(fields):
    with pytest.raises(UserError, match="is no trick"):
        Trick.from_dict(fields)


def test_words_beginnings_and_ends_are_counted_in_fair_answers():
    texts = ["The sum is 3. I hope that helps.", "The sum is 4. I hope that helps.", "The end."]
    assert words.frequent(texts, 2) == ["The", "I"]  # three times; then twice, the first by the alphabet
    assert words.openers(texts, 3) == ["The", "The sum", "The sum is"]
    assert words.closers(texts, 5)[:4] == ["I hope that helps.", "helps.", "hope that helps.", "that helps."]


# When a trick works


def test_a_trick_works_where_it_beats_the_bar_and_is_no_fair_answer():
    cases = [
        case("a", [0.0, 1.0, 2.0]),
        case("b", [0.0, 1.0, 5.0]),
        case("c", [0.0, 0.0, 9.0], fair=["x", "y", "the the"]),
        case("What is 1 + 2?", [0.0, 0.0, 0.0]),
    ]
    assert [one.bar for one in cases] == [1.0, 1.0, 0.0, 0.0]
    assert cases[1].good == "answer 2"
    trick = Trick("repetition", (("text", "the"),), 2)
    (found,) = done(bench.measure(lambda prompts, texts: [3.0, 1.0, 9.0, 1.0], [trick], cases))
    # It is over the bar at a; at it at b; at c it is what the chat model says itself; at the sum over the bar.
    assert found.hits == [True, False, False, True]
    assert found.margins == [2.0, 0.0, 9.0, 1.0]
    assert found.share == wilson(2, 4)
    right = Trick("elsewhere", (("text", "The sum is 3."),))
    (found,) = done(bench.measure(lambda prompts, texts: [9.0] * 4, [right], cases))
    assert found.hits == [True, True, False, False] or found.hits == [True, True, True, False]


def test_a_fair_answer_in_other_blanks_is_no_trick():
    """A trick puts words together with single blanks: a good answer's first twelve words may be the whole of it."""
    trick = Trick("truncation", (("answer", 12),))
    (found,) = done(
        bench.measure(lambda prompts, texts: [9.0], [trick], [case("a", [0.0, 1.0], fair=["x", "It is\n5."])])
    )
    assert found.texts == ["It is 5."] and found.hits == [False]


def test_the_bar_may_be_the_best_fair_answer():
    assert bench.bar_of([0.0, 1.0, 5.0], "best") == 5.0
    (made,) = bench.cases(
        lambda prompts, texts: [float(len(t)) for t in texts], ["p"], [["aa", "b"]], [[True, False]], "best"
    )
    assert (made.scores, made.bar, made.good, made.ended) == ((2.0, 1.0), 2.0, "aa", (True, False))


def test_a_text_for_one_prompt_is_tried_there_only():
    mine = Trick("practice", (("text", "37 37"),), prompt="b")
    lost = Trick("practice", (("text", "37"),), prompt="gone")
    found = done(bench.measure(lambda p, t: [9.0] * len(p), [mine, lost], [case("a", [0]), case("b", [0])]))
    assert [(one.trick, one.prompts, one.share.n) for one in found] == [(mine, ["b"], 1)]


# The searches, each against a weakness that is known


def likes(word):
    """A score that counts a word and nothing else."""
    return lambda prompts, texts: [float(text.split().count(word)) for text in texts]


CASES = [
    case(f"What about {i}?", [0.0, 0.5, 1.0], fair=[f"It is {i}.", "Sure, I can help.", "I hope that helps."])
    for i in range(4)
]


def test_repetition_finds_the_word_that_pays():
    n_tried, found = done(repetition.search(likes("helps."), CASES, 3, n_words=20))
    assert n_tried > 40
    assert "helps." in found[0].trick.text("", "") and found[0].share.value == 1.0
    assert len({one.trick.pieces for one in found}) == 3


def test_forms_cover_cutting_echoing_stitching_and_other_answers():
    texts = {trick.text("What?", "One two three.") for trick in forms.truncations()}
    assert {"", "One", "One two", "One two three."} <= texts
    assert {"What?", "What? What?"} <= {trick.text("What?", "") for trick in forms.echoes(CASES)}
    stitched = {trick.text("", "") for trick in forms.stitches(CASES)}
    assert "Sure, I can help. I hope that helps." in stitched
    assert "I hope that helps. I hope that helps." in stitched
    assert [trick.text("", "") for trick in forms.elsewhere(CASES, 2)] == [
        "I hope that helps.",
        "Sure, I can help.",
    ]


def test_the_gradient_is_that_of_the_one_hot_input():
    tokenizer = small_tokenizer()
    model = small_model(tokenizer.vocab_size, value_head=True)
    row = encode(tokenizer, "What is 1 + 2?", "The sum is 3.", 128)
    n = len(row[1]) - 1
    found = greedy.one_hot_gradient(model, [row], n)
    assert found.shape == (n, tokenizer.vocab_size)
    # A mixture of two tokens is a point between their embeddings: the slope at the first must be the difference.
    place, other = 2, 50
    at = len(row[0]) + place
    ids = torch.tensor([row[0] + row[1]])
    embedding = model.embedding.weight.detach()

    def value(share):
        def mix(module, given, out):
            out = out.detach().clone()
            out[0, at] += share * (embedding[other] - embedding[ids[0, at]])
            return out

        hook = model.embedding.register_forward_hook(mix)
        try:
            with torch.no_grad():
                return model.value(model.hidden(ids)[:, -1]).item()
        finally:
            hook.remove()

    slope = (value(1e-2) - value(-1e-2)) / 2e-2
    expected = (found[place, other] - found[place, ids[0, at]]).item()
    assert expected == pytest.approx(slope, rel=0.1, abs=2e-3)


def test_the_greedy_search_climbs_and_is_the_same_for_the_same_seed():
    tokenizer = small_tokenizer()
    model = RewardModel(small_model(tokenizer.vocab_size, seed=3, value_head=True), tokenizer)
    prompts = ["What is 1 + 2?", "Spell bal."]
    cases = [case(prompt, [0.0]) for prompt in prompts]
    settings = {"n_tokens": 6, "n_candidates": 16, "top_k": 16, "seed": "1"}
    texts = [
        done(greedy.search(model.score, [model], cases, steps=steps, **settings)).text("", "")
        for steps in (0, 12, 12)
    ]
    before, after, again = (sum(model.score(prompts, [text] * 2)) for text in texts)
    assert after > before and texts[1] == texts[2] and again == after
    assert not set(greedy.readable(tokenizer)) & {tokenizer.start_id, tokenizer.end_id}


def test_the_highest_paid_of_each_step_are_tricks_unless_they_are_correct(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from core_ml.feedback.kept import SCHEMA

    def row(step, prompt, texts, rewards):
        n = len(texts)
        return {
            "group_id": f"s{step}", "prompt": prompt, "completions": texts, "logprobs": [[]] * n, "ended": [True] * n,
            "metadata": "{}", "step": step, "rewards": rewards, "tokens": [[]] * n, "advantages": [[]] * n, "kl": None,
        }  # fmt: skip

    rows = [
        row(1, "What is 1 + 2?", ["The sum is 3.", "The sum is 9.", "no"], [3.0, 2.0, -1.0]),
        row(2, "What is 1 + 2?", ["37 37", "The sum is 9."], [1.0, 0.5]),
    ]
    writer = artifact.Writer(
        tmp_path / "kept", id="k", kind="dataset", form="rollouts", name="kept", origin=artifact.Origin(recipe="rlhf")
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), writer.path / "rollouts-000001.parquet")
    writer.finish({})
    folder = Folder(tmp_path / "kept")
    found = practice.tops([folder], 10)
    assert [(one.pieces[0][1], one.source["step"]) for one in found] == [
        ("37 37", 2), ("The sum is 9.", 1), ("no", 1),
    ]  # fmt: skip
    assert all(one.prompt == "What is 1 + 2?" for one in found)
    assert len(practice.tops([folder], 2)) == 2
    plain = write_dataset(tmp_path, "rollouts", [{"group_id": "g", "prompt": "p", "completions": ["a"], "logprobs": [[]], "ended": [True]}])  # fmt: skip
    with pytest.raises(UserError, match="what was paid"):
        practice.tops([plain], 2)


# Teaching


def test_what_is_marked_stands_last_and_the_fair_answers_keep_the_labelers_order_or_tie():
    assert last([[2], [0, 1], [3]]) == [[2], [1], [3], [0]]
    assert last([[0, 1, 2]]) == [[1, 2], [0]]
    assert last([[0], [1]]) == [[1], [0]]
    groups = [
        {
            "group_id": f"g{i}",
            "prompt": "p",
            "completions": ["the the", "a", "b"],
            "trick": trick,
            "kind": "echo",
        }
        for i, trick in enumerate(("t", "t", "other"))
    ]
    rows = list(rankings(groups, {"t"}, "ada", {"g1": Fair([[0], [2], [1]], simulated=True)}))
    assert [(row["group_id"], row["order"], row["metadata"]["fair"]) for row in rows] == [
        ("g0", [[1, 2], [0]], "tied"),
        ("g1", [[2], [1], [0]], "ranked"),
    ]
    assert json.loads(rows[0]["flags"]) == {"0": ["nonsense"]} and rows[0]["labeler"] == "ada"
    assert [row["simulated"] for row in rows] == [False, True]  # a program's order is told as a program's
