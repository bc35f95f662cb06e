"""What journeys of labelers share: a browser that is signed in, a project of small groups, and what stands on its page."""

import json
import re
from contextlib import contextmanager

import pytest

from tests.journeys.stack import Lab

playwright = pytest.importorskip("playwright.sync_api")


@contextmanager
def signed_in(running: Lab, chromium, **options):
    """A browser of its own, signed in, that remembers what went wrong in its pages."""
    context = chromium.new_context(**{"base_url": running.url, "viewport": {"width": 1280, "height": 900}, **options})  # fmt: skip
    context.set_default_timeout(15_000)
    context.set_default_navigation_timeout(60_000)  # a lab that has just started may share its machine
    context.wrong = []
    context.on("weberror", lambda told: context.wrong.append(str(told.error)))
    context.on("dialog", lambda dialog: (context.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page = context.new_page()
    page.goto(re.search(r"(/sign-in\S+)", running.manage("signin", "admin"))[1])
    if page.get_by_role("button", name="Sign in").count():
        page.get_by_role("button", name="Sign in").first.click()
    page.wait_for_url(re.compile(r"/$"))
    page.close()
    yield context
    assert context.wrong == []
    context.close()


def project(running: Lab, rows: list[dict], **settings) -> int:
    lines = "\n".join(json.dumps({"group_id": f"g{i}", **row}) for i, row in enumerate(rows))
    sent = running.api.post(
        "/datasets", files={"file": ("rollouts.jsonl", lines.encode())}, data={"name": "asked"}
    )
    assert sent.status_code == 201, sent.text
    made = running.api.post("/labeling/projects", json={"name": "p", "source": sent.json()["id"], **settings})
    assert made.status_code == 201, made.text
    return made.json()["id"]


def plain(n: int, answers: int = 3) -> list[dict]:
    names = ["alpha", "bravo", "charlie", "delta", "echo"][:answers]
    return [{"prompt": f"prompt {i}", "completions": [f"{name} {i}" for name in names]} for i in range(n)]


def rankings(running: Lab, project: int) -> list[dict]:
    return [
        json.loads(line) for line in running.api.get(f"/labeling/projects/{project}/export").text.splitlines()
    ]


def open_(context, project: int):
    page = context.new_page()
    page.goto(f"/label/{project}")
    playwright.expect(page.locator(".answer").first).to_be_visible()
    return page


def rank(page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def in_order(page) -> list[list[str]]:
    """The words of the order at the side, best first, those of a tie together."""
    return page.evaluate(
        "[...document.querySelectorAll('#order li[data-at]')].map((item) => [...item.querySelectorAll('.gist')].map((gist) => gist.textContent))"
    )


def stored(row: dict) -> list[list[str]]:
    return [[row["completions"][i] for i in tied] for tied in row["order"]]


def words_at(page, at: int) -> tuple[float, float]:
    """Where to take hold of a row of the order: its words, since a row that is chosen has buttons below them."""
    box = page.locator("#order li[data-at] .gist").nth(at).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def height_of(page, at: int) -> tuple[float, float]:
    """Where a row of the order begins and ends."""
    box = page.locator("#order li[data-at]").nth(at).bounding_box()
    return box["y"], box["y"] + box["height"]
