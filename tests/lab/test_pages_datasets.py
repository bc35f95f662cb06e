"""The datasets' pages: the list, rows of every form, search, uploads; and that nobody's text becomes markup."""

import duckdb
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from core_ml.artifact import Origin, Writer
from core_ml.crawl import warc
from lab.models import Artifact
from lab.queries import rows
from lab.services import artifacts
from tests.lab import making

pytestmark = pytest.mark.django_db
ATTACK = '<img src=x onerror="alert(1)">'
SHOWN = "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;"
ROWS = {
    "documents": [{"id": "1", "url": "https://a.example/1", "text": f"first {ATTACK} text"}, {"text": "second one"}],
    "conversations": [{"messages": [{"role": "user", "content": ATTACK}, {"role": "assistant", "content": "hello"}]}],
    "problems": [{"prompt": f"{ATTACK} 2 + 2", "answer": "4", "verifier": "exact", "task": "add"}],
    "prompts": [{"prompt": ATTACK}],
    "rollouts": [{"group_id": "g", "prompt": ATTACK, "completions": [ATTACK, ""], "logprobs": [[-0.5, -1.5], []], "ended": [True, False]}],
    "rankings": [{"group_id": "g", "prompt": "p", "completions": ["best", ATTACK, "also good"], "labeler": "lea", "simulated": True, "order": [[0], [2, 1]], "flags": {"1": ["untrue"]}}],
}  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
def test_rows_of_each_form_are_shown_and_markup_in_them_is_text(browser, tmp_home, form):
    made = making.dataset(form, ROWS[form], name=f"{form} {ATTACK}")
    answer = browser().get(f"/datasets/{made.pk}")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert SHOWN in page
    assert "<img" not in page


def test_the_list_counts_by_form_and_searches_names(browser, tmp_home):
    making.dataset("prompts", ROWS["prompts"], uid="1", name="whales")
    making.dataset("problems", ROWS["problems"], uid="2", name="sums")
    page = browser().get("/datasets").content.decode()
    assert "whales" in page and "sums" in page
    page = browser().get("/datasets?form=problems").content.decode()
    assert "sums" in page and "whales" not in page
    page = browser().get("/datasets?q=whal").content.decode()
    assert "whales" in page and "sums" not in page


@pytest.mark.parametrize("path", ["/datasets", "/datasets/x", "/datasets/x/recount"])
def test_a_stranger_is_sent_to_sign_in_and_a_labeler_is_refused(browser, path):
    assert browser(None).get(path)["Location"].startswith("/sign-in")
    assert browser("labeler").get(path).status_code == 403


@pytest.mark.parametrize("id", ["nothing", "..%2f..%2fetc", "%00", "x" * 300])
def test_an_unknown_dataset_is_not_found(browser, tmp_home, id):
    assert browser().get(f"/datasets/{id}").status_code == 404


def test_other_kinds_of_artifacts_are_no_datasets(browser, tmp_home):
    assert browser().get(f"/datasets/{making.tokenizer().pk}").status_code == 404


def test_search_finds_rows_whatever_their_capitals_and_quotes_are_words(browser, tmp_home):
    texts = ["The Sea is blue", "it's a quote ' or 1=1 --", "100 % of it"]
    made = making.dataset("documents", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    assert [row["id"] for row in rows.page(made, q="sea IS").items] == ["0"]
    assert [row["id"] for row in rows.page(made, q="' or 1=1 --").items] == ["1"]
    assert [row["id"] for row in rows.page(made, q="%").items] == ["2"]
    page = browser().get(f"/datasets/{made.pk}?q=sea").content.decode()
    assert "<mark>Sea</mark>" in page


def test_pages_follow_each_other_without_gap_or_overlap(tmp_home):
    made = making.dataset("prompts", [{"prompt": f"prompt {i}"} for i in range(7)])
    pages = [rows.page(made, offset=offset, limit=3) for offset in (0, 3, 6, 9)]
    assert [[row["prompt"] for row in page.items] for page in pages] == [
        ["prompt 0", "prompt 1", "prompt 2"],
        ["prompt 3", "prompt 4", "prompt 5"],
        ["prompt 6"],
        [],
    ]
    assert [(page.earlier, page.later, page.count) for page in pages[:3]] == [
        (None, 3, 7),
        (0, 6, 7),
        (3, None, 7),
    ]


def test_a_connection_reads_its_own_folder_and_nothing_else(tmp_home):
    made = making.dataset("prompts", [{"prompt": "p"}])
    folder = artifacts.local_path(made)
    secret = tmp_home / "secret.csv"
    secret.write_text("a\n1\n")
    with rows.connect(folder) as connection:
        for sql in (
            f"SELECT * FROM read_csv('{secret}')",
            f"SELECT * FROM read_text('{folder}/../../../secret.csv')",
            f"COPY (SELECT 1) TO '{tmp_home}/out.csv'",
            "SET enable_external_access=true",
            "INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)


def test_a_damaged_file_is_told_and_breaks_nothing(browser, tmp_home):
    made = making.dataset("prompts", [{"prompt": "p"}])
    (artifacts.local_path(made) / "prompts.parquet").write_bytes(b"PAR1 this is no table PAR1")
    answer = browser().get(f"/datasets/{made.pk}")
    assert answer.status_code == 200
    assert "this dataset cannot be read" in answer.content.decode()


def test_pages_of_a_warc_are_listed_and_searched(browser, tmp_home):
    writer = Writer(tmp_home / "artifacts" / "7" / "pages", id="7-pages", kind="dataset", form="pages", name="web", origin=Origin(recipe="crawl"))  # fmt: skip
    with (writer.path / "pages-00000.warc.gz").open("wb") as out:
        for i in range(5):
            warc.write_page(out, f"https://host.example/{i}", b"<p>text</p>", "2026-01-02T03:04:05Z")
    writer.finish({"n_pages": 5})
    made = artifacts.adopt(writer.target)
    found = rows.page(made, offset=1, limit=2)
    assert ([row["url"] for row in found.items], found.count) == (
        ["https://host.example/1", "https://host.example/2"],
        5,
    )
    assert [row["number"] for row in rows.page(made, q="example/4").items] == [0]
    assert "https://host.example/3" in browser().get(f"/datasets/{made.pk}").content.decode()


def test_an_uploaded_file_becomes_a_dataset(browser, tmp_home):
    file = SimpleUploadedFile("mine.jsonl", b'{"text": "a first document"}\n{"text": "a second"}\n')
    answer = browser().post("/datasets", {"file": file, "name": "mine"})
    made = Artifact.objects.get()
    assert answer["Location"] == f"/datasets/{made.pk}"
    assert [row["text"] for row in rows.page(made).items] == ["a first document", "a second"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "no file was chosen"),
        ({"url": "ftp://example.org/x"}, "url"),
        ({"url": "http://127.0.0.1/x"}, "url"),
    ],
)
def test_a_bad_upload_is_told_beside_the_form(browser, tmp_home, data, told):
    answer = browser().post("/datasets", data)
    assert answer.status_code == 422
    assert told in answer.content.decode()
    assert not Artifact.objects.exists()


