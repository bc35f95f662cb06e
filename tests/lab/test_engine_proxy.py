"""The engine's protocol at the lab's own address: roles, errors, streams, and callers who leave."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from core_ml.exchange import gguf
from lab.models import Account
from lab.services import engine
from tests.engines import KEY, running, write_checkpoint
from tests.webs import serving

QUESTION = [{"role": "user", "content": "the cat"}]


class Lab(NamedTuple):
    url: str
    engine: str
    token: str
    labeler: str
    admin: str
    home: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A real web server in front of a real engine, both on their own."""
    home = tmp_path_factory.mktemp("lab")
    write_checkpoint(home / "artifacts")
    with running(home / "artifacts") as engine, serving(home, engine) as (url, manage):
        token = manage("token", "ada", "--role", "researcher")
        labeler = manage("token", "lin", "--role", "labeler")
        admin = manage("token", "root", "--role", "admin")
        yield Lab(url, engine, token, labeler, admin, home)


@pytest.fixture
def client(lab: Lab) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{lab.url}/v1", api_key=lab.token, max_retries=0) as client:
        yield client


def _state(lab: Lab) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    state: dict[str, Any] = httpx.get(f"{lab.engine}/health", headers=headers).json()
    return state


def test_a_researchers_token_reaches_every_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("aaaa1111-checkpoint").id == "tiny"
    text = client.completions.create(model="tiny", prompt="the", max_tokens=5, temperature=0).choices[0].text
    chunks = client.completions.create(model="tiny", prompt="the", max_tokens=5, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text


def test_a_chat_streams_through_with_its_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            max_tokens=6,
            stream=True,
            logprobs=True,
            stream_options={"include_usage": True},
        )  # type: ignore[call-overload]
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens <= 6


def test_the_engines_own_errors_come_through_as_they_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="nobody", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="tiny", prompt="a", temperature=9)
    assert bad.value.param == "temperature"


def test_a_caller_who_leaves_the_lab_stops_the_engine(lab: Lab) -> None:
    headers = {"Authorization": f"Bearer {lab.token}"}
    asked = {"model": "tiny", "prompt": ["the cat"] * 100, "n": 5, "max_tokens": 90, "stream": True}
    with httpx.stream("POST", f"{lab.url}/v1/completions", json=asked, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()  # a dropped iterator would close the stream
        next(lines)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{lab.url}/v1/completions", json=asked | {"stream": False}, headers=headers, timeout=0.3)
    end = time.monotonic() + 20
    while (state := _state(lab))["running"] + state["waiting"]:
        assert time.monotonic() < end, f"nobody listens, and the engine goes on: {state}"
        time.sleep(0.05)


def test_strangers_and_labelers_are_turned_away_in_the_protocols_shape(lab: Lab) -> None:
    for key, error in ((lab.labeler, openai.PermissionDeniedError), ("wrong", openai.AuthenticationError)):
        with openai.OpenAI(base_url=f"{lab.url}/v1", api_key=key, max_retries=0) as stranger:
            with pytest.raises(error) as caught:
                stranger.models.list()
            assert caught.value.type == "invalid_request_error"
    for method, path in (
        ("GET", "models"),
        ("GET", "models/tiny"),
        ("POST", "completions"),
        ("POST", "chat/completions"),
    ):
        answer = httpx.request(method, f"{lab.url}/v1/{path}", headers={"Content-Type": "application/json"})
        assert answer.status_code == 401 and answer.json()["error"]["message"]


def test_a_wrong_method_and_an_unknown_address_are_told_in_the_protocols_shape(lab: Lab) -> None:
    headers = {"Authorization": f"Bearer {lab.token}"}
    assert httpx.get(f"{lab.url}/v1/completions", headers=headers).status_code == 405
    answer = httpx.get(f"{lab.url}/v1/nothing", headers=headers)
    assert answer.status_code == 404 and answer.json()["error"]["type"] == "invalid_request_error"


def test_a_signed_in_researcher_needs_no_token_and_a_foreign_page_gets_nothing(
    browser: Callable[..., Any], settings: Any, lab: Lab
) -> None:
    settings.ENGINE_URL, settings.ENGINE_KEY = lab.engine, KEY
    page = browser("researcher")
    body = {"model": "tiny", "prompt": "the", "max_tokens": 3}
    answer = page.post("/v1/completions", body, content_type="application/json")
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] <= 3
    foreign = {"Origin": "https://evil.example"}
    refused = page.post("/v1/completions", body, content_type="application/json", headers=foreign)
    assert refused.status_code == 403
    assert page.post("/v1/completions", "{}", content_type="text/plain").status_code == 403
    assert browser("labeler").get("/v1/models").status_code == 403
    assert browser(None).get("/v1/models").status_code == 401


def test_the_engine_is_told_which_account_asks_and_nobody_passes_for_another(
    api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://engine")

    monkeypatch.setattr(engine, "_client", client)
    for name in ("ada", "lin"):
        program = api("researcher", name)
        body = {"model": "tiny", "user": "somebody"}
        assert program.post("/v1/completions", body, headers={"X-Account": "7"}).status_code == 200
    own = [str(Account.objects.get(username=name).pk) for name in ("ada", "lin")]
    assert [request.headers.get_list("x-account") for request in asked] == [[own[0]], [own[1]]]


@pytest.mark.parametrize("address", ["unix:///nowhere/engine.sock", "http://127.0.0.1:9"])
def test_an_engine_that_does_not_answer_is_told_in_one_sentence(
    api: Callable[..., Any], settings: Any, address: str
) -> None:
    settings.ENGINE_URL = address
    program = api("researcher")
    for answer in (program.get("/v1/models"), program.post("/v1/chat/completions", {"model": "tiny"})):
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["error"]["message"]


def test_an_engine_with_another_key_is_not_taken_for_a_strangers_fault(
    api: Callable[..., Any], settings: Any, lab: Lab
) -> None:
    settings.ENGINE_URL, settings.ENGINE_KEY = lab.engine, "another"
    answer = api("researcher").get("/v1/models")
    assert answer.status_code == 503 and "ENGINE_KEY" in answer.json()["error"]["message"]


def test_addresses_and_files_are_asked_like_the_labs_own_models(lab: Lab, client: openai.OpenAI) -> None:
    """The lab's list reaches the engine by itself, here with the engine as another server of itself."""
    pytest.importorskip("xllamacpp")
    file = lab.home / "uploads" / "mine.gguf"
    gguf.save(file, lab.home / "artifacts" / "aaaa1111" / "checkpoint", "f16", name="mine", role="chat")
    with httpx.Client(
        base_url=f"{lab.url}/api/v1/models", headers={"Authorization": f"Bearer {lab.admin}"}, timeout=30
    ) as admin:
        given = {"url": f"{lab.engine}/v1", "key": KEY, "model": "tiny", "name": "theirs", "local": True}
        addresses = [admin.post("/addresses", json=given)]
        files = [admin.post("/files", json={"path": str(file)})]
        assert addresses[0].status_code == files[0].status_code == 201, (addresses[0].text, files[0].text)
        try:
            listed = {model.id: (model.model_extra or {})["backend"] for model in client.models.list()}
            assert listed == {"tiny": "torch", "mine": "gguf", "theirs": "address"}
            said = {
                client.completions.create(model=model, prompt="the", max_tokens=2, temperature=0)
                .choices[0]
                .text
                for model in listed
            }
            assert len(said) == 1
        finally:
            admin.delete(f"/addresses/{addresses[0].json()['id']}")
            admin.delete(f"/files/{files[0].json()['id']}")
    assert [model.id for model in client.models.list()] == ["tiny"]
