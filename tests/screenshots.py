"""`make screenshots`: every page of a toured lab as pictures, light and dark, wide and narrow, each run through axe-core.

Takes the lab in LAB_HOME if a tour has ended there, else tours one in a temporary folder first (SMALL=1 for the
smallest tour). Pictures go to screenshots/, which git ignores; the exit code tells whether axe found anything.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.journeys.stack import ROOT, Lab, free_port
from tests.setup_chromium import ARGUMENTS, find

OUT = ROOT / "screenshots"
SIZES = {"1280": (1280, 900), "390": (390, 844)}
THEMES = ("light", "dark")
PROMPT = "What is 17 plus 25?"


def main() -> int:
    from playwright.sync_api import sync_playwright

    chromium = find()
    if chromium is None:
        sys.exit("There is no Chromium on this machine: install the package chromium.")
    given = os.environ.get("LAB_HOME")
    with tempfile.TemporaryDirectory(prefix="shots-") as folder:
        home = Path(given) if given else Path(folder) / "home"
        port = free_port()
        environment = os.environ | {"LAB_HOME": str(home), "LAB_PORT": str(port)}
        empty = Lab(Path(folder) / "empty", free_port(), {})
        empty.environment = os.environ | {"LAB_HOME": str(empty.home), "LAB_PORT": str(empty.port)}
        if not given:
            tour = [sys.executable, "manage.py", "tour", *(["--small"] if os.environ.get("SMALL") else [])]
            subprocess.run(tour, cwd=ROOT, env=environment, check=True)
        running = Lab(home, port, environment)
        running._log = Path(folder) / "up.log"
        problems: list[str] = []
        OUT.mkdir(exist_ok=True)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            for each, pages in ((empty, {"home-empty": "/"}), (running, None)):
                each.start()
                try:
                    admin = each.manage("signin", "admin")
                    problems += _shoot(browser, each, admin, pages or _pages(each))
                finally:
                    each.stop()
            browser.close()
    print("\n".join(problems) or "axe-core found nothing.")
    return 1 if problems else 0


def _pages(lab: Lab) -> dict[str, str]:
    """Every page of a toured lab by the name of its picture."""
    runs = {run["kind"]: run for run in lab.get("/runs?limit=50")["items"]}
    datasets = lab.get("/datasets?limit=50")["items"]
    by_form = {dataset["form"]: dataset["id"] for dataset in reversed(datasets)}
    checkpoints = {
        checkpoint["role"]: checkpoint["id"] for checkpoint in lab.get("/checkpoints?limit=50")["items"]
    }
    pages = {
        "home": "/",
        "tour": f"/tour/{lab.get('/tours')['items'][0]['id']}",
        "search": "/search?q=tour",
        "runs": "/runs",
        "new-run": "/runs/new",
        "models": "/models",
        "settings": "/settings",
    }
    pages |= {"sign-in": "/sign-in", "styleguide": "/styleguide", "missing": "/no-such-page"}
    pages |= {f"run-{kind}": f"/runs/{run['id']}" for kind, run in runs.items()}
    pages |= {f"new-{kind}": f"/runs/new/{kind}" for kind in runs}
    run = runs["pretrain"]["id"]
    pages |= {
        f"tab-{tab}": f"/runs/{run}/{tab}"
        for tab in ("curves", "samples", "log", "config", "lineage", "files")
    }
    pages["compare-pick"] = "/runs/compare"
    pages["compare"] = f"/runs/compare?ids={runs['sft']['id']},{runs['pretrain']['id']}"
    pages |= {"datasets": "/datasets", "tokenizers": "/tokenizers", "checkpoints": "/checkpoints"}
    pages |= {f"dataset-{form}": f"/datasets/{id}" for form, id in by_form.items()}
    pages["tokenizer"] = f"/tokenizers/{lab.get('/tokenizers')['items'][0]['id']}"
    pages["tokenizer-vocabulary"] = f"{pages['tokenizer']}?view=vocabulary"
    pages |= {f"checkpoint-{role}": f"/checkpoints/{id}" for role, id in checkpoints.items()}
    pages |= {"playground": "/playground", "label": "/label", "labeling": "/labeling"}
    project = lab.get("/labeling/projects")["items"][0]["id"]
    pages |= {"label-done": f"/label/{project}", "project": f"/labeling/{project}"}
    return pages | {"label-group": f"/label/{_open_project(lab, by_form['rollouts'], project)}"}


def _open_project(lab: Lab, rollouts: str, toured: int) -> int:
    """A project in which there is something to rank: the tour has ranked everything in its own."""
    for project in lab.get("/labeling/projects")["items"]:
        if project["id"] != toured and project["name"] == "Pictures":
            return project["id"]
    source = lab.get(f"/labeling/projects/{toured}")["source"] or rollouts
    return lab.api.post("/labeling/projects", json={"name": "Pictures", "source": source}).json()["id"]


def _shoot(browser: Any, lab: Lab, link: str, pages: dict[str, str]) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    problems: list[str] = []
    context = browser.new_context(base_url=lab.url)
    page = context.new_page()
    page.goto(link)
    if page.get_by_role("button", name="Sign in").count():
        page.get_by_role("button", name="Sign in").first.click()
    page.wait_for_url(re.compile(r"/$"))
    only = os.environ.get("PAGES")
    for name, path in pages.items():
        if only and not re.search(only, name):
            continue
        for width, size in SIZES.items():
            page.set_viewport_size({"width": size[0], "height": size[1]})
            for theme in THEMES:
                page.emulate_media(color_scheme=theme)
                errors: list[str] = []
                page.once("pageerror", lambda error, found=errors: found.append(str(error)))
                answer = page.goto(path)
                page.wait_for_timeout(700)
                where = f"{name}-{width}-{theme}"
                if answer.status != (404 if name == "missing" else 200):
                    problems.append(f"{where}: answered {answer.status}")
                if name == "playground" and (fault := _ask(page)):
                    problems.append(f"{where}: {fault}")
                page.screenshot(path=str(OUT / f"{where}.png"), full_page=True)
                problems += [f"{where}: script error: {error}" for error in errors]
                if page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1"):
                    problems.append(f"{where}: the page is wider than its window")
                for violation in Axe().run(page).response["violations"]:
                    target = violation["nodes"][0]["target"]
                    n = len(violation["nodes"])
                    problems.append(
                        f"{where}: {violation['id']} ({n}): {violation['help']}; first at {target}"
                    )
        print(name, flush=True)
    context.close()
    return problems


def _ask(page: Any) -> str:
    """Type a prompt, send it, and wait until the answer has ended; what went wrong, else nothing."""
    from playwright.sync_api import TimeoutError

    try:
        page.get_by_role("textbox", name="Prompt").fill(PROMPT)
        page.locator("[data-go]").click()
        # The first answer waits for the engine to load its model.
        page.locator(".out .p").first.wait_for(timeout=60_000)
        page.locator("[data-stop]").wait_for(state="hidden", timeout=60_000)
    except TimeoutError as error:
        return f"no answer came: {error.message.splitlines()[0]}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
