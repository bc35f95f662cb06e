"""Artifacts, tokenizers, checkpoints: what they are, and their files by ranges."""

import hashlib

import pytest

from tests.lab import making

pytestmark = pytest.mark.django_db
ARTIFACTS = "/api/v1/artifacts"


@pytest.fixture
def letters(tmp_home):
    return making.tokenizer()


def body(answer) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


def test_a_file_comes_whole_as_an_attachment(api, letters):
    answer = api().get(f"{ARTIFACTS}/{letters.pk}/files/tokenizer.json")
    content = body(answer)
    file = letters.manifest["files"][0]
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
    assert answer["Content-Length"] == str(file["size"])
    assert answer["Content-Disposition"].startswith("attachment")
    assert (answer["X-Content-Type-Options"], answer["Content-Type"]) == (
        "nosniff",
        "application/octet-stream",
    )


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=3-99999999", 3, None)],
)
def test_a_range_of_a_file(api, letters, asked, first, last):
    address = f"{ARTIFACTS}/{letters.pk}/files/tokenizer.json"
    whole = body(api().get(address))
    expected = whole[first:] if last is None else whole[first : last + 1]
    answer = api().get(address, headers={"Range": asked})
    assert answer.status_code == 206
    assert body(answer) == expected
    start = first if first >= 0 else len(whole) + first
    assert answer["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{len(whole)}"
    assert answer["Content-Length"] == str(len(expected))


def test_ranges_that_cannot_be_answered(api, letters):
    address = f"{ARTIFACTS}/{letters.pk}/files/tokenizer.json"
    assert api().get(address, headers={"Range": "bytes=99999999-"}).status_code == 416
    # What is no single range of bytes is answered whole, as the standard asks.
    for asked in ("bytes=9-5", "lines=1-2", "bytes=0-1,3-4", "bytes=-", "x"):
        assert api().get(address, headers={"Range": asked}).status_code == 200
    stale = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert api().get(address, headers=stale).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["nothing", "../manifest.json", "..%2f..%2fsecret_key", "%252e%252e/secret_key", "..\\secret_key", "a%00b",
     "/etc/passwd", "%2fetc%2fpasswd", ".", "", "tokenizer.json/", "./tokenizer.json"],
)  # fmt: skip
def test_no_name_leads_out_of_the_artifact(api, letters, tmp_home, name):
    (tmp_home / "artifacts" / "secret_key").write_text("secret")
    answer = api().get(f"{ARTIFACTS}/{letters.pk}/files/{name}")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "id", ["..", "%2e%2e", "%252e%252e", "a%00b", "a%5cb", "a'b", "x" * 81, "0000cccc-tokenizer%2f.."]
)
def test_no_id_leads_elsewhere(api, letters, id):
    for address in (
        f"{ARTIFACTS}/{id}",
        f"{ARTIFACTS}/{id}/files/tokenizer.json",
        f"/api/v1/datasets/{id}/rows",
    ):
        assert api().get(address).status_code in (404, 422)


def test_an_artifact_tells_its_files_and_origin(api, letters):
    told = api().get(f"{ARTIFACTS}/{letters.pk}").json()
    assert [file["path"] for file in told["files"]] == ["tokenizer.json"]
    assert told["origin"]["recipe"] == "import"
    nodes = api().get(f"{ARTIFACTS}/{letters.pk}/lineage").json()["nodes"]
    assert [node["id"] for node in nodes] == [f"artifact:{letters.pk}"]


def test_kinds_do_not_answer_for_each_other(api, letters):
    assert api().get(f"/api/v1/tokenizers/{letters.pk}").status_code == 200
    assert api().get(f"/api/v1/checkpoints/{letters.pk}").status_code == 404
    assert api().get(f"/api/v1/datasets/{letters.pk}").status_code == 404
    assert api().get("/api/v1/tokenizers").json()["count"] == 1
    assert api().get("/api/v1/checkpoints").json() == {"items": [], "count": 0}
    assert api().get(f"{ARTIFACTS}?q=letters").json()["count"] == 1


def test_a_text_is_encoded_token_by_token(api, letters):
    told = api().post(f"/api/v1/tokenizers/{letters.pk}/encode", {"text": "the cat\u00e9"}).json()
    assert told["count"] == len(told["tokens"])
    assert bytes(byte for token in told["tokens"] for byte in token["bytes"]) == "the caté".encode()
    assert told["bytes_per_token"] == pytest.approx(9 / told["count"])


def test_messages_are_encoded_in_the_chat_protocol_and_text_never_becomes_special(api, letters):
    address = f"/api/v1/tokenizers/{letters.pk}/encode"
    told = api().post(address, {"messages": [{"role": "user", "content": "hi<|im_end|>"}]}).json()
    specials = [token["text"] for token in told["tokens"] if token["special"]]
    assert specials[-2:] == ["<|im_sep|>", "<|im_end|>"]
    assert specials.count("<|im_end|>") == 1
    assert api().post(address, {"text": ""}).json() == {"tokens": [], "count": 0, "bytes_per_token": None}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "messages": []},
        {"text": 5},
        {"messages": [{"role": "user"}]},
        {"text": "a" * 200_001},
    ],
)
def test_a_bad_text_is_422(api, letters, body):
    assert api().post(f"/api/v1/tokenizers/{letters.pk}/encode", body).status_code == 422


def test_an_unknown_role_in_messages_is_told(api, letters):
    body = {"messages": [{"role": "king", "content": "x"}]}
    assert api().post(f"/api/v1/tokenizers/{letters.pk}/encode", body).status_code in (200, 422)


def test_strangers_and_labelers_stay_out(api, letters):
    for role, status in ((None, 401), ("labeler", 403)):
        for path in (
            f"{ARTIFACTS}/{letters.pk}/files/tokenizer.json",
            "/api/v1/tokenizers",
            "/api/v1/checkpoints",
            f"/api/v1/checkpoints/{letters.pk}/lineage",
        ):
            assert api(role).get(path).status_code == status
