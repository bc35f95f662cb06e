"""Tokenizers brought in and taken out over the API."""

import json
import re
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from django.core.files.uploadedfile import SimpleUploadedFile
from tiktoken.load import load_tiktoken_bpe

from core_ml.artifact import Folder
from core_ml.tokenizer.patterns import PATTERNS
from core_ml.tokenizer.tokenizer import Tokenizer
from lab.models import Artifact
from lab.services import artifacts, fetch
from tests.core_ml import foreign
from tests.core_ml.test_tokenizer_merges import gpt2_style, llama3_style
from tests.lab import making

pytestmark = pytest.mark.django_db
TOKENIZERS = "/api/v1/tokenizers"
TEXT = "The cat sees 1234 stones, doesn't it?"


@pytest.fixture(autouse=True)
def _home(tmp_home):
    return tmp_home


def upload(api, content: bytes, filename: str = "tokenizer.json", **fields):
    return api().post(TOKENIZERS, data={"file": SimpleUploadedFile(filename, content), **fields})


@pytest.mark.parametrize("make", [gpt2_style, llama3_style])
def test_a_tokenizer_of_others_becomes_one_of_the_lab_with_its_own_ids(api, make):
    answer = upload(api, make().encode(), name="theirs")
    assert answer.status_code == 201
    made = answer.json()
    assert (made["kind"], made["name"], made["origin"]["recipe"]) == ("tokenizer", "theirs", "import")
    assert made["summary"]["lossless"] is True and made["summary"]["writes_ranks"] is True
    Folder(artifacts.local_path(Artifact.objects.get())).verify()
    theirs = tokenizers.Tokenizer.from_str(make())
    told = api().post(f"{TOKENIZERS}/{made['id']}/encode", {"text": TEXT}).json()["tokens"]
    assert [token["id"] for token in told] == theirs.encode(TEXT, add_special_tokens=False).ids
    chat = {"messages": [{"role": "user", "content": "cat"}]}
    told = api().post(f"{TOKENIZERS}/{made['id']}/encode", chat).json()["tokens"]
    assert [token["text"] for token in told if token["special"]] == [
        "<|im_start|>",
        "<|im_sep|>",
        "<|im_end|>",
    ]


def test_ranks_go_out_as_tiktoken_reads_them_and_come_back_with_the_same_ids(api, tmp_path: Path):
    letters = making.tokenizer()
    answer = api().get(f"{TOKENIZERS}/{letters.pk}/ranks")
    assert answer.status_code == 200
    assert answer["Content-Disposition"] == 'attachment; filename="letters.tiktoken"'
    assert (answer["Content-Type"], answer["X-Content-Type-Options"]) == (
        "application/octet-stream",
        "nosniff",
    )
    (tmp_path / "letters.tiktoken").write_bytes(answer.content)
    ours = Tokenizer.load(artifacts.local_path(letters))
    theirs = tiktoken.Encoding(
        "letters",
        pat_str=PATTERNS["digits"].regex,
        mergeable_ranks=load_tiktoken_bpe(str(tmp_path / "letters.tiktoken")),
        special_tokens={},
    )
    assert theirs.encode_ordinary(TEXT) == ours.encode(TEXT)
    made = upload(api, answer.content, "letters.tiktoken", pattern="digits").json()
    assert (made["name"], made["summary"]["format"], made["summary"]["pattern"]) == ("letters", "tiktoken ranks", "digits")  # fmt: skip
    again = Tokenizer.load(artifacts.local_path(Artifact.objects.get(pk=made["id"])))
    assert again.inner.to_str() == ours.inner.to_str()


def test_a_tokenizer_that_changes_letters_says_so_and_writes_no_ranks(api):
    content = json.loads(gpt2_style())
    content["normalizer"] = {"type": "Lowercase"}
    made = upload(api, json.dumps(content).encode()).json()
    assert made["summary"]["lossless"] is False and made["summary"]["pattern"] == "several steps"
    answer = api().get(f"{TOKENIZERS}/{made['id']}/ranks")
    assert answer.status_code == 422 and "cannot be written as ranks" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "model", "lossless"),
    [
        ("llama 2", "BPE", True),
        ("gemma", "BPE", True),
        ("unigram", "Unigram", False),
        ("wordpiece", "WordPiece", False),
    ],
)
def test_tokenizers_of_other_kinds_are_taken_and_say_whether_texts_read_back(api, kind, model, lossless):
    inner = foreign.KINDS[kind]()
    made = upload(api, inner.to_str().encode()).json()
    summary = made["summary"]
    assert (summary["model"], summary["lossless"], summary["writes_ranks"]) == (model, lossless, False)
    url = f"{TOKENIZERS}/{made['id']}"
    told = api().post(f"{url}/encode", {"text": "the tree"}).json()
    assert [token["id"] for token in told["tokens"]] == inner.encode("the tree", add_special_tokens=False).ids
    assert api().get(f"{url}/ranks").json()["detail"].endswith("take its tokenizer.json")
    chat = {"messages": [{"role": "user", "content": "the tree"}]}
    assert api().post(f"{url}/encode", chat).status_code == 200


