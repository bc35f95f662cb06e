"""Bringing datasets in, reading their rows, and removing them."""

import gzip
import io
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from core_ml.artifact import Folder
from core_ml.crawl.warc import write_page
from lab.models import Artifact
from lab.services import fetch, reading
from tests.lab import making

pytestmark = pytest.mark.django_db
DATASETS = "/api/v1/datasets"


@pytest.fixture(autouse=True)
def _home(tmp_home):
    return tmp_home


def upload(api, content: bytes, filename: str = "texts.jsonl", **fields):
    return api().post(DATASETS, data={"file": SimpleUploadedFile(filename, content), **fields})


def lines(*rows) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def warc(n: int = 2) -> bytes:
    out = io.BytesIO()
    for i in range(n):
        write_page(out, f"http://example.org/{i}", b"<p>hello</p>", "2026-01-01T00:00:00Z")
    return out.getvalue()


def test_an_uploaded_jsonl_becomes_an_artifact_with_a_manifest(api, tmp_home):
    answer = upload(api, lines({"text": "one", "lang": "en"}, {"text": "two"}), name="two texts")
    assert answer.status_code == 201
    made = answer.json()
    assert (made["form"], made["name"], made["summary"]["rows"]) == ("documents", "two texts", 2)
    assert made["origin"]["recipe"] == "import"
    folder = Folder(tmp_home / "artifacts" / Artifact.objects.get().path)
    folder.verify()
    rows = pq.read_table(folder.file("documents-00000.parquet")).to_pylist()
    assert [row["text"] for row in rows] == ["one", "two"]
    assert json.loads(rows[0]["metadata"]) == {"lang": "en"}


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "conversations"),
        ({"conversations": [{"from": "human", "value": "hi"}]}, "conversations"),
        ({"prompt": "1+1", "answer": 2}, "problems"),
        ({"prompt": "tell me"}, "prompts"),
        ({"prompt": "p", "completions": ["a", "b"]}, "rollouts"),
        ({"prompt": "p", "completions": ["a", "b"], "order": [[1], [0]]}, "rankings"),
        ({"text": "t"}, "documents"),
    ],
)
def test_each_form_is_recognized_from_its_first_row(api, row, form):
    made = upload(api, lines(row)).json()
    assert made["form"] == form
    rows = api().get(f"{DATASETS}/{made['id']}/rows").json()
    assert rows["count"] == 1


def test_gzipped_lines_and_parquet_are_read(api):
    assert upload(api, gzip.compress(lines({"text": "one"})), "a.jsonl.gz").status_code == 201
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", "two"], "n": [1, 2]}), parquet)
    made = upload(api, parquet.getvalue(), "a.parquet").json()
    assert made["summary"]["rows"] == 2
    assert made["name"] == "a"


def test_a_warc_becomes_pages(api):
    made = upload(api, warc(), "crawl.warc.gz").json()
    assert (made["form"], made["summary"]["pages"], made["name"]) == ("pages", 2, "crawl")
    rows = api().get(f"{DATASETS}/{made['id']}/rows").json()["items"]
    assert [row["url"] for row in rows] == ["http://example.org/0", "http://example.org/1"]
    plain = upload(api, gzip.decompress(warc()), "crawl.warc").json()
    assert plain["files"][0]["path"] == "pages-00000.warc.gz"


def test_a_truncated_warc_keeps_what_is_whole_and_says_so(api):
    made = upload(api, warc(3)[:-20], "cut.warc.gz")
    assert made.status_code == 201
    assert made.json()["summary"]["pages"] == 2
    assert "2 pages" in made.json()["summary"]["notes"][0]


def test_malformed_lines_are_named_skipped_and_counted(api):
    answer = upload(
        api,
        lines({"text": "one"}, b"{broken", {"text": "two"}, {"body": "x"}, {"text": "\ud800"}, {"text": "3"}),
    )
    summary = answer.json()["summary"]
    assert (summary["rows"], summary["skipped"]) == (3, 3)
    assert [bad["row"] for bad in summary["skipped_rows"]] == [2, 4, 5]


