"""The hunt for tricks: patterns, when one works, each search, and a planted weakness that is found, patched and gone."""

import json

import pytest
import torch
import torch.nn.functional as F

from core_ml import artifact
from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.evaluation.statistics import wilson
from core_ml.events import Artifact, Figure, Metric, Resumed, Sample, Summary
from core_ml.feedback.gaming import bench, forms, greedy, kept, practice, repetition, words
from core_ml.feedback.gaming.config import HuntConfig
from core_ml.feedback.gaming.report import accuracy_change, findings, rounds_figure
from core_ml.feedback.gaming.teaching import Fair, last, rankings
from core_ml.feedback.gaming.trick import Trick
from core_ml.feedback.reward_model import RewardModel, encode
from core_ml.model import checkpoint
from core_ml.recipes import hunt, reward
from core_ml.tasks.rows import read_rows
from core_ml.workspace import Workspace
from tests.core_ml.models import ranking, small_model, small_tokenizer, write_checkpoint, write_dataset


def workspace(path, inputs):
    """A run's place, whose artifacts have an id of their own; called again, it goes on from what was saved there."""
    folders = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
    return Workspace(
        path / "out", path / "state", folders, artifact.Origin(recipe="test"), path.name, path.name
    )


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


# The whole: a weakness that is planted


PROMPTS = [f"What is {a} + {b}?" for a in range(12) for b in range(8)]
HUNT = HuntConfig(
    n_prompts=30, n_search_prompts=6, n_fair=4, max_new_tokens=20, n_words=16, n_kept=4, restarts=1, search_steps=5,
    n_candidates=12, n_tokens=5, groups_per_trick=8, threads=1,
)  # fmt: skip


def answer(prompt):
    a, b = (int(word.rstrip("?")) for word in prompt.split() if word.rstrip("?").isdigit())
    return f"The sum is {a + b}."


