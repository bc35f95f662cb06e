"""A labeler in a real browser: ranks by keys alone, through double clicks, lost answers, reloads, two tabs and no
connection, and reads prompts, answers, names and notes that try to run as HTML."""

import json
import time

import pytest

from tests.journeys.ranking import open_, plain, project, rank, rankings
from tests.journeys.stack import Lab, until
from tests.lab.test_markup import ATTACKS

playwright = pytest.importorskip("playwright.sync_api")
N_TIMED = 20
MAX_PRESSES = 7


def test_twenty_groups_of_five_are_ranked_by_keys_alone(running: Lab, context):
    made = project(running, plain(N_TIMED, 5))
    page = open_(context, made)
    told, presses = {}, 0
    begin = time.perf_counter()
    for n in range(N_TIMED):
        words = page.locator(".answer .words").all_inner_texts()
        prompt = page.locator("#prompt").inner_text()
        # Best is what comes first in the alphabet; the last two are tied: five picks, a tie and Enter.
        by_name = sorted(range(5), key=lambda i: words[i])
        for key in [*(str(i + 1) for i in by_name), "=", "Enter"]:
            page.keyboard.press(key)
            presses += 1
        told[prompt] = [words[i] for i in by_name]
        # The next group, or that none is left.
        playwright.expect(
            page.locator("#prompt") if n < N_TIMED - 1 else page.locator("body")
        ).not_to_have_text(prompt)
        if n < N_TIMED - 1:
            playwright.expect(page.locator("#saved")).to_contain_text("Handed in")
    playwright.expect(page.locator("#nothing")).to_be_visible()
    seconds = time.perf_counter() - begin
    print(f"\n{N_TIMED} groups of 5 by keys alone: {seconds:.1f} s, {presses / N_TIMED:.0f} key presses each")
    assert presses <= MAX_PRESSES * N_TIMED
    found = rankings(running, made)
    assert len(found) == N_TIMED
    for row in found:
        order = [[row["completions"][i] for i in tied] for tied in row["order"]]
        best = told[row["prompt"]]
        assert order[:3] == [[best[0]], [best[1]], [best[2]]] and sorted(order[3]) == sorted(best[3:])
    # The screen's order was another one for other groups, and is on record.
    shown = {tuple(json.loads(row["metadata"])["shown"]) for row in found}
    assert len(shown) > 1


def test_what_is_handed_in_twice_counts_once(running: Lab, context):
    made = project(running, plain(4))
    page = open_(context, made)
    rank(page, "123")
    # A double click, and Enter held down.
    page.locator("[data-do=hand]").dblclick()
    page.keyboard.press("Enter")
    until(lambda: len(rankings(running, made)) == 1, 10)
    # The lab stores it, and its answer is lost on the way; the page is loaded anew meanwhile.
    playwright.expect(page.locator("#saved")).to_contain_text("Handed in")
    lost = []

    def lose(route):
        if not lost:
            lost.append(route.fetch().status)
        route.abort()

    page.route("**/ranking", lose)
    rank(page, "321")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#saved")).to_contain_text("kept in this browser")
    assert lost == [201] and len(rankings(running, made)) == 2
    page.unroute("**/ranking")
    page.reload()
    playwright.expect(page.locator("#done")).to_contain_text("yours: 2")
    assert len(rankings(running, made)) == 2
    # Two tabs hold the same group; the other one follows when it is handed in.
    other = open_(context, made)
    prompt = page.locator("#prompt").inner_text()
    assert other.locator("#prompt").inner_text() == prompt
    rank(page, "213")
    page.keyboard.press("Enter")
    for tab in (page, other):
        playwright.expect(tab.locator("#prompt")).not_to_have_text(prompt)
    assert len(rankings(running, made)) == 3
    # Undo takes back that one alone.
    page.keyboard.press("u")
    playwright.expect(page.locator("#prompt")).to_have_text(prompt)
    until(lambda: len(rankings(running, made)) == 2, 10)


