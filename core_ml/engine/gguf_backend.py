"""GGUF files by llama.cpp: our own exports, and any other that a person has on disk.

What we wrote carries its tokenizer, so prompts reach llama.cpp as the very ids that our own sampler would see.
Files of others are read by llama.cpp's tokenizer and, in chats, by their own template. One completion at a time is
one request; llama.cpp batches those that run together, keeps a cache of prefixes, and stops when we hang up.
"""

import asyncio
import hashlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core_ml.engine.address_backend import begin_remote
from core_ml.engine.backend import Job, Piece, Rival, Token
from core_ml.engine.errors import bad_request
from core_ml.engine.gathered import Gathered
from core_ml.engine.prompts import prompts_of, room, spelled, unsaid, written
from core_ml.engine.remote import Endpoint, Remote
from core_ml.engine.schemas import BEYOND
from core_ml.engine.text import offsets, said
from core_ml.engine.tools import CallReader, schema_of_call
from core_ml.errors import UserError
from core_ml.exchange import gguf_tokenizer
from core_ml.exchange.gguf_reading import Described, describe
from core_ml.tokenizer.tokenizer import Tokenizer

ABSENT = (
    "GGUF files are run by llama.cpp, which is not installed: python -m pip install 'xllamacpp>=2026', or the extra "
    "llama of this project"
)
MOST_CONTEXT = 8192
MOST_SLOTS = 8
CACHE_BYTES = 1 << 30
LOADING_SECONDS = 600
FORCED = 1e4
"""Added to the logit of a token that llama.cpp must say, so that it tells what it thought of it."""


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None


def context_of(described: Described) -> int:
    """How many tokens are read of a file's context: a long one costs memory that is set aside at once."""
    return min(described.context, MOST_CONTEXT)


