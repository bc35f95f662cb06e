"""What a judge is asked, and how its reply is read."""

import pytest

from core_ml.evaluation import judge_prompt
from core_ml.evaluation.judge_prompt import TEMPLATE, asked_for, check, filled, read, reference_of


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "left"),
        (" B.\n", "right"),
        ("**C**", "tie"),
        ("(A)", "left"),
        ("Answer B", "right"),
        ("Verdict: A", "left"),
        ("My final verdict is B.", "right"),
        ("Answer A is better.", "left"),
        ("The first is clear, the second wrong.\n\n[[A]]", "left"),
        ("[[B]]? No: it forgets the date. [[A]]", "left"),
        ("<think>[[B]] or so</think>\n[[A]]", "left"),
        ("B\n\nBecause it answers the question.", "right"),
        ("A good answer says why.", None),
        ("a", None),
        ("Both are fine", None),
        ("<think>it is A", None),
        ("", None),
        ("[[D]]", None),
    ],
)
def test_a_verdict_is_read_only_where_it_can_be_told_without_guessing(reply, verdict):
    assert read(reply) == verdict


def test_a_tie_that_was_not_offered_is_no_verdict():
    assert read("[[C]]", ties=False) is None and read("C", ties=False) is None
    assert read("[[B]]", ties=False) == "right"


def test_braces_in_what_people_wrote_stay_as_they_are():
    prompt = filled(TEMPLATE, "{answer_b} {x}", "first {verdict}", "second", verdict="Say A or B.")
    assert "[Request]\n{answer_b} {x}\n" in prompt
    assert "[Answer A]\nfirst {verdict}\n" in prompt and "[Answer B]\nsecond\n" in prompt
    assert prompt.endswith("Say A or B.") and "known to be right" not in prompt


def test_the_right_answer_stands_in_the_prompt_where_there_is_one():
    prompt = filled(TEMPLATE, "1 + 1?", "2", "3", verdict="", reference="two")
    assert "known to be right]\ntwo\n" in prompt


def test_a_template_that_hides_what_is_judged_is_refused_by_name():
    check(judge_prompt.SHORT)
    with pytest.raises(ValueError, match=r"\{answer_b\}"):
        check("{question} {answer_a} {verdict}")


def test_ties_and_reasons_change_what_is_asked_for():
    assert "C if" in asked_for(True, False) and "C if" not in asked_for(False, False)
    assert "[[A]]" in asked_for(True, True) and "[[" not in asked_for(True, False)


@pytest.mark.parametrize(
    ("metadata", "reference"),
    [
        ({"reference": "yes"}, "yes"),
        ({"reference": ["one", "two"]}, "one"),
        ({"answer": 42}, "42"),
        ({"answer": True}, None),
        ({"reference": "  "}, None),
        ({}, None),
    ],
)
def test_a_reference_is_what_came_with_the_group(metadata, reference):
    assert reference_of(metadata) == reference