@pytest.mark.parametrize(
    ("content", "filename", "told"),
    [
        (b"", "a.jsonl", "empty"),
        (b"\n\n", "a.jsonl", "empty"),
        (lines({"text": "one"}, b"{", b"{"), "a.jsonl", "2 of 3 rows of a.jsonl are malformed; the first is line 2"),
        (lines({"body": "one"}), "a.jsonl", "no known form"),
        (b'[{"text": "one"}]', "a.json", "one JSON list"),
        (b"\xff\xfe\x00binary", "a.bin", "no known form"),
        (b"PAR1 and then nothing", "a.parquet", "damaged"),
        (b"PK\3\4zip", "a.zip", "zip"),
        (b"filedesc://a.arc 0.0.0.0", "a.arc", "ARC file"),
        (gzip.compress(lines(*({"text": i} for i in range(5000))), mtime=0)[:-9], "a.jsonl.gz", "breaks off after line"),
        (gzip.compress(lines({"text": "one"}), mtime=0)[:-9], "a.jsonl.gz", "not a whole gzip file"),
        (b"\x1f\x8bgarbage", "a.gz", "not a whole gzip file"),
        (b"WARC/1.0\r\nbroken", "a.warc", "a.warc"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_in_a_sentence_and_leaves_nothing(api, tmp_home, content, filename, told):
    answer = upload(api, content, filename)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert answer.json()["errors"][0]["field"] == "file"
    assert not Artifact.objects.exists()
    assert not list((tmp_home / "artifacts").iterdir())


def test_what_is_too_large_is_refused_also_when_it_is_packed_small(api, settings, tmp_home):
    settings.MAX_UPLOAD_BYTES = 10_000
    bomb = gzip.compress(lines({"text": "a" * 5000}) * 100)
    assert len(bomb) < 10_000
    for content, filename in (
        (bomb, "a.jsonl.gz"),
        (gzip.compress(b"WARC/1.0\r\n" + b"0" * 500_000), "a.warc.gz"),
    ):
        answer = upload(api, content, filename)
        assert answer.status_code == 422
        assert "10,000 bytes" in answer.json()["detail"]
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["a" * 500] * 1000}), parquet)
    assert len(parquet.getvalue()) < 10_000
    assert upload(api, parquet.getvalue(), "a.parquet").status_code == 422
    assert not list((tmp_home / "artifacts").iterdir())


