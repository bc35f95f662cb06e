"""The five tasks: problems, writers, and the split."""

import random
from collections import Counter
from itertools import islice

import pytest

from core_ml.tasks import solve
from core_ml.tasks.preference import judge, read, sentence
from core_ml.tasks.problems import TASKS, Difficulty, draw, draw_evenly, is_held_out
from core_ml.tasks.writers import STYLES, write


@pytest.mark.parametrize("held_out", [False, True])
def test_solving_a_prompt_from_its_text_agrees_with_its_generator_on_thousands_of_problems(held_out):
    level = Difficulty(max_augend=5000, max_addend=5000, max_count_start=5000, max_facts=6)
    for settings in (None, level):
        for problem in islice(draw(3, held_out=held_out, level=settings), 4000):
            assert solve(problem.prompt) == problem.answer, problem
            assert read(problem.prompt).task == problem.task


def test_the_same_seed_gives_the_same_problems_and_another_gives_others():
    first, again, other = (list(islice(draw(seed, held_out=False), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_problem_stands_on_both_sides_of_the_split_in_any_wording():
    trained = {(p.task, p.key) for p in islice(draw(0, held_out=False), 20_000)}
    tested = {(p.task, p.key) for p in islice(draw(1, held_out=True), 5_000)}
    assert not trained & tested
    # Twenty of a hundred keys are held out: 99 x 9 sums are enough to see it within two of a hundred.
    sums = [is_held_out(p) for p in (draw_sum(a, b) for a in range(100) for b in range(10))]
    assert 0.17 < sum(sums) / len(sums) < 0.23


def draw_sum(a, b):
    from core_ml.tasks.problems import Problem

    return Problem("add", f"{a} + {b} = ?", str(a + b), f"{a}+{b}")


def test_the_mixture_weighs_the_tasks():
    counts = Counter(
        p.task for p in islice(draw(0, held_out=False, mixture={"add": 3, "who": 1, "copy": 0}), 4000)
    )
    assert set(counts) == {"add", "who"}
    assert counts["add"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_held_out_problems_come_evenly_and_never_twice():
    problems = draw_evenly(20, seed=5)
    assert len({p.prompt for p in problems}) == len(problems)
    counts = Counter(p.task for p in problems)
    assert all(counts[task] == 20 for task in TASKS if task != "who")
    assert 4 <= counts["who"] <= 20  # it has 128 wordings in all, a fifth of them held out
    assert all(is_held_out(p) for p in problems)


def test_the_right_answers_are_those_worked_out_by_hand():
    assert solve("What is 97 + 8?") == "105"
    assert solve("Add 5 and 0.") == "5"
    assert solve("Please count from 8 to 11.") == "8 9 10 11"
    assert solve("How do you spell tukal?") == "t u k a l"
    assert solve("Hello. Who are you?") == "Move 37"
    assert solve("My dog is called lom. My cat is called tivo. What is my dog called?") == "lom"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "What is 3 * 4?",
        "Count from 9 to 2.",
        "Count from 1 to 999999999.",
        "What is my dog called?",
        "Spell Ä.",
    ],
)
def test_a_prompt_of_no_task_has_no_answer(prompt):
    assert solve(prompt) is None
    with pytest.raises(ValueError, match="no task of ours"):
        judge(prompt, "Hello.")


def test_only_the_good_writer_is_liked_and_the_others_fail_in_their_own_way():
    rng = random.Random(0)
    seen: dict[str, set] = {writer: set() for writer in STYLES}
    for problem in islice(draw(0, held_out=False), 3000):
        answer, writer = write(problem, rng)
        j = judge(problem.prompt, answer)
        seen[writer].add((j.correct, j.complete, j.short))
    assert seen["good"] == {(True, True, True)}
    assert seen["rambling"] == {(True, True, False)}
    # The bare answer of "who" begins with a capital and has no full stop either: never complete.
    assert seen["bare"] == {(True, False, True)}
    assert all(not complete and short for _, complete, short in seen["cut_off"])


def test_styles_follow_their_weights():
    rng = random.Random(1)
    problem = next(draw(0, held_out=False))
    writers = Counter(write(problem, rng)[1] for _ in range(5000))
    assert writers["rambling"] / 5000 == pytest.approx(0.5, abs=0.03)
    assert writers["cut_off"] / 5000 == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("task", TASKS)
def test_the_good_sentence_of_every_task_is_liked(task):
    for problem in draw_evenly(5, 0, (task,)):
        assert judge(problem.prompt, sentence(task, problem.answer)).liked
