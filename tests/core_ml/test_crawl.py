"""Whole crawls: every page accounted for, every drop with its reason, the same result from any number of workers."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core_ml import artifact, recipes
from core_ml.crawl import minhash
from core_ml.crawl.rules import BY_FIELD, FAILURES, STAGE_NAMES
from core_ml.crawl.steps import extract
from core_ml.events import Artifact, Done, Event, Failed, Figure, Log, Sample, Summary
from tests.core_ml.crawled import OFF, crawl, html, prose, rows, summary, write_jsonl, write_warc

SPAM = "Buy now and save!\n" * 40


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """Two files of pages with one page for each of several fates."""
    folder = tmp_path / "web"
    folder.mkdir()
    german = "Die Stadt liegt am Fluss und ist seit vielen Jahren für ihre Gärten bekannt. " * 8
    write_warc(
        folder / "a.warc.gz",
        {
            "http://good.example/1": html(prose(1)),
            "http://good.example/2": html(prose(2) + "\nWrite to joe@corp.io about it today."),
            "http://casino.example/": html(prose(3)),
            "http://german.example/": html(german),
            "http://deep.example/": b"<div>" * 600 + b"deep" + b"</div>" * 600,
            "http://empty.example/": b"<html><body><script>1</script></body></html>",
        },
    )
    write_warc(
        folder / "b.warc.gz",
        {
            "http://copy.example/1": html(prose(1)),
            "http://spam.example/": html(SPAM),
            "http://short.example/": html("This is a short page and that is all that it has to be."),
            "http://code.example/": html(prose(4) + "\nint main() { return 0; }"),
            "http://good.example/5": html(prose(5)),
        },
    )
    return folder


def test_each_page_has_its_fate_its_rule_and_its_value(web: Path, tmp_path: Path):
    events = crawl(tmp_path / "out", {"path": str(web)}, "fineweb")
    assert isinstance(events[-1], Done)
    fates = {row["url"]: (row["stage"], row["rule"]) for row in rows(tmp_path / "out", "decisions")}
    assert fates == {
        "http://good.example/1": (None, None),
        "http://good.example/2": (None, None),
        "http://casino.example/": ("url", "banned_url_words"),
        "http://german.example/": ("language", "min_language_score"),
        "http://deep.example/": ("extraction", "max_nesting"),
        "http://empty.example/": ("extraction", "min_text_chars"),
        "http://copy.example/1": ("minhash", "max_similarity"),
        "http://spam.example/": ("gopher", "max_dup_line_ratio"),
        "http://short.example/": ("gopher", "min_words"),
        "http://code.example/": ("c4", "max_curly_brackets"),
        "http://good.example/5": (None, None),
    }
    decisions = {row["url"]: row for row in rows(tmp_path / "out", "decisions")}
    deep, copy = decisions["http://deep.example/"], decisions["http://copy.example/1"]
    assert (deep["value"], deep["threshold"], deep["nesting"], deep["words"]) == (600, 512, 600, None)
    assert copy["value"] == 1.0 and copy["duplicate_of"] == decisions["http://good.example/1"]["id"]


def test_documents_are_the_kept_pages_with_all_their_columns(web: Path, tmp_path: Path):
    crawl(tmp_path / "out", {"path": str(web)}, "fineweb")
    documents = rows(tmp_path / "out", "documents")
    assert [row["url"] for row in documents] == [f"http://good.example/{n}" for n in (1, 2, 5)]
    assert list(documents[0]) == [
        "id",
        "url",
        "text",
        "language",
        "language_score",
        "date",
        "source",
        "metadata",
    ]
    assert documents[0]["text"] == prose(1).replace("\n", "\n\n")
    assert (documents[0]["language"], documents[0]["source"]) == ("en", "a.warc.gz")
    assert documents[0]["date"] == "2026-01-02T03:04:05+00:00" and json.loads(documents[0]["metadata"]) == {}
    assert "email@example.com" in documents[1]["text"] and "joe@corp.io" not in documents[1]["text"]


def check_funnel(out: Path) -> None:
    """in = kept + dropped + failed, each stage takes up what the one before left, and the decisions say the same."""
    funnel, decisions = summary(out)["funnel"], rows(out, "decisions")
    assert [row["stage"] for row in funnel] == list(STAGE_NAMES)
    came = len(decisions)
    for row in funnel:
        assert row["in"] == came == row["kept"] + row["dropped"] + row["failed"]
        mine = [one for one in decisions if one["stage"] == row["stage"]]
        assert Counter(one["rule"] for one in mine) == row["rules"]
        assert sum(one["failed"] for one in mine) == row["failed"]
        came = row["kept"]
    assert (
        came
        == summary(out)["n_documents"]
        == len(rows(out, "documents"))
        == sum(one["kept"] for one in decisions)
    )


def check_reasons(out: Path, config: dict[str, Any]) -> None:
    """Every dropped page's value stands in its measure's column, and lies on the wrong side of the config's threshold."""
    for row in rows(out, "decisions"):
        if row["kept"] or row["rule"] in FAILURES:
            continue
        rule = BY_FIELD[row["rule"]]
        assert row[rule.measure] == row["value"] and rule.threshold(config) == row["threshold"]
        assert not rule.keeps(row["value"], row["threshold"])


