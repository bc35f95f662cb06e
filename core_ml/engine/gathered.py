"""A generation whose choices come from one request each, at another process or another machine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from core_ml.engine.backend import Piece
from core_ml.engine.tools import CallReader

Source = Callable[[], AsyncIterator[Piece]]


class Gathered:
    """Runs the sources of all choices beside each other and gives out their pieces as they come.

    Args:
        n_at_once: how many requests are under way together; the others wait.
        ended: called once, when it has ended or was closed.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        n_at_once: int,
        ended: Callable[[], None],
        calls: CallReader | None = None,
        n_prompt_tokens: int = 0,
    ) -> None:
        self.n_choices = len(sources)
        self.n_prompt_tokens = n_prompt_tokens
        self.n_completion_tokens = 0
        self._calls, self._ended = calls, ended
        self._places = asyncio.Semaphore(n_at_once)
        self._queue: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._run(source)) for source in sources]
        self._first: Piece | BaseException | None = None
        self._held: list[Piece | BaseException | None] = []

    async def _run(self, source: Source) -> None:
        try:
            async with self._places:
                async for piece in source():
                    self._queue.put_nowait(piece)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._queue.put_nowait(error)
            return
        self._queue.put_nowait(None)

    async def begin(self) -> "Gathered":
        """Wait for the first word, so that a refusal comes as one and not in the middle of a stream."""
        try:
            self._first = await self._queue.get()
        except BaseException:
            self.close()
            raise
        if isinstance(self._first, BaseException):
            self.close()
            raise self._first
        return self

    async def __aiter__(self) -> AsyncIterator[Piece]:
        left, item = self.n_choices, self._first
        while True:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Piece):
                item = self._joined(item)
                yield item if self._calls is None else self._calls.take(item)
            else:
                left -= 1
                if not left:
                    return
            item = await self._next()

    async def _next(self) -> Piece | BaseException | None:
        if self._held:
            return self._held.pop()
        return await self._queue.get()

    def _joined(self, piece: Piece) -> Piece:
        """A piece with those of its choice that have come right behind it: a slow reader catches up by this."""
        while not self._held and not self._queue.empty():
            item = self._queue.get_nowait()
            if not isinstance(item, Piece) or item.choice != piece.choice:
                self._held.append(item)
                break
            text, tokens = piece.text + item.text, [*piece.tokens, *item.tokens]
            piece = Piece(piece.choice, text, tokens, item.finish_reason, piece.calls + item.calls)
        return piece

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if (ended := self._ended) is not None:
            self._ended = None  # type: ignore[assignment]
            ended()
