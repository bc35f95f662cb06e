"""What a run of practice says about itself: why a reward is flat, and when it stopped helping."""

import pytest

from core_ml.feedback.reasons import headline, is_flat, reasons
from core_ml.feedback.rlhf_report import reward_over_kl, stopped_improving, wins

SOUND = {
    "reward": [i / 10 for i in range(30)],
    "kl": [i / 20 for i in range(30)],
    "flat_groups": [0.05] * 30,
    "group_std": [0.5] * 30,
    "ended": [0.9] * 30,
    "mean_tokens": [20.0] * 30,
    "clipfrac": [0.05] * 30,
    "entropy": [1.0] * 30,
}
CONFIG = {"max_new_tokens": 48, "n_completions": 6, "kl_coef": 0.02, "lr": 1e-3}


def test_a_sound_run_is_given_no_reason():
    assert reasons(SOUND, CONFIG) == []
    # Thirds of ten: means 0.45 and 2.45.
    assert (
        headline(SOUND) == "The reward rises: from 0.45 in the first third of the rounds to 2.45 in the last."
    )


def test_a_reward_is_flat_where_its_rise_is_within_twice_its_standard_error():
    noise = [1.0, -1.0] * 15
    assert is_flat(noise) and headline({"reward": noise}).startswith("The reward is flat: from 0.00")
    assert not is_flat([value / 10 + i / 10 for i, value in enumerate(noise)])
    assert headline({"reward": [1.0] * 5}) == "5 rounds are too few to say whether the reward moves."


@pytest.mark.parametrize(
    ("changes", "what", "tries"),
    [
        (
            {"flat_groups": [0.6] * 30},
            "In 60% of the groups all answers earn the same",
            "n_completions 12",
        ),
        ({"ended": [0.1] * 30}, "90% of the answers are cut off at the limit of 48 tokens", "max_new_tokens to 96"),
        ({"ended": [0.0] * 30}, "Every answer is cut off", "eos_penalty"),
        ({"kl": [40.0] * 30}, "KL has exploded: 40 nats an answer, 2.0 a token", "kl_coef (0.02 here) to 0.06"),
        ({"reward": [6.0] * 30, "group_std": [0.1] * 30}, "saturated: its mean of 6.0", "train the reward model again"),
        ({"clipfrac": [0.5] * 30}, "50% of the tokens hit the clip", "Halve lr (to 0.0005)"),
        ({"entropy": [2.0] * 15 + [0.1] * 15}, "entropy fell from 2.00 to 0.10", "entropy_coef"),
        ({"reward": [1.0, -1.0] * 15, "kl": [0.01] * 30}, "hardly moved: 0.01 nats", "Raise lr (0.001 here)"),
        ({"value_loss": [0.1] * 15 + [0.4] * 15}, "value head grows worse: its loss rose from 0.1 to 0.4", "RLOO"),
    ],
)  # fmt: skip
def test_each_cause_is_told_from_the_figures_with_what_to_try(changes, what, tries):
    found = reasons({**SOUND, **changes}, CONFIG)
    assert len(found) == 1
    assert what in found[0].what and tries in found[0].tries


def test_missing_figures_are_no_reason():
    assert reasons({}, {}) == []
    assert reasons({"reward": [0.0] * 30, "kl": [None] * 30}, CONFIG) == []


def look(step, rewards, **more):
    return {"step": step, "rewards": rewards, "judged": {}, **more}


def test_a_win_counts_one_a_tie_a_half():
    assert wins(look(0, [0.0, 1.0, 2.0]), look(5, [1.0, 1.0, 0.0]), "reward") == [1, 0.5, 0]
    judged = {"correct": [1.0, 0.0], "complete": [0.0, 1.0], "short": [0.0, 1.0]}
    other = {"correct": [0.0, 1.0], "complete": [1.0, 0.0], "short": [1.0, 0.0]}
    # 4 against 2 + 1, and the other way round.
    before, after = ({"rewards": [0, 0], "judged": one} for one in (judged, other))
    assert wins(before, after, "judged") == [0, 1]


def test_it_says_when_the_win_rate_stopped_improving():
    looks = [look(0, [0.0] * 40), look(5, [1.0] * 20 + [0.0] * 20), look(10, [1.0] * 38 + [0.0] * 2),
             look(15, [1.0] * 39 + [0.0]), look(20, [1.0] * 38 + [0.0] * 2)]  # fmt: skip
    # Win rates 0.5, 0.75, 0.975, 0.9875, 0.975: half a prompt more is chance, eighteen are not.
    step, said = stopped_improving(looks)
    assert step == 10
    assert said == (
        "The win rate against the start by the reward model itself stopped improving at step 10 of 20 (98%)."
    )


def test_it_says_when_practice_did_harm_in_the_end():
    gold = [[0.0] * 40, [1.0] * 40, [-1.0] * 40]
    looks = [look(step, [float(step)] * 40, gold=one) for step, one in zip((0, 5, 10), gold, strict=True)]
    step, said = stopped_improving(looks)
    assert step == 5  # a gold model is believed rather than the reward model, which likes every step
    assert said == (
        "The win rate against the start by a gold model stopped improving at step 5 of 10 (100%). It fell to 0% by "
        "the end, from 100% at step 5."
    )


def test_a_run_that_never_helped_and_one_that_still_helps_are_told_apart():
    assert stopped_improving([look(0, [0.0] * 9), look(5, [0.0] * 9)])[1].endswith(
        "never became better than those at the start by more than chance."
    )
    rising = [look(0, [0.0] * 40), look(5, [1.0] * 20 + [0.0] * 20), look(10, [1.0] * 40)]
    assert "still rising at the last step (100%)" in stopped_improving(rising)[1]


ROUNDS = [
    {"reward": 0.0, "kl": 0.0, "liked": 0.2, "correct": 0.4},
    {"reward": 0.5, "kl": 1.0, "liked": 0.4, "correct": 0.4},
    {"reward": 1.0, "kl": 2.0, "liked": 0.6, "correct": 0.4},
    {"reward": 1.5, "kl": 9.0, "liked": 0.8, "correct": 0.1},
]


def test_the_reward_and_the_shares_stand_in_panels_of_their_own_over_one_axis():
    figure = reward_over_kl(ROUNDS)
    data, layout = figure.content["data"], figure.content["layout"]
    assert [(trace["name"].split()[0], trace["yaxis"]) for trace in data] == [("reward", "y"), ("liked", "y2"), ("correct", "y2")]  # fmt: skip
    assert all(trace["x"] == [0, 1, 2**0.5, 3] and "xaxis" not in trace for trace in data)
    assert "overlaying" not in layout["yaxis2"]
    assert layout["yaxis"]["domain"][0] > layout["yaxis2"]["domain"][1]  # they do not overlap
    assert layout["xaxis"]["anchor"] == "y2"


def test_the_text_of_the_figure_says_what_its_curves_come_to():
    # Means of the first and last three rounds: reward 0.5 and 1, liked 0.4 and 0.6, correct 0.4 and 0.3, KL 4.
    assert reward_over_kl(ROUNDS).finding == (
        "While the model moved to √KL 2.00, the reward went from 0.50 to 1.00, the share liked from 40% to 60%, the "
        "share correct from 40% to 30% (means of the first and last 3 rounds)."
    )


def test_without_a_stated_preference_there_is_one_panel_and_the_text_says_why():
    figure = reward_over_kl([{"reward": one["reward"], "kl": one["kl"]} for one in ROUNDS])
    assert "yaxis2" not in figure.content["layout"]
    assert len(figure.content["data"]) == 1
    assert figure.finding.endswith("No stated preference can judge these prompts.")