def test_every_page_is_accounted_for(web: Path, tmp_path: Path):
    crawl(tmp_path / "out", {"path": str(web)}, "fineweb")
    check_funnel(tmp_path / "out")
    check_reasons(tmp_path / "out", recipes.get("crawl").config().model_dump(mode="json"))
    pii = summary(tmp_path / "out")["funnel"][-1]
    assert (pii["changed"], pii["dropped"]) == (1, 0)


def test_the_events_tell_what_became_of_the_pages(web: Path, tmp_path: Path):
    events = crawl(tmp_path / "out", {"path": str(web)}, "fineweb")

    def of(kind: type[Event]) -> list[Any]:
        return [event for event in events if isinstance(event, kind)]

    assert [event.output for event in of(Artifact)] == ["documents"]
    figure = of(Figure)[0]
    assert figure.name == "funnel" and len(figure.content["rows"]) == 8
    assert figure.content["rows"][0][:5] == ["URL filtering", 11, 10, 1, 0]
    values = of(Summary)[0].values
    assert (values["n_pages"], values["n_documents"], values["kept_share"]) == (11, 3, round(3 / 11, 4))
    assert values["bytes_text"] == sum(
        len(row["text"].encode()) for row in rows(tmp_path / "out", "documents")
    )
    assert {event.prompt for event in of(Sample)} == {f"http://good.example/{n}" for n in (1, 2, 5)}
    assert any("a.warc.gz: 6 pages" in event.message for event in of(Log))


@pytest.mark.parametrize("repeats", [None, 1])
def test_two_processes_make_the_same_dataset_as_one(web: Path, tmp_path: Path, repeats: int | None):
    config = {"path": str(web), "max_line_repeats": repeats}
    assert isinstance(crawl(tmp_path / "one", config, "fineweb")[-1], Done)
    assert isinstance(crawl(tmp_path / "two", config, "fineweb", processes=2)[-1], Done)
    for table in ("documents", "decisions"):
        assert rows(tmp_path / "one", table) == rows(tmp_path / "two", table)


