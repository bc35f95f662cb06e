"""Another server as a backend: retries, time limits, bounds and hanging up, over real connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from core_ml.engine.address_backend import AddressBackend
from core_ml.engine.backend import Job
from core_ml.engine.errors import ApiError
from core_ml.engine.remote import Endpoint, Remote

Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


class Server:
    """Counts what is asked, and notices who hangs up."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.n_asked, self.url = answer, 0, ""
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        n_bytes = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)  # fmt: skip
        await reader.readexactly(n_bytes)
        self.n_asked += 1
        try:
            await self.answer(writer, self.n_asked)
            await writer.drain()
        except (ConnectionError, OSError):
            self.hung_up.set()
        finally:
            writer.close()


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[Server]:
    it = Server(answer)
    listening = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield it
    finally:
        listening.close()


def whole(status: str, body: object, *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"content-length: {len(data)}", "content-type: application/json", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


async def text_of(backend: AddressBackend, **fields: object) -> str:
    generation = await backend.start(Job(prompts=["a"], **fields))  # type: ignore[arg-type]
    return "".join([piece.text async for piece in generation])


def backend(it: Server, **fields: object) -> AddressBackend:
    return AddressBackend(Endpoint("theirs", it.url, "sk-secret", local=True, **fields), "m")  # type: ignore[arg-type]


async def test_a_server_that_is_busy_is_asked_again_before_it_has_said_anything() -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        busy = whole("503 Busy", {"error": {"message": "later"}}, "retry-after: 0")
        writer.write(busy if n < 3 else STREAM + event("hi") + event("", "stop") + b"data: [DONE]\n\n")

    async with server(answer) as it:
        assert await text_of(backend(it)) == "hi"
        assert it.n_asked == 3


async def test_what_was_refused_is_not_asked_again_and_the_key_is_not_told() -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        told = {"error": {"message": "no such thing as sk-secret", "param": "top_k"}}
        writer.write(whole("400 Bad Request", told))

    async with server(answer) as it:
        with pytest.raises(ApiError) as caught:
            await text_of(backend(it))
        assert (caught.value.status, caught.value.param, it.n_asked) == (400, "top_k", 1)
        assert "sk-secret" not in caught.value.message and "no such thing as …" in caught.value.message


async def test_a_server_that_falls_silent_is_given_up() -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        writer.write(STREAM + event("hi"))
        await writer.drain()
        await asyncio.sleep(5)

    async with server(answer) as it:
        with pytest.raises(ApiError) as caught:
            await text_of(backend(it, timeout=0.2))
        assert caught.value.status == 504 and "said nothing for 0.2 seconds" in caught.value.message


async def test_a_server_is_hung_up_on_when_nobody_waits_any_more() -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        writer.write(STREAM)
        while True:  # it would stream for ever
            writer.write(event("more "))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with server(answer) as it:
        one = backend(it)
        generation = await one.start(Job(prompts=["a"]))
        assert one.is_busy
        async for piece in generation:
            assert piece.text.startswith("more")
            break
        generation.close()
        await asyncio.wait_for(it.hung_up.wait(), 10)
        assert not one.is_busy


async def test_redirects_are_not_followed() -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        writer.write(whole("302 Found", b"", "location: http://169.254.169.254/"))

    async with server(answer) as it:
        with pytest.raises(ApiError, match="redirects elsewhere"):
            await text_of(backend(it))
        assert it.n_asked == 1


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"choices": [3]}', b'{"choices": [{"text": 5}]}'])
async def test_an_answer_of_another_protocol_is_told(body: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        writer.write(whole("200 OK", body))

    async with server(answer) as it:
        with pytest.raises(ApiError, match="does not speak OpenAI's protocol"):
            await text_of(backend(it))


async def test_an_event_without_end_is_not_kept() -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        writer.write(STREAM + b"data: ")
        for _ in range(12):
            writer.write(b"x" * (1 << 20))
            await writer.drain()

    async with server(answer) as it:
        with pytest.raises(ApiError, match="more than 8 MB"):
            await text_of(backend(it))


async def test_choices_are_asked_one_by_one_with_seeds_of_their_own_and_a_prompt_counts_once() -> None:
    async def answer(writer: asyncio.StreamWriter, n: int) -> None:
        usage = {"prompt_tokens": 7, "completion_tokens": 2}
        last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        writer.write(STREAM + event(f"{n}") + event("", "stop") + last + b"data: [DONE]\n\n")

    async with server(answer) as it:
        generation = await backend(it).start(Job(prompts=["a"], n=3))
        pieces = [piece async for piece in generation]
        assert {piece.choice for piece in pieces} == {0, 1, 2} and it.n_asked == 3
        assert (generation.n_prompt_tokens, generation.n_completion_tokens) == (7, 6)


async def test_an_endpoint_does_not_spell_its_key() -> None:
    assert "sk-secret" not in repr(Endpoint("a", "http://b/v1", "sk-secret"))
    remote = Remote(Endpoint("a", "http://127.0.0.1:9/v1", "sk-secret"))
    with pytest.raises(ApiError, match="not a public address"):
        await remote.get("/models")
