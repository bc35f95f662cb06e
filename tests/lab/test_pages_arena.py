"""The arena's pages: the battle, the ratings, and who may be drawn."""

import json
import re

import pytest

from lab.models import Artifact, Contender, Vote
from lab.services import arena
from tests.lab import fights
from tests.lab.test_arena_exchange import judged, rows, verdict

pytestmark = pytest.mark.django_db
ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture
def lea(account):
    return account("labeler", "lea")


@pytest.fixture
def two(tmp_home):
    found = [fights.checkpoint("wren-27"), fights.checkpoint("owl-8")]
    return [fights.contender(one.name, model=one.pk, checkpoint=one) for one in found]


@pytest.fixture
def votes(lea, two):
    outcomes = ("left", "left", "right", "tie")
    return [
        fights.fought(lea, *two, outcome, f"left {n}", f"right {n}") for n, outcome in enumerate(outcomes)
    ]


def data(page: str):
    return json.loads(re.search(r'<script id="arena-data" type="application/json">(.*?)</script>', page)[1])


def test_a_labeler_is_asked_for_a_question_and_reads_no_names(browser, votes):
    page = browser("labeler", "lea").get("/arena").content.decode()
    # Without script nothing could answer: the form shows itself.
    assert re.search(r"<noscript>[^<]*needs script", page) and 'id="ask" class="ask-form" hidden' in page
    assert "Let two models answer" in page and "4 votes so far, 4 of them yours" in page
    assert data(page) == {"battle": None, "researcher": False, "turns": 10}
    assert "wren" not in page and "owl" not in page and "/arena/ratings" not in page


def test_the_battle_at_hand_stands_there_after_a_reload(browser, lea, two):
    battle = fights.answer(fights.begun(lea, *two, prompt=ATTACK), f"# {ATTACK}", "<script>alert(2)</script>")
    page = browser("labeler", "lea").get("/arena").content.decode()
    told = data(page)["battle"]
    assert (told["id"], told["turns"][0]["prompt"]) == (battle.pk, ATTACK)
    html = [one["html"] for one in told["turns"][0]["answers"]]
    assert html[0].strip() == '<p class="heading">&lt;img src=x onerror=alert(1)&gt;</p>'
    assert "<script>" not in html[1] and ATTACK not in page.replace(json.dumps(ATTACK), "")


def test_a_researcher_sees_ratings_and_wins_below_the_battle(browser, votes):
    page = browser().get("/arena").content.decode()
    assert "wren-27" in page and 'class="wins"' in page and "4 votes by people" in page


def test_an_arena_without_models_says_who_chooses_them(browser, tmp_home):
    assert "choose who may be drawn" in browser().get("/arena").content.decode()
    page = browser("labeler").get("/arena").content.decode()
    assert "a researcher chooses them" in page and "/arena/models" not in page


def test_the_ratings_tell_intervals_style_what_is_open_and_the_last_battles(browser, votes, two):
    Contender.objects.filter(pk=two[1].pk).update(is_anchor=True)
    page = browser().get("/arena/ratings").content.decode()
    for words in (
        "Who beats whom",
        "What looks do",
        "What is not known yet",
        "anchor",
        "Last battles",
        "right 3",
    ):
        assert words in page, words
    # wren-27 won 2.5 of 4: odds of 5 to 3.
    assert "<b>1,089</b>" in page and re.search(r'class="w5" title="2.5 of 4">6[23]', page)
    assert "about" in page and "No judge has voted yet" in page


def test_ratings_without_votes_say_what_they_need(browser, two):
    assert "they come of votes" in browser().get("/arena/ratings").content.decode().lower()


def test_judges_are_marked_and_measured(browser, votes):
    Vote.objects.create(
        battle=votes[0].battle, kind="judge", judge=ATTACK, outcome="left", verdicts=["left", "right"]
    )
    page = browser().get("/arena/ratings?voters=all").content.decode()
    assert '<span class="tag now">judge</span>' in page and "100 %" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and ATTACK not in page
    assert "count votes of judge models" in page
    assert browser().get("/arena/ratings?voters=judges").status_code == 200
    assert browser().get("/arena/ratings?voters=nobody").status_code == 404


def test_models_are_let_in_and_changed_by_forms(browser, tmp_home):
    made = [fights.checkpoint("wren-27"), fights.checkpoint(ATTACK), fights.checkpoint("critic", "reward")]
    person = browser()
    page = person.get("/arena/models").content.decode()
    assert "wren-27" in page and ATTACK not in page and "critic" not in page
    assert person.post("/arena/models", {"model": [made[0].pk, made[1].pk]}).status_code == 302
    wren = Contender.objects.get(name="wren-27")
    for do, field, value in (
        ("rest", "is_active", False),
        ("wake", "is_active", True),
        ("anchor", "is_anchor", True),
        ("no-anchor", "is_anchor", False),
    ):
        assert person.post(f"/arena/models/{wren.pk}", {"do": do})["Location"] == "/arena/models"
        wren.refresh_from_db()
        assert getattr(wren, field) is value
    person.post(f"/arena/models/{wren.pk}", {"do": "rename", "name": "Wren"})
    page = person.get("/arena/models").content.decode()
    assert 'value="Wren"' in page and ATTACK not in page
    person.post(f"/arena/models/{wren.pk}", {"do": "remove"})
    assert Contender.objects.count() == 1


