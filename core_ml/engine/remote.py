"""A client of OpenAI's protocol: time limits, a few retries before the first word, and bounds on what comes back."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from core_ml.engine.errors import ApiError
from core_ml.engine.network import pinned
from core_ml.errors import UserError

log = logging.getLogger(__name__)
CONNECT_SECONDS = 5.0
N_TRIES = 3
LONGEST_PAUSE = 8.0
PASSING = (429, 502, 503, 504)
"""What a server answers when the same request may do a moment later."""
MAX_EVENT_BYTES = 8 << 20
MAX_ERROR_BYTES = 1 << 16


@dataclass(frozen=True)
class Endpoint:
    """Where a server is. `repr` and errors leave out the key."""

    name: str
    """What errors call it."""
    base: str
    """Its address up to and with /v1."""
    key: str = ""
    local: bool = False
    """Whether it may be one of this machine or its network."""
    timeout: float = 120.0
    """Seconds without a word after which it is given up."""
    socket: str | None = None
    """A Unix socket that it listens on."""

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, {self.base!r})"


class Remote:
    """One server. Connections are kept; `close` gives them back."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        transport = httpx.AsyncHTTPTransport(uds=endpoint.socket) if endpoint.socket else None
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(endpoint.timeout, connect=CONNECT_SECONDS, pool=None),
            trust_env=False,  # a proxy would look the host up itself
            follow_redirects=False,
            headers={"User-Agent": "move37", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> Any:
        return await self._whole(await self._send("GET", path, None))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._whole(await self._send("POST", path, body))

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events of an answer; one that is not streamed is one event. Raises ApiError."""
        answer = await self._send("POST", path, body)
        try:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                yield self._parsed(await self._read(answer, MAX_EVENT_BYTES))
                return
            async for line in self._lines(answer):
                if line == b"[DONE]":
                    return
                event = self._parsed(line)
                if event.get("error"):
                    raise self._told(502, event["error"])
                yield event
        except httpx.TimeoutException:
            raise self._silent() from None
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        finally:
            await answer.aclose()

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """The head of an answer that is well. Tried again while nothing has been said yet."""
        for attempt in range(1, N_TRIES + 1):
            last = attempt == N_TRIES
            request = await self._request(method, path, body)
            try:
                answer = await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if last:
                    raise self._lost(error) from None
                await asyncio.sleep(0.2 * 2**attempt)
                continue
            except httpx.TimeoutException:
                raise self._silent() from None
            except httpx.HTTPError as error:
                raise self._lost(error) from None
            if answer.status_code == 200:
                return answer
            told = await self._refusal(answer)
            if last or answer.status_code not in PASSING:
                raise told
            await asyncio.sleep(_pause(answer, attempt))
        raise AssertionError("the last try returns or raises")

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Request:
        url, headers, extensions = f"{self.endpoint.base}{path}", {}, {}
        if self.endpoint.socket is None:
            try:
                url, host, name = await asyncio.to_thread(pinned, url, self.endpoint.local)
            except UserError as error:
                raise ApiError(502, f"{self.endpoint.name}: {error.message}", code="address") from None
            headers, extensions = {"Host": host}, {"sni_hostname": name}
        if self.endpoint.key:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        return self._client.build_request(method, url, json=body, headers=headers, extensions=extensions)

    async def _refusal(self, answer: httpx.Response) -> ApiError:
        try:
            data = await self._read(answer, MAX_ERROR_BYTES, cut=True)
        except httpx.HTTPError:
            data = b""
        finally:
            await answer.aclose()
        if answer.is_redirect:
            return ApiError(
                502, f"{self.endpoint.name} redirects elsewhere: give the address that it leads to"
            )
        try:
            told = json.loads(data)
            told = told.get("error", told) if isinstance(told, dict) else told
        except ValueError:
            told = data.decode("utf-8", "replace").strip()
        return self._told(answer.status_code, told)

    def _told(self, status: int, told: Any) -> ApiError:
        """What a server said, in our words; its key never stands in them."""
        message = told.get("message") if isinstance(told, dict) else told
        param, code = (told.get("param"), told.get("code")) if isinstance(told, dict) else (None, None)
        text = str(message or "")[:500]
        if self.endpoint.key:
            text = text.replace(self.endpoint.key, "…")
        name = self.endpoint.name
        if status in (401, 403):
            return ApiError(
                502, f"{name} does not take the key that the lab has for it ({status})", code="key"
            )
        mine = status if status in (400, 413, 422, 429) else 502
        mine = 400 if mine == 422 else mine
        return ApiError(
            mine,
            f"{name} answered {status}: {text}" if text else f"{name} answered {status}",
            param=param if isinstance(param, str) else None,
            code=str(code) if isinstance(code, str) else None,
        )

    def _silent(self) -> ApiError:
        seconds = f"{self.endpoint.timeout:g}"
        return ApiError(504, f"{self.endpoint.name} said nothing for {seconds} seconds", code="timeout")

    def _lost(self, error: Exception) -> ApiError:
        why = str(error)[:200] or type(error).__name__
        return ApiError(502, f"{self.endpoint.name} does not answer: {why}", code="unreachable")

    async def _whole(self, answer: httpx.Response) -> Any:
        try:
            return self._parsed(await self._read(answer, MAX_EVENT_BYTES))
        except httpx.TimeoutException:
            raise self._silent() from None
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        finally:
            await answer.aclose()

    async def _read(self, answer: httpx.Response, most: int, cut: bool = False) -> bytes:
        data = bytearray()
        async for part in answer.aiter_raw():
            data += part
            if len(data) > most:
                if cut:
                    break
                raise ApiError(502, f"{self.endpoint.name} answers with more than {most >> 20} MB")
        return bytes(data)

    async def _lines(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        """What stands behind each `data:`. Comments, which keep a connection awake, are passed over."""
        rest = b""
        async for part in answer.aiter_raw():
            *lines, rest = (rest + part).split(b"\n")
            if len(rest) > MAX_EVENT_BYTES:
                raise ApiError(
                    502, f"{self.endpoint.name} streams an event of more than {MAX_EVENT_BYTES >> 20} MB"
                )
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and all(isinstance(item, dict) for item in found):
            return {"data": found}
        if not isinstance(found, dict):
            raise ApiError(502, f"{self.endpoint.name} does not speak OpenAI's protocol")
        return found


def _pause(answer: httpx.Response, attempt: int) -> float:
    asked = answer.headers.get("retry-after", "")
    return min(float(asked) if asked.isdecimal() else 0.25 * 2**attempt, LONGEST_PAUSE)
