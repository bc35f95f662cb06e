"""Every backend of the engine, spoken to by the real `openai` package: ours, llama.cpp, and another server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from core_ml import artifact
from core_ml.engine import gguf_backend
from core_ml.engine.backend import Piece, Token
from core_ml.engine.errors import ApiError
from core_ml.engine.models import Models
from core_ml.engine.network import look_up
from core_ml.engine.sources import Sources
from core_ml.engine.tools import CallReader, marks, said
from core_ml.errors import UserError
from core_ml.exchange import gguf
from core_ml.exchange.gguf_reading import describe
from core_ml.model.config import GPTConfig
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.engines import KEY, running, write_checkpoint

pytest.importorskip("xllamacpp")

CONFIG = GPTConfig(vocab_size=304, n_layer=2, n_head=4, n_kv_head=2, d_model=64, max_seq_len=512, ff_mult=2)
QUESTION: list[Any] = [{"role": "user", "content": "the cat"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Bern"]}},
            "required": ["city"],
        },
    },
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": NOTHING}}
EVERY = ("tiny", "tiny f16", "foreign", "there")
BY_LLAMA = ("tiny f16", "foreign")


def export(root: Path, run: str) -> None:
    """The checkpoint `tiny` as an export artifact."""
    source = artifact.Folder(root / "aaaa1111" / "checkpoint")
    writer = artifact.Writer(
        root / run / "export", id=f"{run}-export", kind="export", name="tiny f16", origin=artifact.Origin(recipe="export")
    )  # fmt: skip
    gguf.save(writer.path / "tiny.gguf", source.path, "f16", name="tiny", role="chat")
    writer.finish({"role": "chat"})


def foreign(source: Path, target: Path) -> None:
    """A file as others write it: the same network without our tokenizer.json, read by llama.cpp's own means."""
    data = source.read_bytes()
    mark = b"tokenizer.huggingface.json"
    assert data.count(mark) == 1
    target.write_bytes(data.replace(mark, b"tokenizer.someone_else.json"[: len(mark)]))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An engine with `tiny` by torch and by llama.cpp, a foreign file of it, and another engine's `tiny` as `there`."""
    root, other = (tmp_path_factory.mktemp(name) for name in ("here", "there"))
    write_checkpoint(root, config=CONFIG, writes_ascii=True)
    write_checkpoint(other, config=CONFIG, writes_ascii=True)
    export(root, "bbbb2222")
    file = tmp_path_factory.mktemp("files") / "theirs.gguf"
    foreign(root / "bbbb2222" / "export" / "tiny.gguf", file)
    with running(other) as there, running(root) as here:
        sources = {
            "version": "1",
            "files": [{"id": 1, "name": "foreign", "path": str(file)}],
            "addresses": [
                {"id": 1, "name": "there", "url": f"{there}/v1", "model": "tiny", "key": KEY, "local": True},
                {"id": 2, "name": "inside", "url": f"{there}/v1", "model": "tiny", "key": KEY},
                {"id": 3, "name": "wrong key", "url": f"{there}/v1", "model": "tiny", "key": "sk-secret", "local": True},
                {"id": 4, "name": "nobody", "url": "http://127.0.0.1:9/v1", "model": "x", "local": True},
            ],
        }  # fmt: skip
        answer = httpx.put(f"{here}/sources", json=sources, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text
        yield here


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_all_models_stand_in_one_list_with_what_runs_them(client: openai.OpenAI) -> None:
    listed = {model.id: model.model_extra or {} for model in client.models.list()}
    assert {id: listed[id]["backend"] for id in EVERY} == dict(
        zip(EVERY, ("torch", "gguf", "gguf", "address"), strict=True)
    )
    assert listed["tiny f16"]["artifact"] == "bbbb2222-export" and listed["tiny f16"]["role"] == "chat"
    assert KEY not in json.dumps(listed) and "sk-secret" not in json.dumps(listed)


def test_every_backend_continues_greedily_with_the_same_tokens(client: openai.OpenAI) -> None:
    texts = {}
    for model in EVERY:
        answer = client.completions.create(model=model, prompt=[0, 292, 280], max_tokens=24, temperature=0)
        texts[model] = answer.choices[0].text
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None and answer.usage.completion_tokens == 24
        assert answer.usage.prompt_tokens == 3
    assert len(set(texts.values())) == 1, texts


def test_every_backend_answers_a_chat_with_the_same_words_streamed_and_whole(client: openai.OpenAI) -> None:
    said = {}
    for model in EVERY:
        asked: Any = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 20}
        whole = client.chat.completions.create(**asked)
        stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 20
        assert whole.choices[0].finish_reason == "length"
        said[model] = text
    assert len(set(said.values())) == 1, said