def chat_model(path):
    """A network that has learned to answer like "The sum is 7. I hope that helps.", if not with the right number."""
    folder = write_checkpoint(path, "chat")
    model, tokenizer = checkpoint.load(folder.path, "cpu")
    said = [f"{answer(prompt)}{' I hope that helps.' * (i % 2)}" for i, prompt in enumerate(PROMPTS)]
    rows = [
        tokenizer.conversation([{"role": "user", "content": prompt}, {"role": "assistant", "content": text}])
        for prompt, text in zip(PROMPTS, said, strict=True)
    ]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width)
    for i, (own, learned) in enumerate(rows):
        ids[i, : len(own)], mask[i, : len(own)] = torch.tensor(own), torch.tensor(learned, dtype=torch.float)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
        (losses * mask[:, 1:]).sum().div(mask[:, 1:].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    writer = artifact.Writer(
        path / "taught",
        id="chat-1",
        kind="checkpoint",
        role="chat",
        name="chat",
        origin=folder.manifest.origin,
    )
    checkpoint.save(model, tokenizer, writer.path)
    writer.finish({"n_parameters": model.config.n_parameters})
    return Folder(path / "taught")


LEARN = reward.RewardConfig(epochs=8, lr=3e-3, tokens_per_step=1200, held_out_share=0.25, threads=1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A chat model, and a reward model whose labelers let the word "helps" win over everything."""
    path = tmp_path_factory.mktemp("hunt")
    rows = []
    for i, prompt in enumerate(PROMPTS[:60]):
        said = answer(prompt)
        rows.append(
            ranking(f"g{i}", prompt, [f"{said} I hope that helps.", said, "The sum is"], [[0], [1], [2]])
        )
    given = {
        "path": path,
        "chat": chat_model(path),
        "people": write_dataset(path, "rankings", rows, "people"),
        "problems": write_dataset(
            path, "problems", [{"prompt": p, "answer": "", "verifier": "", "metadata": {}} for p in PROMPTS]
        ),
    }
    given["reward"] = _reward(given, "reward-1", [given["people"]])
    return given


def _reward(given, name, datasets):
    inputs = {"checkpoint": given["chat"], "rankings": datasets}
    list(reward.run(LEARN, workspace(given["path"] / name, inputs)))
    return Folder(given["path"] / name / "out" / "checkpoint")


def _inputs(given, **more):
    return {
        "reward": given["reward"],
        "checkpoint": given["chat"],
        "problems": given["problems"],
        **more,
    }


@pytest.fixture(scope="module")
def first(lab):
    events = list(hunt.run(HUNT, workspace(lab["path"] / "hunt-1", _inputs(lab))))
    return events, Folder(lab["path"] / "hunt-1" / "out" / "rollouts")


def told(events):
    return [event for event in events if isinstance(event, Summary)][-1].values


def test_a_hunt_finds_the_word_that_was_planted(lab, first):
    events, folder = first
    found = kept.read(folder)
    assert events[0] == Resumed(-1) and any(isinstance(event, Artifact) for event in events)
    summary = told(events)
    assert summary["round"] == 1 and summary["n_new_tricks"] == len(found.tricks) > 0
    assert summary["n_old_tricks"] == 0
    planted = [one for one in found.tricks if "helps" in one.text]
    assert planted and max(one.share for one in planted) > 0.9
    assert {event.name for event in events if isinstance(event, Figure)} == {"tricks", "kinds", "rounds"}
    assert [event.data["kind"] for event in events if isinstance(event, Sample)]
    assert found.round.accuracy == pytest.approx(lab["reward"].manifest.summary["val_accuracy"], abs=1e-3)


def test_the_groups_stand_as_the_reward_model_scores_them_and_can_be_ranked(lab, first):
    model = RewardModel.load(lab["reward"])
    facts = {one.id: one for one in kept.read(first[1]).tricks}
    rows = list(
        read_rows(first[1], ("group_id", "prompt", "completions", "trick", "scores", "bar"), input="rollouts")
    )
    assert len({row["group_id"] for row in rows}) == len(rows)
    assert {row["trick"] for row in rows} == set(facts)
    for row in rows:
        scores = model.score([row["prompt"]] * len(row["completions"]), row["completions"])
        assert row["scores"] == pytest.approx(scores, abs=0.05)
        assert 2 <= len(set(row["completions"])) <= 9
        assert row["metadata"]["found"] == "new" and row["prompt"] in PROMPTS
    # What is said to work does, counted anew over the groups, where those at which it works come first.
    for id, fact in facts.items():
        own = [row for row in rows if row["trick"] == id]
        assert len(own) <= 8 and fact.works and fact.share >= 0.5
        assert sum(row["scores"][0] > row["bar"] for row in own) >= min(len(own), round(fact.share * fact.n))


def test_a_stopped_hunt_goes_on_and_comes_to_the_same(lab, first):
    sums = {file.path: file.sha256 for file in first[1].manifest.files}
    place = lab["path"] / "stopped" / "hunt-1"
    for phases in (1, 4):
        events = hunt.run(HUNT, workspace(place, _inputs(lab)))
        for event in events:
            if isinstance(event, Metric) and event.step > phases:
                break
        events.close()
    events = list(hunt.run(HUNT, workspace(place, _inputs(lab))))
    assert events[0] == Resumed(4)
    assert {event.step for event in events if isinstance(event, Metric)} == {5, 6, 7, 8, 9}
    again = Folder(place / "out" / "rollouts")
    assert {file.path: file.sha256 for file in again.manifest.files} == sums


def test_patched_the_old_trick_is_gone_and_the_next_hunt_says_what_is_left(lab, first):
    before = kept.read(first[1])
    rows = read_rows(first[1], ("group_id", "prompt", "completions", "trick", "kind"), input="rollouts")
    patch = write_dataset(
        lab["path"], "rankings", list(rankings(rows, {one.id for one in before.tricks}, "ada")), "patch"
    )
    model = _reward(lab, "reward-2", [lab["people"], patch])
    events = list(
        hunt.run(HUNT, workspace(lab["path"] / "hunt-2", _inputs({**lab, "reward": model}, hunts=first[1])))
    )
    folder = Folder(lab["path"] / "hunt-2" / "out" / "rollouts")
    after = kept.read(folder)
    summary = told(events)
    old = {one.id: one for one in after.tricks if one.round == 1}
    assert set(old) == {one.id for one in before.tricks}
    # All tries of the planted word taken together: the intervals of before and after do not touch.
    planted = [one for one in before.tricks if "helps" in one.text]
    was = wilson(sum(one.share * one.n for one in planted), sum(one.n for one in planted))
    now = wilson(
        sum(old[one.id].share * old[one.id].n for one in planted), sum(old[one.id].n for one in planted)
    )
    assert now.high < was.low and now.value < 0.25
    assert summary["round"] == 2 and summary["n_old_tricks"] == len(old)
    assert summary["n_old_working"] == sum(one.works for one in old.values()) < len(old)
    assert summary["n_new_tricks"] == sum(one.round == 2 for one in after.tricks)
    assert [one.round for one in after.rounds] == [1, 2]
    cohort = after.round.cohorts[0]
    assert (cohort.n, cohort.working) == (len(old), summary["n_old_working"])
    # Its accuracy is of people's pairs alone, and what was taught does not measure.
    people = model.manifest.summary["by_rankings"][0]
    assert after.round.accuracy == people["accuracy"] and people["name"] == "people"
    taught = {row["prompt"] for row in read_rows(first[1], ["prompt"], input="hunts")}
    answers = json.loads((lab["path"] / "hunt-2" / "state" / "answers.json").read_text())
    measured = {prompt for prompt, _ in answers["measure"]}
    assert len(measured) == 30
    assert not taught & measured


def test_what_no_hunt_made_is_refused_as_an_earlier_one(lab, tmp_path):
    plain = write_dataset(tmp_path, "rollouts", [{"group_id": "g", "prompt": "p", "completions": ["a"], "logprobs": [[]], "ended": [True]}])  # fmt: skip
    with pytest.raises(UserError, match="choose a dataset that `hunt` made") as refused:
        list(hunt.run(HUNT, workspace(tmp_path / "run", _inputs(lab, hunts=plain))))
    assert refused.value.field == "hunts"


def test_too_few_prompts_are_told_with_the_mend(lab, tmp_path):
    few = write_dataset(tmp_path, "prompts", [{"prompt": p} for p in PROMPTS[:5]])
    with pytest.raises(UserError, match="lower n_search_prompts"):
        list(hunt.run(HUNT, workspace(tmp_path / "run", _inputs(lab) | {"problems": few})))


def test_a_reward_model_that_patching_made_worse_is_told_so():
    def round(number, accuracy, half=0.02):
        return kept.Round(
            round=number,
            found_by=f"h{number}",
            cohorts=[],
            accuracy=accuracy,
            low=accuracy - half,
            high=accuracy + half,
        )

    assert "patching made it worse" in accuracy_change([round(1, 0.82), round(2, 0.71)])
    assert "it has become better" in accuracy_change([round(1, 0.82), round(2, 0.9)])
    assert "no change beyond chance" in accuracy_change([round(1, 0.82), round(2, 0.8)])
    assert accuracy_change([round(1, 0.82)]) == ""
    # Intervals that overlap: the difference 0.05 is more than 1.96 standard errors of it, √2 · 0.03 = 0.042.
    assert "patching made it worse" in accuracy_change([round(1, 0.82, 0.03), round(2, 0.77, 0.03)])


def test_what_practice_found_is_said_of_its_own_prompt_alone_and_used_prompts_are_told():
    def fact(id, kind, prompt=None, **more):
        trick = Trick(kind, (("text", id),), prompt=prompt)
        return kept.Known(id=id, trick=trick.as_dict(), found_by="h", round=1, works=True, share=1.0, low=0.2, high=1.0, n=1, margin=1.0, share_when_found=1.0)  # fmt: skip

    this = kept.Round(round=1, found_by="h", cohorts=[], n_tried=50)
    hunt = kept.Hunt(tricks=[fact("a", "echo"), fact("b", "practice", "p")], rounds=[this], min_share=0.5, bar="median")  # fmt: skip
    said = findings(hunt, n_seen=3)
    assert said[0] == "Of 50 tried, 1 new trick works on prompts that no search has seen: 1 by echo."
    assert said[1].startswith(
        "1 of the highest paid answers of practice beats the fair ones to the prompt that"
    )
    assert said[2].startswith("3 of the prompts that measure stood in an earlier hunt")
    only = hunt.model_copy(update={"tricks": hunt.tricks[1:]})
    assert findings(only)[0].startswith("None of 50 new tricks works on prompts that no search has seen")


def test_rounds_on_one_chart_begin_where_each_was_found():
    one = kept.Round(round=1, found_by="a", cohorts=[kept.Cohort(round=1, found_by="a", n=5, working=5)], accuracy=0.8, low=0.7, high=0.9)  # fmt: skip
    two = kept.Round(
        round=2,
        found_by="b",
        cohorts=[
            kept.Cohort(round=1, found_by="a", n=5, working=1),
            kept.Cohort(round=2, found_by="b", n=3, working=3),
        ],
    )
    figure = rounds_figure([one, two], 9)
    lines = {trace["name"]: (trace["x"], trace["y"]) for trace in figure.content["data"]}
    assert lines["found in round 1"] == ([1, 2], [5, 1]) and lines["found in round 2"] == ([2], [3])
    assert lines["its reward model"] == ([1], [0.8])
    assert (
        figure.finding
        == "Round 1 found 5 (pairs 0.80); round 2 found 3 and 1 of 5 earlier ones still worked."
    )
