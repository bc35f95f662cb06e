"""A person with a browser: signs in by the one-time link, starts a run, watches it finish, and ranks a group."""

import re

import pytest

from tests.journeys.stack import Lab, lab
from tests.setup_chromium import ARGUMENTS, find

playwright = pytest.importorskip("playwright.sync_api")
SMALL = {"n_conversations": 300, "n_problems": 30, "n_held_out": 6}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    if find() is None:
        pytest.skip(
            "there is no Chromium on this machine: install the package chromium to run the browser tests"
        )
    with lab(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def page(running: Lab):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find(), args=ARGUMENTS)
        page = browser.new_page(base_url=running.url, viewport={"width": 1280, "height": 900})
        page.set_default_timeout(20_000)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
        link = re.search(r"Sign in once as administrator: \S+(/sign-in\S+)", running.words())
        assert link, running.words()
        page.goto(link[1])
        if page.get_by_role("button", name="Sign in").count():
            page.get_by_role("button", name="Sign in").first.click()
        page.wait_for_url(re.compile(r"/$"))
        yield page
        browser.close()


def test_the_link_signs_in_once(running: Lab, page):
    assert page.get_by_role("heading", level=1).inner_text() == "Nothing has been played yet"
    import httpx

    link = re.search(r"administrator: \S+(/sign-in\S+)", running.words())[1]
    assert "sessionid" not in str(httpx.get(running.url + link).headers.get("set-cookie"))


def test_a_run_is_started_from_its_form_and_watched_to_its_end(running: Lab, page):
    page.goto("/runs/new/conversations")
    page.fill("input[name=name]", "by hand")
    for field, value in SMALL.items():
        page.locator(f"[name='{field}'], [name='config.{field}'], [name='config-{field}']").first.fill(
            str(value)
        )
    page.get_by_role("button", name=re.compile("Start run")).click()
    page.wait_for_url(re.compile(r"/runs/\d+"))
    playwright.expect(page.get_by_role("heading", level=1)).to_contain_text("by hand")
    playwright.expect(page.locator("main")).to_contain_text("succeeded", timeout=60_000)
    assert running.get("/runs")["items"][0]["config"]["n_conversations"] == 300


def test_a_wrong_value_is_told_at_its_field(page):
    page.goto("/runs/new/conversations")
    field = page.locator("[name$='n_conversations']").first
    field.fill("1")
    page.get_by_role("button", name=re.compile("Start run")).click()
    invalid = page.locator("[aria-invalid='true']")
    # The browser may hold the form back by the field's own bounds before the lab sees it.
    assert invalid.count() or not field.evaluate("field => field.validity.valid")


def test_a_group_is_ranked_by_keys(running: Lab, page):
    project = _a_project(running)
    page.goto(f"/label/{project}")
    answers = page.locator(".answer")
    playwright.expect(answers.first).to_be_visible()
    n = answers.count()
    assert n >= 2
    # Each labeler sees an order of their own; the export names answers by their places in the group.
    seen = [answers.nth(place).locator(".words").inner_text().strip() for place in range(n)]
    for key in range(n, 0, -1):
        page.keyboard.press(str(key))
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#done")).to_contain_text(re.compile(r"yours: 1|1 of"))
    exported = running.api.post(f"/labeling/projects/{project}/export", json={}).json()
    rows = running.get(f"/datasets/{exported['id']}/rows")["items"]
    ranked = [[rows[0]["completions"][place] for place in tied] for tied in rows[0]["order"]]
    assert ranked == [[text] for text in reversed(seen)]
    assert rows[0]["simulated"] is False


def _a_project(running: Lab) -> int:
    """Rollouts of an imported dataset, since ranking needs texts and no model."""
    import json

    rows = [
        {"group_id": f"g{n}", "prompt": f"<img src=x onerror=alert({n})> which?", "completions": ["one", "two", "three"], "logprobs": [[], [], []], "ended": [True] * 3, "metadata": "{}"}
        for n in range(3)
    ]  # fmt: skip
    lines = "\n".join(json.dumps(row) for row in rows)
    answer = running.api.post(
        "/datasets", files={"file": ("rollouts.jsonl", lines.encode())}, data={"name": "asked"}
    )
    assert answer.status_code == 201, answer.text
    made = running.api.post("/labeling/projects", json={"name": "By hand", "source": answer.json()["id"]})
    assert made.status_code == 201, made.text
    return made.json()["id"]


def test_no_script_failed_on_the_way(page):
    # The wrong value above is refused with 422, which the console tells.
    assert [error for error in page.errors if "422" not in error] == []
