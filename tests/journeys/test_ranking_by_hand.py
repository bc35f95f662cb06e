"""A labeler's other ways in a real browser: mouse, finger, arrows, all bad, skip; and rankings that come too late."""

import json
from pathlib import Path

import pytest

from core_ml import artifact
from core_ml.model import checkpoint
from tests.core_ml import models
from tests.journeys.ranking import (
    height_of,
    in_order,
    open_,
    plain,
    project,
    rank,
    rankings,
    signed_in,
    stored,
    words_at,
)
from tests.journeys.stack import Lab

playwright = pytest.importorskip("playwright.sync_api")


def test_the_order_is_dragged_with_a_mouse_and_moved_by_arrows(running: Lab, context):
    made = project(running, plain(1, 4))
    page = open_(context, made)
    rank(page, "1234")
    a, b, c, d = in_order(page)
    x, y = words_at(page, 0)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, height_of(page, 2)[1] - 2, steps=8)
    playwright.expect(page.locator("#order li.dragged")).to_have_count(1)
    page.mouse.up()
    assert in_order(page) == [b, c, a, d]
    # What was dragged is chosen, and arrows move it on; at an end they do nothing.
    rank(page, ["ArrowDown", "ArrowDown"])
    assert in_order(page) == [b, c, d, a]
    rank(page, ["ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp"])
    assert in_order(page) == [a, b, c, d]
    # A click chooses without moving; tied with the one above, both move together.
    page.locator("#order li[data-at] .gist").nth(2).click()
    rank(page, ["=", "ArrowUp"])
    assert in_order(page) == [[*b, *c], a, d]
    page.keyboard.press("u")
    assert in_order(page) == [a, [*b, *c], d]
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#nothing")).to_be_visible()
    [row] = rankings(running, made)
    assert [sorted(tied) for tied in stored(row)] == [a, sorted([*b, *c]), d]


def test_a_finger_picks_and_drags_on_a_phone(running: Lab, chromium):
    made = project(running, plain(1, 4))
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with signed_in(running, chromium, **phone) as context:
        page = open_(context, made)
        for i in (2, 0, 1, 3):
            page.locator(".answer .words").nth(i).tap()
        a, b, c, d = in_order(page)
        page.locator("#order").evaluate("(list) => list.scrollIntoView({ block: 'center' })")
        fingers = context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            at = [{"x": x, "y": y} for x, y in points]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        x, y = words_at(page, 3)
        top = height_of(page, 0)[0] + 2
        scrolled = page.evaluate("scrollY")
        touch("touchStart", (x, y))
        for step in range(1, 11):
            touch("touchMove", (x, y + (top - y) * step / 10))
        touch("touchEnd")
        assert in_order(page) == [d, a, b, c]
        # The finger has moved the answer and not the page.
        assert page.evaluate("scrollY") == scrolled
        # Chromium takes a tap within some 300 ms for the rest of the drag; no finger is there so soon.
        page.wait_for_timeout(800)
        page.locator("[data-do=hand]").tap()
        playwright.expect(page.locator("#nothing")).to_be_visible()
    [row] = rankings(running, made)
    assert stored(row) == [d, a, b, c]


def test_0_calls_all_bad_and_s_passes_a_group_on(running: Lab, context):
    made = project(running, plain(2))
    page = open_(context, made)
    prompt = page.locator("#prompt").inner_text()
    rank(page, "12")
    # Pressed again it takes that back.
    rank(page, "0")
    assert in_order(page) == []
    playwright.expect(page.locator(".answer .stone.failed")).to_have_count(3)
    rank(page, "0")
    playwright.expect(page.locator(".answer .stone.failed")).to_have_count(0)
    rank(page, ["0", "Enter"])
    playwright.expect(page.locator("#prompt")).not_to_have_text(prompt)
    [row] = rankings(running, made)
    assert row["prompt"] == prompt and row["all_bad"] and len(row["order"]) == 1
    page.keyboard.press("s")
    playwright.expect(page.locator("#nothing")).to_be_visible()
    playwright.expect(page.locator("#saved")).to_contain_text("Skipped")
    page.reload()
    playwright.expect(page.locator("#nothing")).to_be_visible()
    assert running.get(f"/labeling/projects/{made}")["skipped"] == 1
    assert running.client("labeler").post(f"/labeling/projects/{made}/next", json={}).json()["prompt"] != prompt  # fmt: skip


