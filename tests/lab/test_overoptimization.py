"""Gold against proxy of a run of practice: the page, its API, runs side by side, and what can be done with the peak."""

import json
import math
import re

import pytest
from django.utils import timezone

from lab.models import Run
from lab.queries import overoptimization as queries
from lab.services import metrics, runs
from tests.lab.test_pages_home import EVIL, make_artifact, make_run

pytestmark = pytest.mark.django_db
V1 = "/api/v1"
STEPS = range(0, 101, 5)


def gold(d, alpha=0.6, beta=0.5):
    return d * (alpha - beta * math.log(d)) if d else 0.0


def look(step, alpha=0.6, beta=0.5, sem=0.02):
    """√KL grows by 0.05 a step; gold is on the curve, whose peak is at exp(alpha / beta - 1)."""
    d = step * 0.05
    wins = min(0.95, max(0.05, 0.5 + 0.4 * gold(d, alpha, beta)))
    return {
        "val_kl": d * d,
        "val_proxy_z": 0.5 * d,
        "val_proxy_z_sem": sem if step else 0.0,
        "val_gold_z": gold(d, alpha, beta),
        "val_gold_z_sem": sem if step else 0.0,
        "val_reward": 0.2 + 0.4 * d,
        "val_gold": 0.1 + 0.8 * gold(d, alpha, beta),
        "val_win_rate": wins,
    }


def practice(
    name="aligned",
    status="succeeded",
    points=None,
    n_rankings=480,
    with_gold=True,
    chat=None,
    **config,
):
    chat = chat or make_artifact(make_run("sft", "chat"), "checkpoint", "checkpoint", "chat")
    reward = make_artifact(make_run("reward", "proxy"), "checkpoint", "checkpoint", "reward", summary={"n_rankings": n_rankings})  # fmt: skip
    takes = [("checkpoint", chat), ("reward", reward)]
    if with_gold:
        judge = make_run("reward", "the better judge")
        takes.append(("gold", make_artifact(judge, "checkpoint", "checkpoint", "reward")))
    run = make_run("rlhf", name, status, takes, config={"n_watched": 400, "seed": 3, **config}, given=config,
                   ended=None if status == "running" else timezone.now())  # fmt: skip
    metrics.append(run, points if points is not None else [(step, look(step)) for step in STEPS])
    return run


def told(page, id="over-plot"):
    """The figure that the page's script draws."""
    return json.loads(re.search(rf'<script id="{id}" type="application/json">(.*?)</script>', page, re.S)[1])


def test_the_page_plots_both_over_the_distance_and_marks_the_peak_with_its_interval(browser):
    run = practice()
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    figure = told(page)
    names = [trace["name"] for trace in figure["data"]]
    assert names == ["proxy", "gold", "", ""]
    proxy, curve, points, stones = figure["data"]
    assert proxy["x"][-1] == pytest.approx(5) and proxy["y"][-1] == pytest.approx(2.5)
    assert points["x"] == pytest.approx([step * 0.05 for step in STEPS])
    assert points["error_y"]["array"][1:] == pytest.approx([1.96 * 0.02] * 20, rel=1e-3)
    top = max(range(len(curve["y"])), key=curve["y"].__getitem__)
    assert curve["x"][top] == pytest.approx(math.exp(0.2), abs=0.05)
    # The band is the interval of the curve's peak and holds the true one, 1.2214, as the dotted line does.
    band, line = figure["layout"]["shapes"]
    assert band["x0"] < math.exp(0.2) < band["x1"] and line["x0"] == pytest.approx(math.exp(0.2), abs=0.1)
    assert any("between" in one["text"] for one in figure["layout"]["annotations"])
    assert stones["text"] == ["a", "b", "c"] and stones["x"][1] == pytest.approx(1.25)
    assert "here, to step 25." in page and "has fallen since by more than chance" in page
    assert "480" in page and "0.60, 0.50" in page


def test_the_runs_own_pages_lead_there_and_other_kinds_have_no_such_page(browser):
    run, other = practice(), make_run("pretrain")
    assert f"/runs/{run.pk}/overoptimization" in browser().get(f"/runs/{run.pk}").content.decode()
    assert browser().get(f"/runs/{other.pk}/overoptimization").status_code == 404
    assert "Over-optimisation" not in browser().get(f"/runs/{other.pk}").content.decode()


