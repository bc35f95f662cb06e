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
    # Ten stages: the six that are queued, the ranking, then reward, rlhf and evaluate.
    assert len(shown) == 10
    assert shown[6] == ("Rank the answers", "waiting")
    assert [state for _, state in shown[6:]] == ["waiting"] * 4
    assert shown[0][1] == "succeeded"
    assert "1,234 documents of 5,678 pages" in page
    for run in tour.runs.all():
        assert f'href="/runs/{run.pk}"' in page
    assert f'action="/tour/{tour.pk}/cancel"' in page


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
