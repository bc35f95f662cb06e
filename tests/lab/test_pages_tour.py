"""The tour's pages: one starts at a time, its table shows every stage, and stopping it stops its runs."""

import re

import pytest

from lab.models import Run, Tour

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("tmp_home")]
KINDS = ["crawl", "conversations", "tokenizer", "pretrain", "sft", "rollouts"]
"""What is queued at once; the rest waits for the rankings."""


@pytest.fixture
def tour(browser):
    browser().post("/tour", {"small": "1"})
    return Tour.objects.get()


def rows(page: str) -> list[tuple[str, str]]:
    """Heading and state of each row of the table, tags taken out."""
    found = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td>', page, re.DOTALL)
    return [(re.sub(r"<[^>]+>", " ", heading).strip(), state) for heading, state in found]


@pytest.mark.parametrize(("form", "options"), [({}, {}), ({"small": "1"}, {"small": True})])
def test_the_button_starts_a_tour_and_leads_home(browser, account, form, options):
    answer = browser().post("/tour", form)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    tour = Tour.objects.get()
    assert (tour.status, tour.options, tour.created_by) == ("running", options, account())
    runs = list(tour.runs.order_by("pk"))
    assert [run.kind for run in runs] == KINDS
    assert {run.status for run in runs} == {"queued"}


def test_a_second_tour_is_refused_with_a_message(browser, tour):
    answer = browser().post("/tour", follow=True)
    assert answer.redirect_chain == [("/", 302)]
    assert "A tour is under way already: watch it, or cancel it first." in answer.content.decode()
    assert (Tour.objects.count(), Run.objects.count()) == (1, 6)


def test_the_table_shows_each_stage_and_leads_to_its_run(browser, tour):
    crawl = tour.runs.get(kind="crawl")
    Run.objects.filter(pk=crawl.pk).update(status="succeeded", summary={"n_documents": 1234, "n_pages": 5678})
    page = browser().get(f"/tour/{tour.pk}").content.decode()
    shown = rows(page)
    # Fourteen stages: the six that are queued, then ranking, reward and rlhf, all four once more, and evaluate.
    assert len(shown) == 14
    assert shown[6] == shown[10] == ("Rank the answers", "waiting")
    assert [state for _, state in shown[6:]] == ["waiting"] * 8
    assert re.findall(r'scope="rowgroup">(.*?)<', page) == ["An assistant", "Turn 1", "Turn 2", "Both turns"]
    assert "What each turn changed" not in page
    assert shown[0][1] == "succeeded"
    assert "1,234 documents of 5,678 pages" in page
    for run in tour.runs.all():
        assert f'href="/runs/{run.pk}"' in page
    assert f'action="/tour/{tour.pk}/cancel"' in page


def test_the_home_shows_both_turns_of_a_tour_under_way(browser, tour):
    page = browser().get("/").content.decode()
    strip = page[page.index('id="tour-progress"') :]
    parts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", strip, re.DOTALL))
    assert list(parts) == ["An assistant", "Turn 1", "Turn 2", "Both turns"]
    # All five steps to the assistant are queued, and of the first turn its rollouts.
    assert [part.count('href="/runs/') for part in parts.values()] == [5, 1, 0, 0]
    assert parts["Turn 2"].count("chain-item") == 4


def finished(kind, tour, name, **summary):
    return Run.objects.create(kind=kind, name=name, tour=tour, status="succeeded", summary=summary)


def told(accuracy, low, high):
    return {"accuracy": accuracy, "low": low, "high": high}


@pytest.fixture
def both_turns(tour):
    """What the second turn has made so far, with the figures that its runs tell."""
    judged = [
        {"n_pairs": 400, **told(0.83, 0.79, 0.87), "earlier": told(0.84, 0.8, 0.88)},
        {"n_pairs": 200, **told(0.79, 0.73, 0.85), "earlier": told(0.61, 0.54, 0.68)},
    ]
    for kind in ("reward", "rlhf", "rollouts"):
        finished(kind, tour, kind)
    finished("reward", tour, "reward-2", by_rankings=judged)
    finished("rlhf", tour, "rlhf-2")
    return finished(
        "evaluate",
        tour,
        "evaluate",
        models=["base", "chat", "aligned", "aligned 2"],
        n_problems=300,
        liked_chat=0.1,
        liked_aligned=0.5,
        liked_aligned_2=0.65,
        accuracy_chat=0.55,
        accuracy_aligned=0.54,
        accuracy_aligned_2=0.56,
        rewards=[
            {"judge": "tour-reward", "means": [-1.0, 0.1, 1.25, 1.5]},
            {"judge": "tour-reward-2", "means": [-1.1, 0.0, 0.75, 1.0]},
        ],
    )