def test_strangers_and_labelers_do_not_enter(browser, api):
    run = practice()
    assert browser(None).get(f"/runs/{run.pk}/overoptimization").status_code == 302
    assert browser("labeler").get(f"/runs/{run.pk}/overoptimization").status_code in (302, 403)
    assert api(None).get(f"{V1}/runs/{run.pk}/overoptimization").status_code == 401
    assert api("labeler").get(f"{V1}/runs/{run.pk}/overoptimization").status_code == 403
    assert api().get(f"{V1}/runs/{run.pk + 1}/overoptimization").status_code == 404


def test_answers_of_one_prompt_stand_under_the_three_points(browser):
    run = practice()
    for step in STEPS:
        run.samples.create(step=step, prompt="Count to 3.", text="1 2 3", data={"reward": 0.1})
        run.samples.create(
            step=step, prompt=EVIL, text=f"{EVIL} at {step}", data={"reward": 0.01 * step, "judged": None}
        )
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    # The one whose answers changed comes first: at 10 (half of the way), at 25 (the peak) and at 100.
    assert all(f"onerror=&quot;alert(1)&quot;&gt; at {step}" in page for step in (10, 25, 100))
    assert "<img" not in page and "“1 2 3”" not in page
    assert "step 25, the peak" in page and "step 100, the end" in page
    other = browser().get(f"/runs/{run.pk}/overoptimization?prompt=1").content.decode()
    assert other.count("“1 2 3”") == 3
    wrong = browser().get(f"/runs/{run.pk}/overoptimization?prompt=77")
    assert wrong.status_code == 200 and f"at {25}" in wrong.content.decode()


def test_other_runs_are_laid_over_it_with_a_table_by_their_rankings(browser):
    chat = make_artifact(make_run("sft", "chat"), "checkpoint", "checkpoint", "chat")
    few = practice("few", chat=chat, n_rankings=50)
    # Peaks at exp(0.8 / 0.4 - 1) = 2.72, later than 1.22.
    many = practice(
        "many", points=[(step, look(step, 0.8, 0.4)) for step in STEPS], n_rankings=5000, chat=chat
    )
    page = browser().get(f"/runs/{few.pk}/overoptimization?with={many.pk}").content.decode()
    assert "More rankings, a later peak" in page and page.count("rankings</figcaption>") == 2
    assert [trace["name"] for trace in told(page)["data"]] == ["proxy", "gold", "", f"#{many.pk}", "", ""]
    rows = re.findall(r"<tr[^>]*><th scope=\"row\"><a [^>]*>#\d+ (\w+)</a>.*?</tr>", page, re.S)
    assert rows == ["few", "many"]
    # The other way round the same two show the same, and which run is the page's is marked.
    page = browser().get(f"/runs/{many.pk}/overoptimization?with={few.pk}").content.decode()
    assert "More rankings, a later peak" in page
    # The heading says only what the runs show.
    none = practice(
        "none", points=[(step, look(step, 0.5, 0.5)) for step in STEPS], n_rankings=9000, chat=chat
    )
    page = browser().get(f"/runs/{many.pk}/overoptimization?with={few.pk}&with={none.pk}").content.decode()
    assert "By number of rankings" in page and "More rankings, a later peak" not in page


def test_what_is_no_run_of_practice_is_told(browser, api):
    run, other = practice(), make_run("pretrain")
    page = browser().get(f"/runs/{run.pk}/overoptimization?with={other.pk},{EVIL}").content.decode()
    assert page.count("is no run of practice that the lab has") == 2 and "<img" not in page
    for words in (str(other.pk), "x", "1,2,3,4,5,6,7,8,9", "9" * 30):
        answer = api().get(f"{V1}/runs/{run.pk}/overoptimization?with={words}")
        assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "with", words
    answer = api().get(f"{V1}/runs/{other.pk}/overoptimization")
    assert (
        answer.status_code == 422 and "practises against no reward" in answer.json()["errors"][0]["message"]
    )


def test_the_api_tells_looks_fit_and_peak(api):
    run, other = practice(), practice("other")
    answer = api().get(f"{V1}/runs/{run.pk}/overoptimization?with={other.pk}").json()
    assert answer["fit"]["alpha"] == pytest.approx(0.6) and answer["fit"]["beta"] == pytest.approx(0.5)
    assert answer["fit"]["peak_d"] == pytest.approx(math.exp(0.2)) and answer["fit"]["believed"]
    low, high = answer["fit"]["peak_interval"]
    assert low < math.exp(0.2) < high
    assert (answer["best_step"], answer["fell"], answer["judge"], answer["standard"]) == (
        25,
        True,
        "model",
        True,
    )
    assert len(answer["looks"]) == 21
    assert answer["looks"][2]["d"] == pytest.approx(0.5) and answer["looks"][2]["kl"] == pytest.approx(0.25)
    assert [row["run"] for row in answer["runs"]] == [run.pk, other.pk]
    assert answer["runs"][0]["n_rankings"] == 480 and answer["runs"][0]["gold_at_end"] < 0