def test_a_finished_shard_is_never_done_again(web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from core_ml.crawl import minhash

    with monkeypatch.context() as broken:
        broken.setattr(minhash, "cluster", lambda *_: 1 / 0)
        assert isinstance(crawl(tmp_path / "out", {"path": str(web)}, "fineweb")[-1], Failed)
    # The pages were read before the failure: their files are not needed a second time.
    for path in web.iterdir():
        path.unlink()
    assert isinstance(crawl(tmp_path / "out", {"path": str(web)}, "fineweb")[-1], Done)
    check_funnel(tmp_path / "out")


def test_a_line_stays_once_in_the_corpus_in_the_order_of_the_files(tmp_path: Path):
    path = write_jsonl(
        tmp_path / "d.jsonl",
        [{"text": "one line\nshared line"}, {"text": "shared line\nlast line"}, {"text": "shared line"}],
    )
    config = {**OFF, "source": "documents", "path": str(path), "max_line_repeats": 1, "min_chars": 1}
    crawl(tmp_path / "out", config)
    assert [row["text"] for row in rows(tmp_path / "out", "documents")] == [
        "one line\nshared line",
        "last line",
    ]
    custom = summary(tmp_path / "out")["funnel"][6]
    assert custom["lines"] == {"max_line_repeats": 1} and custom["rules"] == {"min_chars": 1}


def test_texts_are_signed_before_they_are_many_and_change_nothing_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": prose(i % 7)} for i in range(20)])
    config = {"source": "documents", "path": str(path)}
    crawl(tmp_path / "whole", config, "fineweb")
    held, real = [], minhash.signatures
    monkeypatch.setattr(extract, "SIGNED_CHARS", 3 * len(prose(0)))
    monkeypatch.setattr(minhash, "signatures", lambda texts: held.append(len(texts)) or real(texts))
    crawl(tmp_path / "parts", config, "fineweb")
    assert sum(held) == 20 and max(held) <= 4
    assert rows(tmp_path / "parts", "decisions") == rows(tmp_path / "whole", "decisions")
    assert len(rows(tmp_path / "parts", "documents")) == 7


def test_damage_is_told_and_costs_only_what_is_damaged(web: Path, tmp_path: Path):
    whole = (web / "b.warc.gz").read_bytes()
    (web / "b.warc.gz").write_bytes(whole[:-30])
    events = crawl(tmp_path / "out", {"path": str(web)}, "fineweb")
    assert isinstance(events[-1], Done)
    assert summary(tmp_path / "out")["funnel"][0]["rules"]["truncated"] == 1
    assert any(
        "b.warc.gz ends inside record 5" in sentence for sentence in summary(tmp_path / "out")["warnings"]
    )
    check_funnel(tmp_path / "out")


def failure(events: list[Event]) -> Failed:
    assert isinstance(events[-1], Failed), events[-1]
    assert events[-1].traceback is None, events[-1].traceback
    return events[-1]


def test_nothing_to_read_and_nothing_left_are_refused(tmp_path: Path):
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": "too short"}, {"text": "tiny"}])
    config = {"source": "documents", "path": str(path), "min_language_score": None}
    left = failure(crawl(tmp_path / "one", config, "fineweb"))
    assert (
        left.message == "nothing is left of 2 pages: most, 2, fell to min_words" and left.field == "min_words"
    )
    assert not (tmp_path / "one" / "documents").exists()
    absent = failure(crawl(tmp_path / "two", {"path": str(tmp_path / "absent")}, "fineweb"))
    assert absent.field == "path" and str(tmp_path / "absent") in absent.message


def test_an_archive_without_a_page_says_what_it_has(tmp_path: Path):
    path = write_warc(tmp_path / "a.warc.gz", {"http://a.example/": b"x"})
    data = path.read_bytes()
    path.write_bytes(
        gzip.compress(
            gzip.decompress(data)
            .replace(b"text/html", b"image/png")
            .replace(b"WARC-Block-Digest", b"WARC-Other-Digest")
        )
    )
    assert failure(crawl(tmp_path / "out", {"path": str(path)}, "fineweb")).message.startswith(
        "there is no page in the files, only 1 files of type image/png"
    )


def test_a_file_that_is_no_warc_fails_by_its_name(web: Path, tmp_path: Path):
    (web / "c.warc.gz").write_bytes(b"nonsense")
    assert failure(crawl(tmp_path / "out", {"path": str(web)}, "fineweb")).message.startswith(
        "c.warc.gz is not a WARC file"
    )


def test_python_docs_become_documents_and_pages_that_can_be_crawled_again(tmp_path: Path):
    config = {"modules": ["json", "bisect", "textwrap"]}
    events = crawl(tmp_path / "out", config, "small")
    assert isinstance(events[-1], Done), events[-1]
    documents = rows(tmp_path / "out", "documents")
    hosts = {row["url"].split("/")[2] for row in documents}
    assert hosts == {"json.pydoc.internal", "bisect.pydoc.internal", "textwrap.pydoc.internal"}
    lines = Counter(line for row in documents for line in row["text"].split("\n") if line)
    assert max(lines.values()) == 1
    assert not any(line.startswith("/") and line.endswith(".py") for line in lines)
    check_funnel(tmp_path / "out")
    pages = artifact.Folder(tmp_path / "out" / "pages").manifest
    assert (pages.form, pages.summary["n_pages"]) == ("pages", summary(tmp_path / "out")["n_pages"])

    again = crawl(tmp_path / "again", config, "small", {"pages": [tmp_path / "out" / "pages"]})
    assert isinstance(again[-1], Done), again[-1]
    assert [row["text"] for row in rows(tmp_path / "again", "documents")] == [
        row["text"] for row in documents
    ]
    assert not (tmp_path / "again" / "pages").exists()


def test_documents_of_a_crawl_can_be_filtered_anew(web: Path, tmp_path: Path):
    crawl(tmp_path / "out", {"path": str(web)}, "fineweb")
    events = crawl(
        tmp_path / "again", {**OFF, "min_words": 100}, inputs={"documents": [tmp_path / "out" / "documents"]}
    )
    assert isinstance(events[-1], Done), events[-1]
    assert {row["url"] for row in rows(tmp_path / "again", "decisions")} == {
        f"http://good.example/{n}" for n in (1, 2, 5)
    }


def test_an_input_and_a_path_together_are_refused(web: Path, tmp_path: Path):
    crawl(tmp_path / "out", {"path": str(web)}, "fineweb")
    both = failure(
        crawl(
            tmp_path / "both", {"path": str(web)}, "fineweb", {"documents": [tmp_path / "out" / "documents"]}
        )
    )
    assert both.field == "documents"


def test_languages_of_real_news_are_told_apart(shared: Path, tmp_path: Path):
    folder = shared / "html-daniel-multilingual"
    index = [json.loads(line) for line in (folder / "index.jsonl").open()][::4]
    archive = (folder / "pages.warc.gz").read_bytes()
    some = b"".join(archive[page["offset"] : page["offset"] + page["length"]] for page in index)
    (tmp_path / "some.warc.gz").write_bytes(some)
    config = {**OFF, "source": "warc", "path": str(tmp_path), "languages": ["en"], "min_language_score": 0.65}
    assert isinstance(crawl(tmp_path / "out", config)[-1], Done)
    check_funnel(tmp_path / "out")
    labels = {page["url"]: page["lang"] for page in index}
    judged = [row for row in rows(tmp_path / "out", "decisions") if row["stage"] not in ("url", "extraction")]
    english = [row["kept"] for row in judged if labels[row["url"]] == "English"]
    other = [row["kept"] for row in judged if labels[row["url"]] != "English"]
    assert len(english) > 80 and sum(english) / len(english) > 0.97
    assert len(other) > 200 and sum(other) / len(other) < 0.01
