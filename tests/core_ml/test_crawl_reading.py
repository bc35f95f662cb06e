"""Good and broken files: what is readable is read, damage is told in one sentence, and what is no such file is refused."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core_ml.crawl import documents, warc
from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.page import Failure, Page, Reading
from core_ml.crawl.sources import look_at
from core_ml.errors import UserError
from tests.core_ml.crawled import html, prose, write_jsonl, write_warc


def read(path: Path) -> tuple[list[Page], list[Failure], Reading]:
    reading = Reading()
    found = list(warc.read(path, path.name, reading))
    return (
        [one for one in found if isinstance(one, Page)],
        [one for one in found if isinstance(one, Failure)],
        reading,
    )


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write_warc(tmp_path / "three.warc.gz", {f"http://a.example/{n}": html(prose(n)) for n in range(3)})


def test_a_written_page_reads_back_with_its_address_date_and_bytes(three: Path):
    pages, failures, reading = read(three)
    assert [page.url for page in pages] == ["http://a.example/0", "http://a.example/1", "http://a.example/2"]
    assert pages[1].html == html(prose(1)) and pages[1].charset == "utf-8"
    assert pages[1].date == "2026-01-02T03:04:05+00:00"
    assert len({page.id for page in pages}) == 3
    assert not failures and not reading.notes


@pytest.mark.parametrize("lost", [1, 5, 200])
def test_a_file_cut_inside_a_page_keeps_the_pages_before_it(three: Path, lost: int):
    three.write_bytes(three.read_bytes()[:-lost])
    pages, failures, reading = read(three)
    assert [page.url for page in pages][:2] == ["http://a.example/0", "http://a.example/1"]
    assert len(pages) + len(failures) == 3
    assert len(reading.notes) == 1 and "three.warc.gz" in reading.notes[0]


def test_a_file_cut_in_a_header_is_told_too(three: Path):
    data = three.read_bytes()
    last = data.rindex(b"\x1f\x8b\x08")
    three.write_bytes(data[: last + 25])
    pages, _, reading = read(three)
    assert len(pages) == 2
    assert len(reading.notes) == 1 and "2 pages before" in reading.notes[0]


def test_garbage_after_good_records_is_told(three: Path):
    plain = gzip.decompress(three.read_bytes())
    path = three.with_name("plain.warc")
    path.write_bytes(plain + b"this is not a record\r\n" * 5)
    pages, _, reading = read(path)
    assert len(pages) == 3
    assert len(reading.notes) == 1 and reading.notes[0].startswith(
        "plain.warc cannot be read beyond record 3"
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"<html>a page, not an archive</html>\n" * 20, "page.warc is not a WARC file"),
        (b"", "page.warc is empty"),
        (gzip.compress(b"just text\n" * 100, mtime=0), "page.warc is not a WARC file"),
        (b"filedesc://a.arc 0.0.0.0 20260101000000 text/plain 76\n1 0 x\n", "page.warc is an ARC file"),
    ],
)
def test_a_file_that_is_no_warc_is_refused_by_name(tmp_path: Path, data: bytes, sentence: str):
    path = tmp_path / "page.warc"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read(path)
    assert caught.value.message.startswith(sentence)
    assert "\n" not in caught.value.message


def test_a_changed_block_is_kept_and_told(three: Path):
    plain = gzip.decompress(three.read_bytes())
    path = three.with_name("changed.warc")
    path.write_bytes(plain.replace(b"orchard", b"ORCHARD", 1))
    pages, _, reading = read(path)
    assert len(pages) == 3
    assert reading.notes == ["1 records of changed.warc do not match their own digest; they are kept"]


def test_malformed_lines_are_skipped_and_named(tmp_path: Path):
    path = write_jsonl(
        tmp_path / "a.jsonl.gz",
        [
            {"text": "one", "url": "http://x.example/"},
            "{oops",
            {"no": 1},
            "",
            {"text": "two", "year": 7},
            {"text": "three"},
        ],
    )
    reading = Reading()
    found = list(documents.read_jsonl(path, "a.jsonl.gz", "text", reading))
    pages = [one for one in found if isinstance(one, Page)]
    assert [(page.url, page.text) for page in pages] == [
        ("http://x.example/", "one"),
        ("http://5.a.documents.internal/", "two"),
        ("http://6.a.documents.internal/", "three"),
    ]
    assert pages[1].metadata == {"year": 7}
    assert [one.detail for one in found if isinstance(one, Failure)] == [
        "line 2 of a.jsonl.gz",
        "line 3 of a.jsonl.gz",
    ]
    assert reading.notes == ["a.jsonl.gz: 2 malformed lines were skipped (line 2, 3)"]


def test_a_file_of_mostly_malformed_lines_is_refused(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", ["x", {"text": "one"}, "y"])
    with pytest.raises(UserError, match=r"2 of 3 lines of a\.jsonl .*the first is line 1"):
        list(documents.read_jsonl(path, "a.jsonl", "text", Reading()))


def test_a_long_file_of_bad_lines_is_refused_before_its_end(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", ["x"] * 5000)
    read_so_far = []
    with pytest.raises(UserError):
        read_so_far.extend(documents.read_jsonl(path, "a.jsonl", "text", Reading()))
    assert len(read_so_far) <= 1000


def test_an_empty_file_and_a_cut_one(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.jsonl is empty"):
        list(documents.read_jsonl(tmp_path / "empty.jsonl", "empty.jsonl", "text", Reading()))
    path = write_jsonl(tmp_path / "cut.jsonl.gz", [{"text": prose(n)} for n in range(400)])
    path.write_bytes(path.read_bytes()[:-200])
    reading = Reading()
    assert len(list(documents.read_jsonl(path, "cut.jsonl.gz", "text", reading))) > 100
    assert len(reading.notes) == 1 and reading.notes[0].startswith("cut.jsonl.gz is cut off after line")


def test_parquet_is_read_by_row_groups_and_a_missing_column_is_named(tmp_path: Path):
    table = pa.table({"text": [f"text {n}" for n in range(10)], "url": [None] * 10, "stars": list(range(10))})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=4)
    assert documents.n_row_groups(tmp_path / "d.parquet") == 3
    pages = list(documents.read_parquet(tmp_path / "d.parquet", "d.parquet", "text", (1, 3)))
    assert [page.text for page in pages] == [f"text {n}" for n in range(4, 10)]
    assert pages[0].url == "http://5.d.documents.internal/" and pages[0].metadata == {"stars": 4}
    with pytest.raises(UserError, match="has no column 'body': it has text, url, stars"):
        list(documents.read_parquet(tmp_path / "d.parquet", "d.parquet", "body", (0, 1)))
    (tmp_path / "fake.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"fake\.parquet is not a Parquet file"):
        documents.n_row_groups(tmp_path / "fake.parquet")


def test_a_path_is_looked_at_before_anything_is_read(tmp_path: Path):
    for config, sentence in (
        ({"source": "warc"}, "needs a path"),
        ({"source": "warc", "path": str(tmp_path / "no")}, "there is no file or folder"),
        ({"source": "documents", "path": str(tmp_path)}, "holds no JSONL or Parquet files"),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            look_at(CrawlConfig.model_validate(config))
        assert caught.value.field == "path"


@pytest.mark.parametrize(
    ("name", "n_pages", "n_failures", "n_notes"),
    [
        ("CC-MAIN-2020-34-part1.warc.gz", 12, 0, 0),
        ("iana.warc.gz", 16, 0, 0),  # bodies stored decoded under a head that says chunked
        ("clipped.warc.gz", 0, 1, 1),
        ("example-trunc.warc", 1, 0, 2),
        ("example-wrong-chunks.warc.gz", 1, 0, 1),
        ("example-iana.org-chunked.warc", 1, 0, 0),
    ],
)
def test_archives_of_other_people(shared: Path, name: str, n_pages: int, n_failures: int, n_notes: int):
    pages, failures, reading = read(shared / "warc-samples" / name)
    assert (len(pages), len(failures), len(reading.notes)) == (n_pages, n_failures, n_notes)