def test_a_run_without_gold_is_told_by_its_win_rate(browser, api):
    """Wins rise to 85 % at step 50 and fall to 55 %; of 400 prompts that is more than chance."""
    points = [(s, {"val_reward": 0.01 * s, "val_kl": 0.04 * s, "val_liked": 0.5, "val_win_rate": 0.85 - 0.006 * abs(s - 50)}) for s in STEPS]  # fmt: skip
    run = practice(with_gold=False, points=points)
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    figure = told(page)
    assert [trace["name"] for trace in figure["data"]] == ["proxy", "wins", ""]
    assert figure["layout"]["yaxis2"]["tickformat"] == ".0%"
    assert "The win rate, judged by the stated preference, was best at step 50" in page
    assert "Nobody stands above the reward model" in page
    # Wilson's interval of 340 of 400 by hand: 0.85 is between 0.812 and 0.882.
    assert "(81 % to 88 %)" in page
    answer = api().get(f"{V1}/runs/{run.pk}/overoptimization").json()
    assert answer["fit"] is None and answer["best_step"] == 50 and answer["fell"]
    # The looks around step 50 are not told apart: 0.79 of 400 is within chance of the best of 21 at 0.85, 0.76 is not.
    assert answer["stopped_improving"] == 40


def test_a_run_that_is_its_own_judge_is_told_so(browser):
    points = [
        (s, {"val_reward": 0.01 * s, "val_kl": 0.04 * s, "val_win_rate": 0.5 + 0.004 * s}) for s in STEPS
    ]
    run = practice(with_gold=False, points=points)
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    assert (
        "The reward model is its own judge here" in page and "was highest at the last look, step 100" in page
    )


def test_an_older_run_is_told_in_its_judges_own_units_over_the_rounds_distance(browser, api):
    old = [(s, {"kl": 0.04 * s}) for s in range(1, 101)]
    for s in STEPS:
        old.append(
            (
                s,
                {
                    "val_reward": 0.2 + 0.01 * s,
                    "val_gold": 0.1 + gold((0.04 * s) ** 0.5),
                    "val_win_rate": 0.6,
                },
            )
        )
    run = practice(points=sorted(old, key=lambda one: one[0]))
    answer = api().get(f"{V1}/runs/{run.pk}/overoptimization").json()
    assert not answer["standard"]
    assert answer["looks"][0] == {"step": 0, "kl": 0.0, "d": 0.0, "proxy": 0.0, "proxy_sem": None, "gold": 0.0, "gold_sem": None, "win_rate": 0.6}  # fmt: skip
    assert answer["looks"][5]["d"] == pytest.approx(1.0) and answer["looks"][5]["proxy"] == pytest.approx(
        0.25
    )
    assert answer["fit"]["alpha"] == pytest.approx(0.6)
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    assert "own units" in page and "kept no errors of its gold" in page


def test_where_no_distance_was_measured_the_looks_stand_by_step(browser):
    points = [(s, {"val_reward": 0.01 * s, "val_gold": 0.2, "val_win_rate": 0.6}) for s in STEPS]
    run = practice(points=points)
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    assert told(page)["layout"]["xaxis"]["title"]["text"] == "step"
    assert "the distance was not measured" in page


@pytest.mark.parametrize("points", [[], [(0, look(0))]])
def test_a_run_that_has_only_begun_says_what_will_stand_there(browser, api, points):
    run = practice(points=points, status="running")
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    assert "measured yet" in page and "over-plot" not in page
    assert api().get(f"{V1}/runs/{run.pk}/overoptimization").json()["finding"] == "Nothing is measured beyond the start yet."  # fmt: skip


def test_the_peak_is_kept_to_go_on_from_and_to_talk_to(browser, api):
    run = practice(kl_coef=0.0)
    make_artifact(run, "checkpoint", "checkpoint", "aligned")
    peak = make_artifact(run, "peak", "checkpoint", "aligned")
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    assert "Step 25 is kept" in page and f"/playground?model={peak.pk}&amp;mode=chat" in page
    form = re.search(r'id="go-on" href="([^"]+)"', page)[1].replace("&amp;", "&")
    filled = browser().get(form).content.decode()
    reward = run.inputs.get(name="reward").artifact_id
    assert f'value="{peak.pk}" selected' in filled and f'value="{reward}" checked' in filled
    assert re.search(r'name="config.kl_coef"[^>]*value="0.0"', filled)
    assert api().get(f"{V1}/runs/{run.pk}/overoptimization").json()["peak"] == peak.pk


