"""Asking a model from within a run: at the lab's engine, or at any OpenAI-compatible server.

Where the server is and the key that it wants come from the environment (ENGINE_URL, ENGINE_KEY), so that neither
stands in a config, a manifest or a log. In a lab that is the engine, whose models may be checkpoints, files or other
servers' models: whoever asks need not know which. An engine that is started again is waited for.
"""

import asyncio
import os
import time
from urllib.parse import urlsplit

from core_ml.engine.errors import ApiError
from core_ml.engine.remote import Endpoint, Remote
from core_ml.errors import UserError

TIMEOUT = 600.0
"""Seconds without a word: a long reply behind a full batch may take minutes."""
PATIENCE = 120.0
"""Seconds for which a server that does not answer is asked again: an engine that died is back within twenty."""
FORGOTTEN = 6.0
"""Seconds for which a model that the server does not know is asked for again: an engine that was started anew knows
other servers' models when the lab has told it, which it does every two seconds."""
PAUSE = 2.0
PASSING = (429, 502, 503, 504)
FINAL = ("key", "address")
"""Codes of refusals that waiting does not change."""


class TooLongError(Exception):
    """The prompt does not fit the model's context."""


def endpoint() -> Endpoint:
    """Where the environment says that models are. Raises UserError when it says nothing."""
    url, key = os.environ.get("ENGINE_URL", "").rstrip("/"), os.environ.get("ENGINE_KEY", "")
    if not url:
        raise UserError(
            "no server is known to ask: set ENGINE_URL to the address of an OpenAI-compatible one, and ENGINE_KEY to "
            "its key where it wants one",
            field="model",
        )
    if url.startswith("unix://"):
        path = url.removeprefix("unix://")
        return Endpoint("the engine", "http://engine/v1", key, local=True, timeout=TIMEOUT, socket=path)
    name = urlsplit(url).hostname or url
    base = url if urlsplit(url).path else f"{url}/v1"
    # Whoever started this process named the address, so it may be one of this machine.
    return Endpoint(name, base, key, local=True, timeout=TIMEOUT)


class Asker:
    """One model, asked by chat. Made inside the event loop in which it is used."""

    def __init__(
        self,
        at: Endpoint,
        model: str,
        *,
        temperature: float = 0.0,
        max_tokens: int = 16,
        seed: int | None = None,
    ) -> None:
        self.model = model
        self._remote = Remote(at)
        self._has_answered = False
        self._body = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "stream": False}
        if (
            seed is not None and temperature > 0
        ):  # not every server knows a seed, and without chance it says nothing
            self._body["seed"] = seed

    async def close(self) -> None:
        await self._remote.close()

    async def reply(self, prompt: str) -> str:
        """What the model says to a person's message.

        Raises: TooLongError; UserError when the server refuses, or does not answer for as long as patience lasts.
        """
        begun = time.monotonic()
        while True:
            try:
                return await self._reply(prompt)
            except ApiError as error:
                if _is_too_long(error):
                    raise TooLongError from None
                if time.monotonic() - begun > self._patience_with(error):
                    raise UserError(
                        f"{self.model} cannot be asked: {error.message}",
                        field="model",
                        hint="Resume the run when that is mended: what it has heard is kept.",
                    ) from None
            await asyncio.sleep(PAUSE)

    def _patience_with(self, error: ApiError) -> float:
        """Seconds for which an error may pass by itself."""
        if error.status == 404 or "answered 404" in error.message:
            return PATIENCE if self._has_answered else min(FORGOTTEN, PATIENCE)
        return PATIENCE if error.status in PASSING and error.code not in FINAL else -1.0

    async def _reply(self, prompt: str) -> str:
        body = self._body | {"messages": [{"role": "user", "content": prompt}]}
        answer = await self._remote.post("/chat/completions", body)
        try:
            text = answer["choices"][0]["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, TypeError, IndexError):
            raise UserError(
                f"{self._remote.endpoint.name} does not speak OpenAI's protocol", field="model"
            ) from None
        self._has_answered = True
        return text


def _is_too_long(error: ApiError) -> bool:
    if error.status not in (400, 413):
        return False
    return error.code == "context_length_exceeded" or "context" in error.message.lower()
