"""Rendering of Python's documentation: modules may print, exit, hang or look around, and nothing comes of it."""

from pathlib import Path
from typing import Any

import pytest

from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.steps import render
from core_ml.errors import UserError


def rendered(names: list[str], folder: Path) -> tuple[dict[str, Any], list[str]]:
    lost: list[str] = []
    messages = list(render.rendered(names, lost, folder))
    return {message["name"]: message for message in messages if "html" in message}, lost


def test_a_module_gives_pages_for_itself_its_classes_and_its_functions(tmp_path: Path):
    pages, lost = rendered(["json"], tmp_path)
    assert {"json", "json.decoder", "json.decoder.JSONDecoder", "json.loads"} <= set(pages)
    assert pages["json.decoder.JSONDecoder"]["kind"] == "class" and pages["json.loads"]["kind"] == "function"
    assert "Deserialize" in pages["json.loads"]["html"].replace("&nbsp;", " ")
    assert "json.JSONDecoder" not in pages, "a class has one page, where it was defined"
    assert lost == []


def test_topics_are_pages_too(tmp_path: Path):
    pages, _ = rendered(["topics"], tmp_path)
    assert pages["lambda"]["kind"] == "topic" and "Lambda" in pages["lambda"]["html"]


def test_modules_that_misbehave_cost_only_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render, "SILENCE", 4.0)
    monkeypatch.setitem(
        render.ENVIRONMENT, "PYTHONPATH", f"{render.ENVIRONMENT['PYTHONPATH']}:{tmp_path / 'lib'}"
    )
    (tmp_path / "lib").mkdir()
    modules = {
        "m_prints": "import os\nprint('{}')\nos.write(1, b'noise')\ndef one():\n    'Documented.'\n",
        "m_leaves": "import sys\nsys.exit(3)\n",
        "m_dies": "import os\nos._exit(3)\n",
        "m_hangs": "import time\ntime.sleep(1000)\n",
        "m_raises": "raise ValueError('no')\n",
        "m_last": "'''The last one.'''\n",
    }
    for name, code in modules.items():
        (tmp_path / "lib" / f"{name}.py").write_text(code)
    pages, lost = rendered([*modules, "m_missing"], tmp_path)
    assert set(pages) == {"m_prints", "m_prints.one", "m_last"}
    assert lost == ["m_dies", "m_hangs"]


def test_pages_do_not_show_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_TOKEN", "hunter2hunter2")
    pages, _ = rendered(["os"], tmp_path)
    assert "environ" in pages["os"]["html"]
    assert not any("hunter2hunter2" in page["html"] for page in pages.values())


def test_a_page_is_the_same_in_every_process(tmp_path: Path):
    names = ["sys", "collections", "sched"]  # with the search path, and with objects as default values
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = rendered(names, tmp_path / "one")[0], rendered(names, tmp_path / "two")[0]
    assert "object&nbsp;object&gt;" in first["sched"]["html"] or "object object" in first["sched"]["html"]
    assert first == second


def test_each_top_level_module_is_a_host():
    assert (
        render.address("class", "asyncio.events.Handle")
        == "http://asyncio.pydoc.internal/asyncio.events.Handle.html"
    )
    assert render.address("topic", "lambda") == "http://topics.pydoc.internal/lambda.html"


def test_groups_hold_every_module_once_and_a_stranger_is_refused():
    names = render.names_of(CrawlConfig())
    groups = render.balanced(names)
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert len(groups) == 4 and "json" in names and not {"antigravity", "tkinter"} & set(names)
    with pytest.raises(UserError, match="'django' is no module"):
        render.names_of(CrawlConfig(modules=("json", "django")))