def test_what_cannot_be_let_in_is_told_on_the_page(browser, tmp_home):
    fights.checkpoint("wren-27")
    for given, words in (({}, "no model is chosen"), ({"model": "address-9"}, "there is no model")):
        answer = browser().post("/arena/models", given)
        assert answer.status_code == 422 and words in answer.content.decode()
    assert browser().post("/arena/models/999", {"do": "rest"}).status_code == 404
    assert browser().get("/arena/models/1").status_code == 405


def test_a_taken_name_and_a_fighter_that_must_stay_are_told(browser, votes, two):
    person = browser()
    person.post(f"/arena/models/{two[0].pk}", {"do": "rename", "name": "owl-8"})
    assert "already: choose another name" in person.get("/arena/models").content.decode()
    person.post(f"/arena/models/{two[0].pk}", {"do": "remove"})
    assert "let it rest instead" in person.get("/arena/models").content.decode()
    assert Contender.objects.count() == 2


def test_votes_are_exported_by_a_button_and_verdicts_brought_in(browser, votes):
    person = browser()
    answer = person.post("/arena/export")
    made = Artifact.objects.get(form="rankings")
    assert answer["Location"] == f"/datasets/{made.pk}"
    assert person.get(f"/datasets/{made.pk}").status_code == 200
    verdicts = judged([verdict(row, [[0], [1]]) for row in rows(made)])
    assert "judge:J" in person.get("/arena/ratings").content.decode()
    assert person.post("/arena/judgements", {"artifact": verdicts.pk})["Location"] == "/arena/ratings#judges"
    assert "4 verdicts are votes of a judge now" in person.get("/arena/ratings").content.decode()
    person.post("/arena/export", {"judges": "true"})
    assert {one.summary["rankings"] for one in Artifact.objects.filter(form="rankings")} == {4, 8}
    person.post("/arena/judgements", {"artifact": "nothing"})
    assert "Choose the verdicts" in person.get("/arena/ratings").content.decode()
    person.post("/arena/judgements", {"artifact": made.pk})
    assert "no judge" in person.get("/arena/ratings").content.decode()


def test_battles_go_out_for_a_judge_by_a_button(browser, votes):
    person = browser()
    assert 'value="battles"' in person.get("/arena/ratings").content.decode()
    answer = person.post("/arena/export", {"what": "battles"})
    made = Artifact.objects.get(form="rollouts")
    assert answer["Location"] == f"/datasets/{made.pk}" and made.summary["n_rows"] == 4
    assert "4 battles are a dataset for a judge now" in person.get(f"/datasets/{made.pk}").content.decode()


def test_an_empty_arena_exports_nothing(browser, two):
    person = browser()
    person.post("/arena/export", {"what": "battles"})
    assert "no battle is over" in person.get("/arena/ratings").content.decode().lower()
    assert person.post("/arena/export")["Location"] == "/arena/ratings"
    assert "nothing to export" in person.get("/arena/ratings").content.decode()


def test_battles_and_names_are_shown_as_text(browser, lea, tmp_home):
    a, b = fights.contender(ATTACK), fights.contender("javascript:alert(1)")
    fights.fought(lea, a, b, "left", ATTACK, f"[x](javascript:alert(1)) {ATTACK}", prompt=ATTACK)
    for path in ("/arena", "/arena/ratings", "/arena/models"):
        page = browser().get(path).content.decode()
        assert ATTACK not in page and 'href="javascript' not in page, path
    assert arena.export(lea).summary["rankings"] == 1


@pytest.mark.parametrize("path", ["/arena", "/arena/ratings", "/arena/models"])
def test_strangers_sign_in_first_and_labelers_see_the_battle_only(browser, path):
    assert browser(None).get(path)["Location"].startswith("/sign-in")
    assert browser("labeler").get(path).status_code == (200 if path == "/arena" else 403)


@pytest.mark.parametrize("path", ["/arena/models", "/arena/models/1", "/arena/export", "/arena/judgements"])
def test_labelers_change_nothing(browser, path):
    assert browser("labeler").post(path).status_code == 403
    assert browser(None).post(path).status_code == 302


def test_the_life_line_leads_to_the_arena(browser, tmp_home):
    assert 'href="/arena"' in browser().get("/arena").content.decode()
    assert "Arena" in browser().get("/search?q=arena").content.decode()
    assert 'href="/arena"' in browser("labeler").get("/label").content.decode()