def test_logprobs_agree_between_backends(client: openai.OpenAI) -> None:
    def scored(model: str) -> list[tuple[str, float, list[str]]]:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=16, logprobs=True, top_logprobs=3
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.content is not None
        return [
            (token.token, token.logprob, [top.token for top in token.top_logprobs])
            for token in logprobs.content
        ]

    ours = scored("tiny")
    assert len(ours) == 16 and all(len(top) == 3 for _, _, top in ours)
    assert scored("there") == ours
    theirs = scored("tiny f16")
    assert [(token, top) for token, _, top in theirs] == [(token, top) for token, _, top in ours]
    assert [value for _, value, _ in theirs] == pytest.approx([value for _, value, _ in ours], abs=0.05)


def test_an_echoed_prompt_is_scored_by_llama_cpp_as_by_us(client: openai.OpenAI) -> None:
    def scored(model: str) -> tuple[str, list[Any]]:
        answer = client.completions.create(
            model=model, prompt="the cat sees a tree", max_tokens=1, temperature=0, echo=True, logprobs=1
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.token_logprobs is not None and logprobs.text_offset
        return answer.choices[0].text, [logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset]

    (text, ours), (same, there), (also, llama) = (scored(model) for model in ("tiny", "there", "tiny f16"))
    assert text == same == also and text.startswith("the cat sees a tree")
    assert ours == there
    assert ours[0] == llama[0] and ours[2] == llama[2]
    assert llama[1] == pytest.approx(ours[1], abs=0.05)


@pytest.mark.parametrize("model", EVERY)
def test_several_choices_differ_and_a_seed_gives_them_again(client: openai.OpenAI, model: str) -> None:
    def texts(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, n=3, max_tokens=12, seed=seed, temperature=1.5
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    assert len(set(texts(1))) == 3
    assert texts(1) == texts(1) != texts(2)


@pytest.mark.parametrize("model", EVERY)
def test_a_stop_string_ends_a_text_before_it(client: openai.OpenAI, model: str) -> None:
    asked: Any = {"model": model, "prompt": [0, 292, 280], "max_tokens": 24, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    readable = next(char for char in text[3:] if char.isascii() and char.isprintable())
    cut = client.completions.create(**asked, stop=[readable]).choices[0]
    assert cut.text == text[: text.index(readable)] and cut.finish_reason == "stop"


@pytest.mark.parametrize("model", EVERY)
def test_what_does_not_fit_the_context_is_refused_by_its_name(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt="the cat", max_tokens=4000)
    assert "context" in str(caught.value) and "512" in str(caught.value)


def test_a_call_that_is_cut_off_is_told_as_text_and_never_lost(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=QUESTION, tools=[WEATHER], tool_choice="required", max_tokens=4, temperature=0
    )
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("model", ["tiny", "tiny f16"])
def test_a_model_makes_the_call_that_it_must_whole_and_streamed(
    client: openai.OpenAI, model: str, choice: Any
) -> None:
    """Drawn weights write no JSON by themselves: the grammar leaves them nothing else."""
    asked: Any = {"messages": QUESTION, "tools": [WEATHER, CLOCK], "tool_choice": choice, "max_tokens": 80, "temperature": 0}  # fmt: skip
    answer = client.chat.completions.create(model=model, **asked).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.tool_calls is not None
    (call,) = answer.message.tool_calls
    assert call.type == "function" and call.id.startswith("call_") and not answer.message.content
    if call.function.name == "weather" or choice != "required":
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Bern")
    chunks = list(client.chat.completions.create(model=model, **asked, stream=True))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    assert parts[0].function is not None and parts[0].function.name == call.function.name
    assert parts[0].id and parts[0].id.startswith("call_")
    assert (
        "".join(part.function.arguments or "" for part in parts if part.function) == call.function.arguments
    )
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_llama_cpp_writes_what_a_schema_allows(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Bern"]}}, "required": ["city"], "additionalProperties": False}  # fmt: skip
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    for model in BY_LLAMA:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, response_format=wanted, max_tokens=60, temperature=0
        )
        assert json.loads(answer.choices[0].message.content or "")["city"] in ("Oslo", "Bern")


def test_an_address_that_fails_says_how_and_never_tells_a_key(client: openai.OpenAI) -> None:
    for model, status, says in (
        ("inside", 502, "not a public address"),
        ("wrong key", 502, "does not take the key"),
        ("nobody", 502, "does not answer"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model=model, prompt="a", max_tokens=1)
        assert caught.value.status_code == status and says in str(caught.value)
        assert "sk-secret" not in str(caught.value)


def test_only_who_shows_the_key_may_name_models_and_another_list_is_asked_for(url: str) -> None:
    assert httpx.put(f"{url}/sources", json={"version": "2"}).status_code == 401
    key = {"Authorization": f"Bearer {KEY}"}
    bad = httpx.put(f"{url}/sources", json={"addresses": [{"key": "sk-hidden"}]}, headers=key)
    assert bad.status_code == 400 and "sk-hidden" not in bad.text
    asked = httpx.get(f"{url}/v1/models", headers=key | {"x-sources": "another"})
    assert asked.status_code == 428 and asked.json()["error"]["code"] == "sources"
    assert httpx.get(f"{url}/v1/models", headers=key | {"x-sources": "1"}).status_code == 200


def test_a_call_is_read_out_of_the_tokens_around_it() -> None:
    tokenizer = Tokenizer.train(["the cat sees the sea"], 280)
    opens, closes = marks(tokenizer) or (-1, -1)
    written = '{"name": "weather", "arguments": {"city": "Oslo"}}'
    reader = CallReader(tokenizer, None)
    first = reader.take(Piece(0, f"I ask.{written[:9]}", [Token(20, None, (), 0), Token(opens, None, (), 6), Token(21, None, (), 6)]))  # fmt: skip
    second = reader.take(Piece(0, f"{written[9:]}.", [Token(closes, None, (), 6 + len(written))], "stop"))
    assert (first.text, first.calls, first.finish_reason) == ("I ask.", (), None)
    (call,) = second.calls
    assert (call.index, call.name, json.loads(call.arguments)) == (0, "weather", {"city": "Oslo"})
    assert (second.text, second.finish_reason) == (".", "tool_calls")


def test_what_is_no_call_is_told_as_text_and_a_begun_call_is_finished() -> None:
    tokenizer = Tokenizer.train(["the cat sees the sea"], 280)
    opens, _ = marks(tokenizer) or (-1, -1)
    torn = CallReader(tokenizer, None).take(Piece(0, "the sea", [Token(opens, None, (), 4)], "length"))
    assert (torn.text, torn.calls, torn.finish_reason) == ("the sea", (), "length")
    begun = CallReader(tokenizer, '{"name": "weather", "arguments": ').take(Piece(0, '{"city": "Bern"}}', [], "stop"))  # fmt: skip
    assert begun.calls[0].name == "weather" and json.loads(begun.calls[0].arguments) == {"city": "Bern"}


def test_tools_and_their_calls_stand_in_a_conversation_between_marks() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Sun.", "tool_call_id": "a"},
    ]
    written = said(asked, [WEATHER])
    assert written[0]["role"] == "system" and '"name": "weather"' in written[0]["content"]
    (part,) = written[2]["parts"]
    assert part["type"] == "tool_call"
    assert json.loads(part["text"]) == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert written[3]["parts"] == [{"type": "tool_result", "text": "Sun."}]
    tokenizer = Tokenizer.train(["the cat sees the sea"], 280)
    assert (marks(tokenizer) or (0,))[0] in tokenizer.prompt(written)


@pytest.mark.parametrize("damage", ["cut", "magic", "claims"])
def test_a_damaged_file_is_told_in_one_sentence(damage: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, config=CONFIG)
    gguf.save(tmp_path / "a.gguf", tmp_path / "aaaa1111" / "checkpoint", "f16", name="a", role="base")
    data = bytearray((tmp_path / "a.gguf").read_bytes())
    if damage == "cut":
        del data[2000:]
    elif damage == "magic":
        data[:4] = b"PK\x03\x04"
    else:
        data[8:16] = (1 << 60).to_bytes(8, "little")
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.gguf is no whole GGUF file"):
        describe(tmp_path / "a.gguf")


def test_without_its_wheel_the_backend_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_backend, "is_installed", lambda: False)
    with pytest.raises(UserError, match="pip install 'xllamacpp"):
        gguf_backend.GgufBackend(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("http://127.0.0.1/v1", False),
        ("http://[::1]/v1", False),
        ("http://169.254.169.254/v1", False),
        ("http://10.1.2.3/v1", False),
        ("http://[::ffff:127.0.0.1]/v1", False),
        ("http://1.1.1.1/v1", True),
    ],
)
def test_only_public_addresses_are_spoken_to_unless_an_administrator_allows_it(
    address: str, public: bool
) -> None:
    if public:
        assert look_up(address)[2] == "1.1.1.1"
        return
    with pytest.raises(UserError, match="not a public address"):
        look_up(address)
    assert look_up(address, local=True)


async def test_models_are_let_go_of_within_the_memory_and_one_that_ended_is_opened_anew(
    tmp_path: Path,
) -> None:
    write_checkpoint(tmp_path, config=CONFIG)
    given = []
    for number in (1, 2):
        file = tmp_path / f"{number}.gguf"
        gguf.save(file, tmp_path / "aaaa1111" / "checkpoint", "q8_0", name="x", role="base")
        given.append({"id": number, "name": f"m{number}", "path": str(file)})
    most = int(1.5 * gguf_backend.bytes_of(describe(tmp_path / "1.gguf")))
    models = Models(tmp_path, lambda entry: gguf_backend.GgufBackend(entry.path or tmp_path), most)
    models.sources = Sources(version="1", files=given, addresses=[])
    try:
        _, first = await models.get("m1")
        assert (await models.get("m1"))[1] is first and models.loaded() == ["m1"]
        _, second = await models.get("m2")
        assert first.is_gone and not second.is_gone and models.loaded() == ["m2"]
        second._process.kill()  # type: ignore[attr-defined]
        second._process.wait()  # type: ignore[attr-defined]
        _, again = await models.get("m2")
        assert again is not second and not again.is_gone
        models.max_bytes = 1000
        with pytest.raises(ApiError, match="the engine may keep 0"):
            await models.get("m1")
    finally:
        models.close()
    assert again.is_gone