def cells(page: str, heading: str) -> list[str]:
    """The words of the cells of the row that begins with a heading."""
    row = re.search(rf'<tr><th scope="row">{heading}\b.*?</tr>', page, re.DOTALL)[0]
    return [
        " ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)
    ]


def test_the_page_says_what_each_turn_changed_and_whether_the_old_reward_model_is_still_right(
    browser, tour, both_turns
):
    page = browser().get(f"/tour/{tour.pk}").content.decode()
    # 30 of 300 by hand: Wilson's interval is 7 % to 14 %.
    assert cells(page, "Liked answers")[0] == "10 % , 7 % to 14 %"
    assert [cell.split()[0] for cell in cells(page, "Liked answers")] == ["10", "50", "65"]
    assert [cell.split()[0] for cell in cells(page, "Problems solved")] == ["55", "54", "56"]
    assert "by the reward model of turn 1" in page and "by the reward model of turn 2" in page
    assert cells(page, "Mean reward") == ["+0.10", "+1.25", "+1.50"]
    assert cells(page, "Turn 2: the aligned model")[0] == "61 % , 54 % to 68 %"
    assert cells(page, "Turn 2: the aligned model")[1] == "79 % , 73 % to 85 %"
    assert f'href="/runs/{both_turns.pk}"' in page


def test_the_reward_models_are_compared_before_the_report_card_is_there(browser, tour, both_turns):
    both_turns.delete()
    page = browser().get(f"/tour/{tour.pk}").content.decode()
    assert "Is the old reward model still right?" in page and "What each turn changed" not in page


def test_stopping_a_tour_cancels_its_runs_and_keeps_what_they_made(browser, tour):
    Run.objects.filter(tour=tour, kind="crawl").update(status="succeeded")
    answer = browser().post(f"/tour/{tour.pk}/cancel", follow=True)
    assert answer.redirect_chain == [("/", 302)]
    assert "The tour has stopped; what it made stays." in answer.content.decode()
    tour.refresh_from_db()
    assert tour.status == "cancelled"
    assert tour.ended is not None
    assert [run.status for run in tour.runs.order_by("pk")] == ["succeeded"] + ["cancelled"] * 5
    page = browser().get(f"/tour/{tour.pk}").content.decode()
    assert "Stop the tour" not in page
    assert "Take it again" in page
    browser().post("/tour")
    assert Tour.objects.filter(status="running").count() == 1


def test_an_unknown_tour_is_not_found(browser):
    assert browser().get("/tour/999999").status_code == 404
    assert browser().post("/tour/999999/cancel").status_code == 404


@pytest.mark.parametrize("address", ["/tour", "/tour/{id}/cancel"])
def test_a_link_alone_neither_starts_nor_stops_a_tour(browser, tour, address):
    assert browser().get(address.format(id=tour.pk)).status_code == 405
    tour.refresh_from_db()
    assert (Tour.objects.count(), tour.status) == (1, "running")


@pytest.mark.parametrize(("role", "status"), [("labeler", 403), (None, 302)])
def test_labelers_and_strangers_reach_no_tour(browser, tour, role, status):
    who = browser(role)
    answers = [who.get(f"/tour/{tour.pk}"), who.post(f"/tour/{tour.pk}/cancel"), who.post("/tour")]
    assert [answer.status_code for answer in answers] == [status] * 3
    if role is None:
        assert [answer["Location"] for answer in answers] == [
            f"/sign-in?next=/tour/{tour.pk}",
            "/sign-in",
            "/sign-in",
        ]
    tour.refresh_from_db()
    assert (Tour.objects.count(), tour.status) == (1, "running")
    assert {run.status for run in tour.runs.all()} == {"queued"}