def test_a_file_of_nonsense_is_refused_and_what_was_typed_stays(browser, tmp_home):
    file = SimpleUploadedFile("x.jsonl", b"\x00\x01 nonsense")
    answer = browser().post("/datasets", {"file": file, "name": ATTACK})
    assert answer.status_code == 422
    assert f'value="{SHOWN}"' in answer.content.decode()


def test_simulated_rankings_are_marked_and_do_not_look_like_people(browser, tmp_home):
    page = browser().get(f"/datasets/{making.dataset('rankings', ROWS['rankings']).pk}").content.decode()
    assert "simulated</span>" in page
    assert '<span class="stone">1</span>' in page
    people = [ROWS["rankings"][0] | {"simulated": False}]
    page = browser().get(f"/datasets/{making.dataset('rankings', people, uid='9').pk}").content.decode()
    assert '<span class="stone people">1</span>' in page


TEXTS = [f"the cat {n} sees the sea. {ATTACK if n == 3 else ''}" * (40 if n == 1 else 1) for n in range(12)]


def test_windows_of_tokens_show_where_documents_begin_and_lead_to_them(browser, tmp_home):
    made = making.tokens(TEXTS)
    page = browser().get(f"/datasets/{made.pk}").content.decode()
    assert "<img" not in page
    assert f"{made.summary['n_documents']} documents" in page
    documents = made.manifest["origin"]["inputs"]["documents"][0]
    row = next(row for row in range(12) if f"document {row + 1}<" in page)
    link = f"/datasets/{documents}?view=rows&amp;offset={row}&amp;row={row}"
    assert link in page
    text = browser().get(link.replace("&amp;", "&")).content.decode()
    assert f"the cat {row} sees" in text


def test_every_document_begins_in_one_window_and_all_tokens_are_shown_once(tmp_home):
    made = making.tokens(TEXTS)
    found = rows.page(made, limit=500)
    parts = [part for item in found.items for part in item["parts"]]
    assert sorted(part["document"] for part in parts if part["begins"]) == list(range(12))
    assert sum(len(part["ids"]) for part in parts) == made.summary["n_tokens"]
    assert all(
        item["end"] - item["start"] == sum(len(part["ids"]) for part in item["parts"]) for item in found.items
    )
    texts = {number: "" for number in range(12)}
    for part in parts:
        texts[part["document"]] += part["text"]
    assert [texts[number] for number in range(12)] == TEXTS
    some = [rows.page(made, offset=offset, limit=2).items for offset in range(0, found.count, 2)]
    assert [item for items in some for item in items] == found.items


def test_a_search_finds_words_across_the_border_of_two_windows(tmp_home, monkeypatch):
    made = making.tokens(TEXTS)
    everywhere = rows.page(made, q="CAT 7 SEES", limit=500)
    assert everywhere.count == 1 and not everywhere.cut
    whole = [item for item in rows.page(made, limit=500).items if item["side"] == "train"]
    left, right = ("".join(part["text"] for part in item["parts"]) for item in whole[:2])
    assert whole[0]["number"] in [row["number"] for row in rows.page(made, q=left[-6:] + right[:6]).items]
    assert rows.page(made, q="no such words").items == []
    monkeypatch.setattr("lab.queries.token_rows.MAX_TOKENS", 200)
    assert rows.page(made, q="the").cut


def test_damaged_tokens_are_told(browser, tmp_home):
    made = making.tokens(TEXTS)
    (artifacts.local_path(made) / "train-00000.idx").write_bytes(b"odd")
    assert "this dataset cannot be read" in browser().get(f"/datasets/{made.pk}").content.decode()