def slots_of(described: Described) -> int:
    cache = max(1, described.cache_bytes_per_token * context_of(described))
    return max(1, min(MOST_SLOTS, CACHE_BYTES // cache))


def bytes_of(described: Described) -> int:
    """Memory of the weights and of the keys and values."""
    return described.size + slots_of(described) * context_of(described) * described.cache_bytes_per_token


def n_threads(most: int) -> int:
    """Fewer than the cores that are free now: llama.cpp's threads spin, and wait for the slowest of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = cores - round(os.getloadavg()[0])
    return max(1, min(most, free - 1))


class GgufBackend:
    """One file in a process of its own. Implements `core_ml.engine.backend.Backend`."""

    takes = frozenset(BEYOND) - {"guided_regex"}

    def __init__(self, path: Path, most_threads: int = 2) -> None:
        """Load it, which may take minutes. Raises: UserError that says why it cannot be."""
        if not is_installed():
            raise UserError(ABSENT)
        self.described = describe(path)
        self.context, self.n_slots = context_of(self.described), slots_of(self.described)
        self.n_bytes = bytes_of(self.described)
        state = f"{path} {path.stat().st_mtime_ns} {self.described.size}"
        self.fingerprint = "gguf-" + hashlib.sha256(state.encode()).hexdigest()[:12]
        self.tokenizer = _tokenizer(self.described)
        self._n_running = 0
        self._folder = Path(tempfile.mkdtemp(prefix="llama-"))  # 0700
        socket = self._folder / "s.sock"
        self._process = _start(path, socket, self.context, self.n_slots, n_threads(most_threads))
        try:
            _wait(self._process, path)
        except BaseException:
            self.close()
            raise
        endpoint = Endpoint(path.name, "http://llama", timeout=LOADING_SECONDS, socket=str(socket))
        self.remote, self._v1 = (
            Remote(endpoint),
            Remote(Endpoint(path.name, "http://llama/v1", timeout=LOADING_SECONDS, socket=str(socket))),
        )

    @property
    def is_busy(self) -> bool:
        return self._n_running > 0

    @property
    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        self._process.kill()  # it holds nothing that could be lost
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def start(self, job: Job) -> Gathered:
        self._n_running += 1  # before anything is awaited: from here on it is not let go
        is_over = False

        def ended() -> None:
            nonlocal is_over
            self._n_running -= not is_over
            is_over = True

        try:
            if self.tokenizer is None and job.messages is not None:
                return await begin_remote(self._v1, "", job, ended, {"cache_prompt": True})
            return await self._begin(job, ended)
        except BaseException:
            ended()
            raise

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        if (
            self.tokenizer is None
        ):  # of a file of others tokens spell themselves, but for halves of characters
            return "\ufffd", None
        return spelled(self.tokenizer, id)

    async def _begin(self, job: Job, ended: Any) -> Gathered:
        calls, begun, call = None, None, schema_of_call(job)
        if self.tokenizer is not None:
            prompts, n_hidden, begun = await asyncio.to_thread(
                prompts_of,
                # A call that must be made is begun by its mark alone: the schema says the rest.
                job if call is None else replace(job, tool_choice="required"),
                self.tokenizer,
                self.described.n_vocab,
            )
            if job.tools and job.tool_choice != "none":
                calls = CallReader(self.tokenizer, begun)
        else:
            prompts, n_hidden = await self._tokenized(job), [0] * len(job.prompts)
        rooms = [room(len(prompt), job, self.context) for prompt in prompts]
        seed = secrets.randbits(31) if job.seed is None else job.seed
        generation: Gathered

        def source(place: int, choice: int) -> Any:
            async def pieces() -> AsyncIterator[Piece]:
                echoed = 0
                if job.echo:
                    piece = await self._echo(prompts[place], n_hidden[place], job, choice)
                    echoed = len(piece.text)
                    yield piece
                if rooms[place] == 0:
                    yield Piece(choice, "", finish_reason="length")
                    return
                body = ({} if call is None else {"json_schema": call}) | self._body(
                    job, prompts[place], rooms[place], random.Random(f"{seed}:{choice}")
                )
                n_unsaid = 0 if self.tokenizer is None else unsaid(job, self.tokenizer)
                reader = _Reader(choice, job, echoed, self.ends, n_unsaid)
                async for event in self.remote.stream("/completion", body):
                    yield (piece := reader.take(event))
                    if piece.finish_reason is not None:
                        break
                generation.n_completion_tokens += reader.n_tokens

            return pieces

        sources = [source(place, place * job.n + k) for place in range(len(prompts)) for k in range(job.n)]
        n_prompt = sum(map(len, prompts))
        generation = Gathered(sources, 2 * self.n_slots, ended, calls, n_prompt)
        return await generation.begin()

    def _body(self, job: Job, prompt: list[int], n_predict: int, draws: random.Random) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": prompt,
            "n_predict": n_predict,
            "temperature": job.temperature,
            "top_k": job.top_k or 0,
            "top_p": job.top_p,
            "min_p": job.min_p,
            "repeat_penalty": job.repetition_penalty,
            "presence_penalty": job.presence_penalty,
            "frequency_penalty": job.frequency_penalty,
            "repeat_last_n": self.context,
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            "logit_bias": [[id, bias] for id, bias in job.logit_bias],
            "seed": draws.getrandbits(31),
            "stop": list(job.stop),
            "n_probs": 0 if job.top_logprobs is None else max(1, job.top_logprobs),
            "return_tokens": True,
            # Whole answers name every token; streamed ones leave out those that end in the middle of a character.
            "stream": job.streams and not job.echo,
        }
        if job.response_format is not None:
            wanted = job.response_format.get("json_schema", {}).get("schema", {"type": "object"})
            body["json_schema"] = wanted
        return body

    async def _tokenized(self, job: Job) -> list[list[int]]:
        """Prompts by llama.cpp's own tokenizer, which begins them as the file says."""
        found = []
        for prompt in job.prompts:
            if isinstance(prompt, str):
                asked = {"content": prompt, "add_special": True, "parse_special": False}
                prompt = (await self.remote.post("/tokenize", asked))["tokens"]
                if not prompt:
                    raise bad_request("prompt is empty: this model needs at least one token", "prompt")
            elif max(prompt) >= self.described.n_vocab:
                most = self.described.n_vocab - 1
                raise bad_request(
                    f"prompt has the token id {max(prompt)}, and this model's go up to {most}", "prompt"
                )
            found.append(prompt)
        return found

    async def _echo(self, prompt: list[int], n_hidden: int, job: Job, choice: int) -> Piece:
        """The prompt's text, and what llama.cpp thought of each of its tokens where that is asked for."""
        told = await self.remote.post("/detokenize", {"tokens": prompt[n_hidden:]})
        text = told["content"] if self.tokenizer is None else self.tokenizer.decode(prompt)
        spelt = [await self._data(id) for id in prompt]
        starts = offsets(spelt, 0 if self.tokenizer is None else self.tokenizer.dropped[0])
        tokens: list[Token] = []
        for place in range(n_hidden, len(prompt)):
            id, data, at = prompt[place], spelt[place], starts[place]
            token = Token(id, None, (), at, written(data), data)
            if job.top_logprobs is not None and place:
                token = await self._thought(prompt[:place], token, job.top_logprobs)
            tokens.append(token)
        return Piece(choice, text, tokens)

    async def _data(self, id: int) -> bytes:
        if self.tokenizer is not None:
            return self.tokenizer.token_bytes[id] if id < len(self.tokenizer.token_bytes) else b""
        told = await self.remote.post("/detokenize", {"tokens": [id]})
        return str(told["content"]).encode()

    async def _thought(self, before: list[int], token: Token, n_top: int) -> Token:
        """llama.cpp tells no log-probabilities of a prompt: made to say its tokens one by one, it does."""
        body = {"prompt": before, "n_predict": 1, "temperature": 0, "samplers": ["temperature"], "n_probs": max(1, n_top),
                "logit_bias": [[token.id, FORCED]], "return_tokens": True, "stream": False, "id_slot": 0}  # fmt: skip
        # It leaves the list out where the token ends in the middle of a character.
        told = (await self.remote.post("/completion", body)).get("completion_probabilities")
        return _token(told[0], n_top, token.offset) if told else token

    @property
    def ends(self) -> frozenset[int]:
        """Tokens at which our own sampler stops and llama.cpp may not."""
        if self.tokenizer is None:
            return frozenset()
        return frozenset((self.tokenizer.bos_id, self.tokenizer.start_id, self.tokenizer.end_id))


class _Reader:
    """Reads llama.cpp's events of one completion."""

    def __init__(self, choice: int, job: Job, offset: int, ends: frozenset[int], n_unsaid: int) -> None:
        self.choice, self.job, self.ends, self._n_unsaid = choice, job, ends, n_unsaid
        self.n_tokens = 0
        self._n_chars = offset

    def take(self, event: dict[str, Any]) -> Piece:
        text, ids = str(event.get("content", "")), event.get("tokens", [])
        self.n_tokens = int(event.get("tokens_predicted", self.n_tokens))
        tokens = self._tokens(ids, event.get("completion_probabilities") or [])
        text, self._n_unsaid = said(text, self._n_unsaid)
        self._n_chars += len(text)
        reason: Any = None
        if event.get("stop"):
            reason = "length" if event.get("stop_type") == "limit" else "stop"
        if any(id in self.ends for id in ids):
            reason, tokens = "stop", [token for token in tokens if token.id not in self.ends]
        return Piece(self.choice, text, tokens, reason)

    def _tokens(self, ids: list[int], told: list[dict[str, Any]]) -> list[Token]:
        """Each token that came. llama.cpp tells no log-probability of one that ends in the middle of a character."""
        at, tokens, n_top, n_unsaid = self._n_chars, [], self.job.top_logprobs, self._n_unsaid
        entries = iter(told)
        entry = next(entries, None)
        for id in ids:
            if n_top is None or entry is None or entry["id"] != id:
                tokens.append(Token(id, None, (), at))
                continue
            tokens.append(token := _token(entry, n_top, at))
            text, n_unsaid = said((token.data or b"").decode("utf-8", "ignore"), n_unsaid)
            at += len(text)
            entry = next(entries, None)
        return tokens


def _token(entry: dict[str, Any], n_top: int, at: int) -> Token:
    own = _rival(entry)
    top = [_rival(rival) for rival in entry.get("top_logprobs", [])[:n_top]]
    return Token(own.id, own.logprob, top, at, own.text, own.data)


def _rival(entry: dict[str, Any]) -> Rival:
    data = bytes(entry["bytes"])
    text = written(data) if data else str(entry["token"])
    return Rival(int(entry["id"]), float(entry["logprob"]), text, data or None)


def _tokenizer(described: Described) -> Tokenizer | None:
    """Ours, where the file carries it and it writes conversations in our protocol."""
    if described.tokenizer_json is None:
        return None
    try:
        tokenizer = gguf_tokenizer.read(described.tokenizer_json, described.protocol)
    except UserError:
        return None
    return tokenizer if tokenizer.vocab_size <= described.n_vocab else None


def _start(path: Path, socket: Path, context: int, slots: int, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "core_ml.engine.llama", "--model", str(path), "--socket", str(socket)]
    command += ["--context", str(context), "--slots", str(slots), "--threads", str(threads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _wait(process: "subprocess.Popen[str]", path: Path) -> None:
    assert process.stdout is not None
    # The engine's own loading is bounded by nothing else: this call stands in a thread.
    line = process.stdout.readline()
    if line.strip() != "ready":
        code = process.wait()
        why = (
            "it ended llama.cpp"
            if code < 0
            else "the file is damaged, or of a kind that this release does not know"
        )
        raise UserError(f"llama.cpp cannot load {path.name}: {why}")
