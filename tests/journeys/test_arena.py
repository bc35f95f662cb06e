"""A labeler in the arena with a real browser and real models: asks, reads two answers, votes by a key, sees the names."""

import re

import httpx
import pytest

from tests.engines import write_checkpoint
from tests.journeys.stack import Lab, lab
from tests.setup_chromium import ARGUMENTS, find

playwright = pytest.importorskip("playwright.sync_api")
NAMES = ("wren-27", "owl-8")
ATTACK = "<img src=x onerror=alert(1)> the <b>cat</b>"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    if find() is None:
        pytest.skip(
            "there is no Chromium on this machine: install the package chromium to run the browser tests"
        )
    with lab(tmp_path_factory.mktemp("arena")) as started:
        for number, name in enumerate(NAMES):
            run = f"{number}" * 8
            write_checkpoint(started.home / "artifacts", run, name=name, seed=number, writes_ascii=True)
        started.manage("reindex")
        for number in range(2):
            answer = started.api.post("/arena/contenders", json={"model": f"{number}" * 8 + "-checkpoint"})
            assert answer.status_code == 201, answer.text
        yield started


@pytest.fixture(scope="module")
def page(running: Lab):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find(), args=ARGUMENTS)
        context = browser.new_context(base_url=running.url, viewport={"width": 1280, "height": 900})
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.errors, page.read = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
        running.manage("token", "lea", "--role", "labeler")
        link = re.search(r"(/sign-in\S+)", running.manage("signin", "lea"))[1]
        page.goto(link)
        if page.get_by_role("button", name="Sign in").count():
            page.get_by_role("button", name="Sign in").first.click()
        yield page
        browser.close()


def ask(page, question: str) -> None:
    page.goto("/arena")
    page.fill("#prompt", question)
    page.keyboard.press("Control+Enter")
    playwright.expect(page.locator("#votes")).to_be_visible()


def test_two_answers_are_read_and_a_key_votes(running: Lab, page):
    ask(page, ATTACK)
    playwright.expect(page.locator(".exchange .ask-line b")).to_have_text(ATTACK)
    panels = page.locator(".exchange .panel")
    assert (
        panels.count() == 2 and page.locator("#said").inner_text() == "Both have answered. Which is better?"
    )
    assert all(len(text) > 3 for text in panels.locator(".words").all_inner_texts())
    # Neither the page nor anything that its script could reach holds a name.
    assert not any(name in page.content() for name in NAMES)
    assert page.locator("#bout :is(img, script, iframe)").count() == 0
    page.keyboard.press("1")
    playwright.expect(page.locator("#said")).to_contain_text("You found the left answer better.")
    shown = page.locator(".exchange .panel header").all_inner_texts()
    assert sorted(name for name in NAMES for text in shown if name in text) == sorted(NAMES)
    assert page.locator(".panel.chosen").get_attribute("data-side") == "left"
    [battle] = running.get("/arena/battles")["items"]
    [vote] = battle["votes"]
    assert (vote["outcome"], vote["voter"], vote["counts"]) == ("left", "lea", True)
    assert battle["left"] in shown[0] and 0 <= vote["seconds"] < 60


def test_the_next_battle_is_voted_by_a_click_and_a_reload_keeps_it(running: Lab, page):
    page.keyboard.press("n")
    page.fill("#prompt", "the sea")
    page.get_by_role("button", name="Let two models answer").click()
    playwright.expect(page.locator("#votes")).to_be_visible()
    said = page.locator(".exchange .words").all_inner_texts()
    page.reload()
    playwright.expect(page.locator("#votes")).to_be_visible()
    assert page.locator(".exchange .words").all_inner_texts() == said
    page.get_by_role("button", name="Both bad").click()
    playwright.expect(page.locator("#said")).to_contain_text("You found both bad.")
    assert running.get("/arena/leaderboard")["n_votes"] == 2


def test_a_reload_in_the_middle_asks_for_the_rest(running: Lab, page):
    page.goto("/arena")
    page.fill("#prompt", "a tree")
    page.keyboard.press("Control+Enter")
    playwright.expect(page.locator(".exchange")).to_be_visible()
    page.reload()
    playwright.expect(page.locator("#votes")).to_be_visible()
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator("#said")).to_contain_text("You found the right answer better.")


def test_answers_that_ended_before_the_page_asked_for_them_are_shown(running: Lab, page):
    headers = {"Authorization": f"Bearer {running.manage('token', 'lea', '--role', 'labeler')}"}
    with httpx.Client(base_url=f"{running.url}/api/v1", headers=headers, timeout=60) as lea:
        battle = lea.post("/arena/battles", json={"prompt": "a bird"}).json()["id"]

        def answered_before(route) -> None:
            assert "event: end" in lea.post(f"/arena/battles/{battle}/answers", json={}).text
            route.continue_()

        page.route("**/answers", answered_before, times=1)
        page.goto("/arena")
        playwright.expect(page.locator("#votes")).to_be_visible()
        told = lea.get(f"/arena/battles/{battle}").json()["turns"][0]["answers"]
    shown = page.locator(".exchange .panel header").all_inner_texts()
    assert all(f"{one['tokens']} token" in text for one, text in zip(told, shown, strict=True))
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.locator("#said")).to_contain_text("You found the left answer better.")


def test_an_answer_that_failed_is_told_and_the_battle_can_be_left(running: Lab, page):
    ask(page, "a dog")
    page.fill("#on-prompt", "and a cat? " * 99)
    page.keyboard.press("Control+Enter")
    # The context is 96 tokens long.
    playwright.expect(page.locator(".panel .fail").first).to_contain_text("longer than this model can read")
    assert page.get_by_role("button", name="Try again").count() == 2
    playwright.expect(page.locator("#votes")).to_be_visible()
    page.get_by_role("button", name="Leave without a vote").click()
    playwright.expect(page.locator("#said")).to_contain_text("nobody is told who spoke")
    assert not any(name in page.content() for name in NAMES)
    assert running.get("/arena/battles")["items"][0]["abandoned"] is True


def test_no_script_failed_on_the_way(page):
    assert page.errors == []
