"""The browser of a run's rollouts, its API, and the sentences about a reward that does not move."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core_ml.feedback.kept import FOLDER, SCHEMA, name_of
from lab.pages.rollouts import advantage_look, kl_look
from lab.services import metrics
from lab.services.artifacts import state_dir
from tests.lab.test_pages_home import EVIL, make_run

pytestmark = pytest.mark.django_db
V1 = "/api/v1"


def group(step, number, prompt, answers, kl=True):
    """answers: (tokens, reward, advantage of each token, KL of each token)."""
    return {
        "group_id": f"s{step}-{number}",
        "prompt": prompt,
        "completions": ["".join(tokens) for tokens, *_ in answers],
        "logprobs": [[-1.0] * len(tokens) for tokens, *_ in answers],
        "ended": [len(tokens) < 3 for tokens, *_ in answers],
        "metadata": "{}",
        "step": step,
        "rewards": [reward for _, reward, *_ in answers],
        "tokens": [tokens for tokens, *_ in answers],
        "advantages": [advantages for _, _, advantages, _ in answers],
        "kl": [nats for *_, nats in answers] if kl else None,
    }


ROUNDS = {
    1: [
        group(1, 0, "What is 2 + 3?", [(["5", "."], 1.0, [0.5, 0.5], [0.25, 0.5]), (["4"], -1.0, [-0.5], [0.0])]),
        group(1, 1, EVIL, [([EVIL], 0.0, [0.0], [0.0]), (["no", " ", "way"], 0.0, [0.0] * 3, [0.0] * 3)]),
    ],
    2: [group(2, 0, "Count to 3.", [(["1", "2", "3"], 2.0, [1.0] * 3, [2.0] * 3), (["1"], 0.5, [-1.0], [0.1])])],
}  # fmt: skip


@pytest.fixture
def practice(tmp_home):
    run = make_run("rlhf", "aligned", "running", config={"kl_coef": 0.1, "max_new_tokens": 3, "n_completions": 2},
                   progress={"step": 2, "total": 9})  # fmt: skip
    folder = state_dir(run) / "state" / FOLDER
    folder.mkdir(parents=True)
    for step, rows in ROUNDS.items():
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / name_of(step))
    points = [(step, {"reward": 0.0, "flat_groups": 0.8, "ended": 0.9}) for step in range(1, 10)]
    metrics.append(run, points)
    return run


def test_the_last_round_is_shown_with_what_each_token_was_credited_with(browser, practice):
    page = browser("researcher").get(f"/runs/{practice.pk}/rollouts").content.decode()
    assert "Count to 3." in page and "What is 2 + 3?" not in page
    assert '<span class="shade3" title="advantage +1.00, KL 2.000 nats">123</span>' in page
    assert "+1.00" in page and "3 tok, cut off" in page and "KL 6 nats" in page
    shaded = browser("researcher").get(f"/runs/{practice.pk}/rollouts?shade=kl").content.decode()
    assert '<span class="shade-3" title="advantage +1.00, KL 2.000 nats">123</span>' in shaded


@pytest.mark.parametrize(
    ("query", "wanted", "not_wanted"),
    [
        ("step=1&q=2+%2B", ["What is 2 + 3?"], ["Count to 3."]),
        ("step=all&min_reward=1", ["What is 2 + 3?", "Count to 3.", "1 to 2 of 2 answers"], ["no way"]),
        ("step=all&max_reward=-0.5", ["What is 2 + 3?", "1 to 1 of 1 answer."], ["Count to 3."]),
        ("step=all&min_tokens=3", ["Count to 3.", "no way", "1 to 2 of 2"], ["What is 2 + 3?"]),
        ("step=all&max_tokens=0", ["No answer fits."], ["Count to 3."]),
        ("step=7", ["No round &#x27;7&#x27; is kept; this is round 2.", "Count to 3."], []),
        ("min_reward=much&max_tokens=x", ["is no number: write one like −0.5.", "is no whole number."], []),
    ],
)
def test_filters_find_answers_by_step_prompt_reward_and_length(browser, practice, query, wanted, not_wanted):
    page = browser("researcher").get(f"/runs/{practice.pk}/rollouts?{query}").content.decode()
    assert all(words in page for words in wanted), page
    assert not any(words in page for words in not_wanted)


def test_what_a_model_wrote_is_text(browser, practice):
    page = browser("researcher").get(f"/runs/{practice.pk}/rollouts?step=1").content.decode()
    assert "<img" not in page and "all alike, so they teach nothing" in page


def test_the_page_says_why_a_reward_does_not_move(browser, api, practice):
    page = browser("researcher").get(f"/runs/{practice.pk}/rollouts").content.decode()
    assert (
        "The reward is flat: from 0.00" in page and "In 80% of the groups all answers earn the same" in page
    )
    told = api().get(f"{V1}/runs/{practice.pk}/why").json()
    assert told["headline"].startswith("The reward is flat") and len(told["reasons"]) == 1
    assert "n_completions 4" in told["reasons"][0]["tries"]
    assert api("labeler").get(f"{V1}/runs/{practice.pk}/why").status_code == 403
    assert api().get(f"{V1}/runs/{practice.pk + 1}/why").status_code == 404


def test_a_round_that_is_still_to_be_made_again_does_not_count(browser, practice):
    practice.progress = {"step": 1, "total": 9}
    practice.save()
    page = browser("researcher").get(f"/runs/{practice.pk}/rollouts").content.decode()
    assert "What is 2 + 3?" in page and "Count to 3." not in page


def test_runs_of_other_kinds_have_no_such_page_and_strangers_no_entry(browser, practice):
    other = make_run("pretrain")
    assert browser("researcher").get(f"/runs/{other.pk}/rollouts").status_code == 404
    assert "Rollouts" not in browser("researcher").get(f"/runs/{other.pk}").content.decode()
    assert browser(None).get(f"/runs/{practice.pk}/rollouts").status_code == 302
    assert browser("labeler").get(f"/runs/{practice.pk}/rollouts").status_code in (302, 403)


def test_the_api_tells_answers_with_their_tokens(api, practice):
    told = api().get(f"{V1}/runs/{practice.pk}/rollouts?sort=farthest&limit=1").json()
    assert told["count"] == 6
    (first,) = told["items"]
    assert (first["step"], first["text"], first["kl"], first["n_tokens"], first["number"]) == (
        2,
        "123",
        6,
        3,
        1,
    )
    assert first["advantages"] == [1, 1, 1] and first["token_kl"] == [2, 2, 2] and first["ended"] is False
    step = api().get(f"{V1}/runs/{practice.pk}/rollouts?step=1&min_reward=0.5").json()
    assert [item["text"] for item in step["items"]] == ["5."]
    assert api().get(f"{V1}/runs/{practice.pk}/rollouts?offset=6").json() == {"items": [], "count": 6}
    assert api().get(f"{V1}/runs/{make_run('sft').pk}/rollouts").json() == {"items": [], "count": 0}


@pytest.mark.parametrize(
    "query", ["step=x", "sort=reward;drop", "limit=101", "min_reward=nan", "min_tokens=-1"]
)
def test_the_api_names_what_it_cannot_read(api, practice, query):
    answer = api().get(f"{V1}/runs/{practice.pk}/rollouts?{query}")
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"]


def test_the_api_is_closed_to_strangers_and_labelers(api, practice):
    assert api(None).get(f"{V1}/runs/{practice.pk}/rollouts").status_code == 401
    assert api("labeler").get(f"{V1}/runs/{practice.pk}/rollouts").status_code == 403
    assert api().get(f"{V1}/runs/{practice.pk + 1}/rollouts").status_code == 404


def test_shades_are_thirds_of_the_largest_advantage_and_steps_of_kl():
    assert [advantage_look(value, 3.0) for value in (3, 2, 1.9, 0.5, 0.01, 0, -0.5, -3)] == [
        3, 2, 2, 1, 0, 0, -1, -3,
    ]  # fmt: skip
    assert advantage_look(0.0, 0.0) == advantage_look(float("nan"), 1.0) == 0
    assert [kl_look(value) for value in (0.0, 0.02, 0.3, 5.0)] == [0, -1, -2, -3]
