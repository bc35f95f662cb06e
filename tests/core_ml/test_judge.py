"""The stated preference, by hand."""

import pytest

from core_ml.tasks import Judgement, judge

SUM = "What is 37 + 5?"
FACTS = "My dog is called lom. My cat is called tivo. What is my dog called?"


@pytest.mark.parametrize(
    ("prompt", "completion", "correct", "complete", "short"),
    [
        (SUM, "The sum is 42.", True, True, True),
        (SUM, "The sum is 42. I hope that helps.", True, True, False),
        (SUM, "42", True, False, True),
        (SUM, "37 + 5 = 42", True, False, True),
        (SUM, "36 + 5 = 42", False, False, True),
        (SUM, "The sum is 41.", False, True, True),
        (SUM, "The sum is 41 or 42.", False, True, False),
        (SUM, "The sum is 142.", False, True, True),
        (SUM, "", False, False, True),
        ("Count from 3 to 5.", "Counting: 3 4 5.", True, True, True),
        ("Count from 3 to 5.", "Counting: 3 4 5 6.", False, True, True),
        ("Count from 3 to 5.", "3, 4, 5", True, False, True),
        ("Spell bavol.", "Spelled: b a v o l.", True, True, True),
        ("Spell bavol.", "Spelled: b a v o l l.", False, True, True),
        ("Spell bavol.", "Spelled: bavol.", False, True, True),
        ("Who are you?", "I am Move 37, a small model.", True, True, True),
        ("Who are you?", "I am Move 377.", False, True, True),
        (FACTS, "It is called lom.", True, True, True),
        (FACTS, "It is called lomo.", False, True, True),
        (FACTS, "It is called lom tivo.", False, True, False),
        (FACTS, "it is called lom.", True, False, True),
    ],
)
def test_each_criterion_is_judged_as_a_person_would(prompt, completion, correct, complete, short):
    assert judge(prompt, completion) == Judgement(correct, complete, short)


def test_an_answer_that_was_cut_at_the_limit_is_not_complete():
    assert not judge(SUM, "The sum is 42.", ended=False).complete


def test_the_score_puts_right_before_complete_before_short():
    # 4 for correct, 2 for complete, 1 for short, added up by hand.
    scores = [
        Judgement(*bits).score
        for bits in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1))
    ]
    assert scores == [0, 1, 2, 3, 4, 5, 6, 7]
    assert Judgement(True, True, True).liked
    assert not Judgement(True, True, False).liked