def test_a_lost_connection_keeps_the_ranking_and_sends_it_later(running: Lab, context):
    made = project(running, plain(3))
    page = open_(context, made)
    context.set_offline(True)
    rank(page, "312")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#saved")).to_contain_text(
        "Your ranking is kept in this browser and sent as soon as it does"
    )
    assert rankings(running, made) == []
    # Closed in between: the browser keeps it.
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(f"/label/{made}")
    playwright.expect(page.locator("#done")).to_contain_text("yours: 1")
    [row] = rankings(running, made)
    screen = json.loads(row["metadata"])["shown"]
    assert row["order"] == [[screen[2]], [screen[0]], [screen[1]]]
    # And while the page stays open it is sent by itself.
    context.set_offline(True)
    rank(page, "123")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#saved")).to_contain_text("kept in this browser")
    context.set_offline(False)
    playwright.expect(page.locator("#done")).to_contain_text("yours: 2", timeout=20_000)
    assert len(rankings(running, made)) == 2


def test_marks_comments_and_corrections_are_given_by_keys(running: Lab, context):
    made = project(running, plain(1, 2), scale=5, asks_comment=True, asks_correction=True)
    page = open_(context, made)
    page.keyboard.press("2")
    page.keyboard.press("Shift+Digit5")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#saved")).to_contain_text("One answer has no mark yet")
    page.keyboard.press("Shift+Digit2")
    page.keyboard.press("c")
    page.keyboard.type("1 = clear")
    page.keyboard.press("Escape")
    page.keyboard.press("w")
    page.keyboard.type("better")
    page.reload()
    page.locator("#correction").press("Control+Enter")
    playwright.expect(page.locator("#nothing")).to_be_visible()
    [row] = rankings(running, made)
    said = json.loads(row["metadata"])
    first, second = said["shown"]
    assert row["order"] == [[second], [first]]
    assert said["marks"] == {str(second): 5, str(first): 2}
    assert (said["comment"], said["correction"]) == ("1 = clear", "better")


def test_what_models_and_people_write_never_runs(running: Lab, context):
    rows = [{"prompt": attack, "completions": [attack, f"second {attack}"]} for attack in ATTACKS]
    name = "<img src=x onerror=alert(1)>"
    examples = [{"prompt": ATTACKS[0], "better": ATTACKS[1], "worse": ATTACKS[2], "why": ATTACKS[4]}]
    settings = {
        "name": name,
        "instructions": "\n".join(ATTACKS),
        "examples": examples,
        "asks_comment": True,
        "asks_correction": True,
    }
    made = project(running, rows, rankings_per_group=2, **settings)
    page = open_(context, made)
    # Nothing that these attacks would make may be there: the page itself has no such element in its words.
    forbidden = ":is(#prompt, .words, .gist, dialog, td, .note, .dispute) :is(script, img, iframe, svg:not([class]), style, form form, video, base, meta, object, embed)"
    events = "[...document.querySelectorAll('*')].filter((one) => [...one.attributes].some((a) => a.name.startsWith('on') || /^\\s*javascript:/i.test(a.value))).length"

    def is_clean(at):
        assert at.locator(forbidden).count() == 0
        assert at.evaluate(events) == 0

    other = running.client("labeler")
    for n in range(len(ATTACKS)):
        is_clean(page)
        if not n:
            page.keyboard.press("?")
            is_clean(page)
            page.keyboard.press("Escape")
        rank(page, "12")
        page.locator("#comment").fill(ATTACKS[n])
        page.locator("#correction").fill(ATTACKS[n])
        page.locator("[data-do=hand]").click()
        if n < len(ATTACKS) - 1:
            playwright.expect(page.locator("#done")).to_contain_text(f"yours: {n + 1}")
        # The other labeler turns it around, so that all are in dispute.
        task = other.post(f"/labeling/projects/{made}/next", json={}).json()
        other.post(f"/labeling/tasks/{task['id']}/ranking", json={"order": [[0], [1]], "comment": ATTACKS[n]})
    playwright.expect(page.locator("#nothing")).to_be_visible()
    for address in (f"/labeling/{made}", "/labeling", "/label"):
        page.goto(address)
        is_clean(page)
    groups = running.get(f"/labeling/projects/{made}/groups?limit=100")["items"]
    for group in groups:
        page.goto(f"/labeling/{made}/groups/{group['id']}")
        is_clean(page)
    assert len(groups) == len(ATTACKS)