def test_a_lease_is_renewed_while_the_page_is_used_and_what_comes_too_late_is_kept(running: Lab, context):
    made = project(running, plain(1))
    page = context.new_page()
    page.clock.install()
    page.goto(f"/label/{made}")
    page.keyboard.press("1")
    with page.expect_response("**/lease") as renewed:
        page.clock.fast_forward(121_000)
    assert renewed.value.status == 200
    # Nobody touches the page: the group may go to others.
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/lease") else None)
    page.clock.fast_forward(121_000)
    page.clock.fast_forward(121_000)
    over = "from django.utils import timezone; from lab.models import Lease; Lease.objects.update(expires=timezone.now())"
    running.manage("shell", "-c", over)
    other = running.client("labeler")
    task = other.post(f"/labeling/projects/{made}/next", json={}).json()
    assert asked == [] and task["index"] == 0
    page.keyboard.press("2")
    page.clock.fast_forward(121_000)
    playwright.expect(page.locator("#saved")).to_contain_text("your ranking counts beside theirs")
    rank(page, ["3", "Enter"])
    playwright.expect(page.locator("#nothing")).to_be_visible()
    playwright.expect(page.locator("#held")).to_be_hidden()
    assert other.post(f"/labeling/tasks/{task['id']}/ranking", json={"order": [[0], [1], [2]]}).status_code == 201  # fmt: skip
    assert len({row["labeler"] for row in rankings(running, made)}) == 2
    told = running.get(f"/labeling/projects/{made}")
    assert (told["rankings"], told["wanted"], told["ranked"]) == (1, 1, 1)


def test_a_ranking_that_a_closed_project_refuses_stays_in_the_browser(running: Lab, context):
    made = project(running, plain(2))
    page = open_(context, made)
    rank(page, "213")
    told = in_order(page)
    running.api.post(f"/labeling/projects/{made}/close").raise_for_status()
    page.keyboard.press("Enter")
    held = page.locator("#held")
    playwright.expect(held).to_contain_text(
        "One ranking was not taken, and is kept in this browser. This project is closed"
    )
    page.reload()
    playwright.expect(held).to_contain_text("is kept in this browser")
    playwright.expect(held.get_by_role("button", name="Take off the list")).to_be_hidden()
    held.get_by_role("button", name="Send again").click()
    playwright.expect(held).to_be_visible()
    with page.expect_download() as taken:
        held.get_by_role("button", name="Download").click()
    [line] = Path(taken.value.path()).read_text().splitlines()
    assert json.loads(line)["project"] == made and len(json.loads(line)["order"]) == 3
    playwright.expect(held.get_by_role("button", name="Take off the list")).to_be_visible()
    running.api.post(f"/labeling/projects/{made}/reopen").raise_for_status()
    held.get_by_role("button", name="Send again").click()
    playwright.expect(held).to_be_hidden()
    [row] = rankings(running, made)
    assert stored(row) == told


def test_reward_models_are_asked_and_the_group_where_they_part_comes_first(running: Lab, context):
    made = project(running, plain(6), next_group="uncertain")
    tokenizer = models.small_tokenizer()
    for seed in (0, 1):
        place = running.home / "artifacts" / f"0000000{seed}" / "reward"
        origin = artifact.Origin(recipe="import")
        writer = artifact.Writer(place, id=f"0000000{seed}-reward", kind="checkpoint", role="reward", name=f"judge {seed}", origin=origin)  # fmt: skip
        checkpoint.save(models.small_model(tokenizer.vocab_size, seed, value_head=True), tokenizer, writer.path)  # fmt: skip
        writer.finish({})
    running.manage("reindex")
    page = context.new_page()
    page.goto(f"/labeling/{made}")
    page.get_by_role("button", name="Ask the reward models which groups are uncertain").click()
    # The worker runs it, the sweep stores its scores, and the page that stands open says so.
    asked = page.locator("#uncertain")
    playwright.expect(asked).to_contain_text("6 of 6 groups have a score", timeout=120_000)
    playwright.expect(asked).to_contain_text("judge 0")
    groups = running.get(f"/labeling/projects/{made}/groups?only=uncertain")["items"]
    scores = {one["prompt"]: one["uncertainty"] for one in groups}
    assert len(scores) == 6 and all(0 < one <= 0.5 for one in scores.values())
    page.goto(f"/label/{made}")
    playwright.expect(page.locator("#prompt")).to_have_text(max(scores, key=scores.__getitem__))