def test_where_gold_never_fell_the_last_checkpoint_is_the_best(api, browser):
    run = practice(points=[(s, look(s, 0.9, 0.2)) for s in STEPS])  # would peak at exp(3.5)
    last = make_artifact(run, "checkpoint", "checkpoint", "aligned")
    assert api().get(f"{V1}/runs/{run.pk}/overoptimization").json()["peak"] == last.pk
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    assert "The last step is the best one measured" in page and not told(page)["layout"]["shapes"]


def test_a_running_run_whose_gold_fell_can_be_finished_from_the_page(browser):
    run = practice(status="running")
    page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
    assert f'action="/runs/{run.pk}/finish"' in page and "finish-now" in page and 'data-fresh="val_"' in page
    rising = practice(status="running", points=[(s, look(s, 0.9, 0.2)) for s in STEPS])
    assert "finish-now" not in browser().get(f"/runs/{rising.pk}/overoptimization").content.decode()


def test_whether_it_has_fallen_a_running_run_says_itself_as_it_compares_prompt_by_prompt(browser, api):
    def said(told):
        """Gold 0.5, then 0.44 with errors of 0.02 each: 0.06 is 2.1 standard errors of the unpaired difference."""
        values = [(0, 0.0), (5, 0.5), (10, 0.44), (15, 0.44), (20, 0.44), (25, 0.44)]
        points = [(s, look(s) | {"val_gold_z": gold} | ({"val_below_best": told} if told is not None and s == 25 else {})) for s, gold in values]  # fmt: skip
        run = practice(status="running", points=points)
        page = browser().get(f"/runs/{run.pk}/overoptimization").content.decode()
        return api().get(f"{V1}/runs/{run.pk}/overoptimization").json()["fell"], page

    fell, page = said(None)
    # Of six looks the best is better than it will be again: 2.58 errors are asked for, √2 · 0.02 · 2.58 = 0.073.
    assert not fell and "a fall of less than 0.07 cannot be told" in page
    fell, page = said(4.0)
    assert fell and "finish-now" in page
    fell, page = said(2.0)
    assert not fell and "a fall of less than 0.08 cannot be told" in page  # 0.06 / 2 · 2.58


def test_what_never_rose_by_more_than_chance_is_not_said_to_have_stopped_improving(api):
    # 0.04 is two standard errors above the start, and of three looks 2.24 are asked for.
    points = [(s, look(s) | {"val_gold_z": gold}) for s, gold in ((0, 0.0), (5, 0.04), (10, 0.02))]
    told = api().get(f"{V1}/runs/{practice(points=points).pk}/overoptimization").json()
    assert "never rose above the start by more than chance, nor did it fall since" in told["finding"]
    assert (told["best_step"], told["stopped_improving"], told["fell"]) == (5, 0, False)


def test_a_run_is_asked_to_finish_once_and_only_while_it_works(browser, api):
    run = practice(status="running")
    assert api("labeler").post(f"{V1}/runs/{run.pk}/finish").status_code == 403
    assert api(None).post(f"{V1}/runs/{run.pk}/finish").status_code == 401
    assert browser().get(f"/runs/{run.pk}/finish").status_code == 405
    assert api().post(f"{V1}/runs/{run.pk}/finish").status_code == 200
    run.refresh_from_db()
    assert run.finish_requested and run.is_live
    ended, other = practice(), make_run("crawl", status="running")
    for one in (ended, other):
        assert api().post(f"{V1}/runs/{one.pk}/finish").status_code == 409
    page = browser().post(f"/runs/{ended.pk}/finish", follow=True).content.decode()
    assert "only one that is at work can end with what it has" in page
    page = browser().post(f"/runs/{run.pk}/finish", follow=True).content.decode()
    assert "ends after the step at hand" in page and "finishing" in page
    Run.objects.filter(pk=run.pk).update(status="failed")
    run.refresh_from_db()
    runs.resume(run)
    assert run.finish_requested is None


def test_the_run_itself_says_prompt_by_prompt_where_its_win_rate_stopped_improving(api):
    points = [
        (s, {"val_reward": 0.01 * s, "val_kl": 0.04 * s, "val_win_rate": 0.5 + 0.001 * s}) for s in STEPS
    ]
    run = practice(with_gold=False, points=points)
    run.summary = {"best_step": 15}
    run.save()
    assert queries.measured(run).stopped.step == 15
    assert api().get(f"{V1}/runs/{run.pk}/overoptimization").json()["stopped_improving"] == 15