def test_a_line_without_end_is_refused(api, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE", 100)
    answer = upload(api, b'{"text": "' + b"a" * 200)
    assert "longer than 100 bytes" in answer.json()["detail"]


def test_a_full_disk_leaves_nothing_half_way(api, tmp_home, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    assert upload(api, lines({"text": "one"})).status_code == 507
    assert not Artifact.objects.exists()
    assert not list((tmp_home / "artifacts").iterdir())


def test_the_name_of_an_upload_leads_nowhere(api, tmp_home):
    made = upload(api, lines({"text": "one"}), "..\\..\\evil\\x.jsonl").json()
    assert made["name"] == "x"
    assert not (tmp_home.parent / "evil").exists()


def test_a_path_in_an_allowed_folder_is_imported(api, tmp_home):
    (tmp_home / "uploads" / "a.jsonl").write_bytes(lines({"text": "one"}))
    answer = api().post(DATASETS, {"path": str(tmp_home / "uploads" / "a.jsonl"), "name": "mine"})
    assert answer.status_code == 201
    assert answer.json()["name"] == "mine"


def test_no_path_leads_out_of_the_allowed_folders(api, tmp_home):
    outside = tmp_home / "secret.jsonl"
    outside.write_bytes(lines({"text": "secret"}))
    (tmp_home / "uploads" / "link.jsonl").symlink_to(outside)
    (tmp_home / "uploads-too").mkdir()
    (tmp_home / "uploads-too" / "a.jsonl").write_bytes(lines({"text": "secret"}))
    inside = str(tmp_home / "uploads")
    for path in (
        str(outside), f"{inside}/../secret.jsonl", f"{inside}/link.jsonl", f"{inside}-too/a.jsonl", "/etc/passwd",
        f"file://{outside}", "secret.jsonl", inside, f"{inside}/%2e%2e/secret.jsonl", "", "..\\secret.jsonl",
    ):  # fmt: skip
        answer = api().post(DATASETS, {"path": path})
        assert answer.status_code == 422, path
        assert "secret" not in answer.json()["detail"].replace(path, "")
    assert api().post(DATASETS, {"path": "a\0b"}).status_code == 400
    assert not Artifact.objects.exists()


def test_a_crawl_reads_no_path_outside_the_allowed_folders_either(api, tmp_home):
    config = {"source": "documents", "path": "/etc"}
    answer = api().post("/api/v1/runs", {"kind": "crawl", "config": config})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "config.path"
    answer = api().post("/api/v1/tours", {"documents": "/etc/passwd"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "documents"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"path": "a", "url": "b"},
        {"hub": "../x/y"},
        {"hub": "json"},
        {"url": "x", "colour": 1},
        {"path": 5},
        [],
        "x",
    ],
)
def test_a_bad_body_is_422(api, body):
    assert api().post(DATASETS, body).status_code == 422


def test_the_hub_without_a_network_is_told_plainly(api):
    answer = api().post(DATASETS, {"hub": "somebody/nothing-of-that-name"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "hub"
    assert "cannot be read from the hub" in answer.json()["detail"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://localhost/x", "http://[::1]/x", "http://[::ffff:127.0.0.1]/x", "http://0.0.0.0/x",
        "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/x", "http://192.168.1.1/x", "http://2130706433/x",
        "http://0x7f.1/x", "http://[fd00::1]/x", "http://[64:ff9b::7f00:1]/x", "http://[2002:7f00:1::]/x",
        "http://224.0.0.1/x", "http://100.64.0.1/x",
        "file:///etc/passwd", "ftp://example.org/x", "gopher://example.org", "http://", "http://user:pw@example.org/x",
        "http://127.0.0.1:99999/x", "//example.org/x", "not an address",
    ],
)  # fmt: skip
def test_no_address_leads_into_the_network_around_the_lab(api, url, monkeypatch):
    monkeypatch.setattr(fetch, "httpx", None)  # nothing is even asked
    answer = api().post(DATASETS, {"url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "url"


class _Site(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.server.hosts.append(self.headers["Host"])
        try:
            self.wfile.write(lines({"text": "from afar"}) * (1000 if self.path == "/large" else 1))
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    """A site that counts as public, under a name whose second look-up would lead elsewhere."""
    server = HTTPServer(("127.0.0.1", 0), _Site)
    server.hosts = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers = [[(0, 0, 0, "", ("127.0.0.1", 0))]]
    monkeypatch.setattr(fetch.network, "is_public", lambda address: True)
    real = socket.getaddrinfo
    monkeypatch.setattr(
        fetch.network.socket,
        "getaddrinfo",
        lambda host, *a, **k: answers[0] if host == "far.example" else real(host, *a, **k),
    )
    yield server
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_from_where_its_name_was_looked_up(api, site):
    address = f"http://far.example:{site.server_port}"
    made = api().post(DATASETS, {"url": f"{address}/texts.jsonl"})
    assert made.status_code == 201
    assert made.json()["name"] == "texts"
    assert site.hosts == [f"far.example:{site.server_port}"]


def test_redirects_errors_and_endless_answers_are_refused(api, site, settings):
    address = f"http://far.example:{site.server_port}"
    assert "redirects" in api().post(DATASETS, {"url": f"{address}/redirect"}).json()["detail"]
    assert "404" in api().post(DATASETS, {"url": f"{address}/missing"}).json()["detail"]
    settings.MAX_UPLOAD_BYTES = 1000
    assert "larger" in api().post(DATASETS, {"url": f"{address}/large"}).json()["detail"]
    assert not list(settings.UPLOAD_ROOT.iterdir())


def test_rows_are_paged_and_searched_in_place(api):
    made = upload(api, lines(*({"text": f"number {i}"} for i in range(120))))
    rows = f"{DATASETS}/{made.json()['id']}/rows"
    page = api().get(f"{rows}?limit=50&offset=100").json()
    assert (len(page["items"]), page["count"], page["items"][0]["text"]) == (20, 120, "number 100")
    found = api().get(f"{rows}?q=NUMBER 7").json()
    assert found["count"] == 11
    for hostile in ("' OR 1=1 --", "%", "_", '"; DROP TABLE x', "<img onerror=1>"):
        assert api().get(rows, data={"q": hostile}).json()["count"] == 0


def test_lists_page_and_filter(api):
    for text in ("one", "two", "three"):
        upload(api, lines({"text": text}), f"{text}.jsonl")
    upload(api, lines({"prompt": "p"}), "four.jsonl")
    assert api().get(f"{DATASETS}?form=documents").json()["count"] == 3
    page = api().get(f"{DATASETS}?limit=2&offset=1").json()
    assert ([item["name"] for item in page["items"]], page["count"]) == (["three", "two"], 4) or page[
        "count"
    ] == 4
    assert api().get(f"{DATASETS}?q=thr").json()["count"] == 1
    assert api().get(f"{DATASETS}?form=nothing").status_code == 422


def test_a_dataset_is_deleted_when_nothing_depends_on_it(api, tmp_home):
    made = upload(api, lines({"text": "one"})).json()
    assert api().delete(f"{DATASETS}/{made['id']}").status_code == 204
    assert api().get(f"{DATASETS}/{made['id']}").status_code == 404
    assert not list((tmp_home / "artifacts").iterdir())


def test_a_dataset_that_something_depends_on_is_kept(api):
    used = making.dataset("documents", [{"text": "one"}])
    making.run().inputs.create(name="documents", artifact=used)
    answer = api().delete(f"{DATASETS}/{used.pk}")
    assert answer.status_code == 409
    assert "a run" in answer.json()["detail"]
    of_a_run = making.dataset("documents", [{"text": "one"}], uid="0000dddd")
    Artifact.objects.filter(pk=of_a_run.pk).update(run=making.run())
    assert api().delete(f"{DATASETS}/{of_a_run.pk}").status_code == 409


def test_strangers_and_labelers_stay_out(api):
    for role, status in ((None, 401), ("labeler", 403)):
        assert api(role).get(DATASETS).status_code == status
        assert api(role).post(DATASETS, {"path": "x"}).status_code == status
        assert api(role).get(f"{DATASETS}/x/rows").status_code == status
        assert api(role).delete(f"{DATASETS}/x").status_code == status


def test_windows_of_tokens_are_rows_with_the_documents_in_them(api):
    made = making.tokens([f"the cat {n} sees the sea" for n in range(8)])
    rows = api().get(f"{DATASETS}/{made.pk}/rows?limit=1").json()
    assert rows["count"] == 2 and len(rows["items"]) == 1  # one of either side of the split
    (window,) = rows["items"]
    assert (window["side"], window["start"]) == ("train", 0)
    for part in window["parts"]:
        assert part["begins"] and part["text"] == f"the cat {part['document']} sees the sea"
    assert api().get(f"{DATASETS}?form=tokens").json()["count"] == 1