def test_files_of_the_server_are_taken_from_allowed_folders_only(api, tmp_home):
    folder = tmp_home / "uploads" / "gpt-small"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(gpt2_style())
    for path in (folder, folder / "tokenizer.json"):
        made = api().post(TOKENIZERS, {"path": str(path)})
        assert (made.status_code, made.json()["name"]) == (201, "gpt-small")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/etc/hostname")
    for path in (folder, folder / "tokenizer.json", "/etc/hostname", f"{folder}/../../../etc/hostname"):
        answer = api().post(TOKENIZERS, {"path": str(path)})
        assert answer.status_code == 422 and "no such file below" in answer.json()["errors"][0]["message"]


def test_an_address_is_fetched_by_the_rules_for_addresses(api, monkeypatch):
    assert api().post(TOKENIZERS, {"url": "http://127.0.0.1/tokenizer.json"}).status_code == 422
    monkeypatch.setattr(fetch, "download", lambda url, target, most: target.write_text(gpt2_style()))
    made = api().post(TOKENIZERS, {"url": "https://hub.example/models/small.json"}).json()
    assert made["name"] == "small" and made["origin"]["config"]["from"] == "url"


@pytest.mark.parametrize(
    ("content", "fields", "field", "told"),
    [
        (b"", {}, "file", "empty"),
        (b"{}", {}, "file", "damaged"),
        (b"{\xff", {}, "file", "damaged"),
        (b'{"model": {"type": "Own", "vocab": {"a": 0}}}', {}, "file", "damaged"),
        (b"<img onerror=alert(1)>", {}, "file", "line 1"),
        (b"YQ== 0", {"pattern": "own", "own_pattern": "("}, "own_pattern", "no regular expression"),
        (b"YQ== 0", {"pattern": "gpt9"}, "pattern", "should be"),
        (b"YQ== 0", {"colour": "red"}, "colour", "not permitted"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_and_leaves_nothing(
    api, tmp_home, content, fields, field, told
):
    answer = upload(api, content, **fields)
    assert answer.status_code == 422
    problem = answer.json()["errors"][0]
    assert problem["field"] == field and re.search(told, problem["message"])
    assert not Artifact.objects.exists() and not list((tmp_home / "artifacts").glob("*/*"))


def test_a_pattern_that_gives_up_is_told_and_does_not_break_the_server(api):
    content = json.loads(Tokenizer.train(["aaab"], 280).inner.to_str())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"(?:a|aa)+\W\W|\w+"}
    made = upload(api, json.dumps(content).encode()).json()
    answer = api().post(f"{TOKENIZERS}/{made['id']}/encode", {"text": "a" * 3000})
    assert answer.status_code == 422 and "gives up" in answer.json()["detail"]


def test_an_imported_tokenizer_is_removed_and_one_of_a_run_is_not(api):
    made = upload(api, gpt2_style().encode()).json()
    assert api().delete(f"{TOKENIZERS}/{made['id']}").status_code == 204
    assert api().get(f"{TOKENIZERS}/{made['id']}").status_code == 404
    learned = making.tokenizer()
    Artifact.objects.update(run=making.run("succeeded"))
    assert api().delete(f"{TOKENIZERS}/{learned.pk}").status_code == 409


def test_strangers_labelers_and_unknown_ids(api):
    letters = making.tokenizer()
    for method, address in (("post", TOKENIZERS), ("get", f"{TOKENIZERS}/{letters.pk}/ranks"), ("delete", f"{TOKENIZERS}/{letters.pk}")):  # fmt: skip
        assert getattr(api(None), method)(address).status_code == 401
        assert getattr(api("labeler"), method)(address).status_code == 403
    assert api().get(f"{TOKENIZERS}/nothing/ranks").status_code == 404
    assert api().delete(f"{TOKENIZERS}/nothing").status_code == 404
    assert Artifact.objects.count() == 1
