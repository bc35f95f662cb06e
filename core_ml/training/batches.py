"""Training windows of one or several packed datasets, in an order that follows from the seed alone.

Which row comes n-th is computed from n: the dataset by the weights, the window by a permutation that is never
held. So a run goes on at any step, on any number of ranks, in no time and in no memory.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from core_ml.errors import UserError
from core_ml.training.permutation import Permutation, key, share
from core_ml.training.tokens import Tokens


class Batches:
    """Rows of every dataset in the proportion of its weight; each of its windows once in each of its epochs.

    Windows are the corpus cut at multiples of `seq_len`, from an offset that changes with the epoch.

    Args:
        weights: by dataset; by default its number of windows, so that all epochs end together.
    Raises: UserError when a dataset is shorter than a window.
    """

    def __init__(
        self,
        datasets: Sequence[Tokens],
        seq_len: int,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self._windows = [_Windows(tokens, seq_len) for tokens in datasets]
        self.totals = [windows.total for windows in self._windows]
        """Windows of each dataset."""
        whole = [Fraction(weight) for weight in weights or self.totals]
        self.shares = [weight / sum(whole) for weight in whole]
        # The share of a dataset in what those before it have left.
        self._peels = [weight / sum(whole[number:]) for number, weight in enumerate(whole)]

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """(rows, seq_len + 1) int64 token ids: one rank's rows of update `step`, the first of which is 1."""
        first = (step - 1) * self.batch_size
        return self.rows(np.arange(first + rank, first + self.batch_size, ranks))

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """(n, seq_len + 1) int64 token ids of rows by their number in the run, from 0."""
        found = np.empty((len(numbers), self._windows[0].seq_len + 1), dtype=np.int64)
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for at, number in enumerate(numbers.tolist()):
            dataset, place = self.draw(number)
            epoch, place = divmod(place, self.totals[dataset])
            wanted.setdefault((dataset, epoch), []).append((at, place))
        for (dataset, epoch), rows in wanted.items():
            at, places = np.array(rows).T
            windows = self._windows[dataset]
            shuffled = Permutation(windows.total, key(self.seed, dataset, epoch))(places)
            found[at] = list(windows.read(shuffled, share(self.seed, dataset, epoch, 1)))
        return found

    def draw(self, number: int) -> tuple[int, int]:
        """From which dataset the row comes, and how many rows before it came from there.

        Of n rows those of a share p are ⌊n·p⌋, in whole numbers: exact however far a run goes.
        """
        last = len(self._peels) - 1
        for dataset, peel in enumerate(self._peels):
            before = number * peel.numerator // peel.denominator
            if dataset == last or (number + 1) * peel.numerator // peel.denominator > before:
                return dataset, before
            number -= before
        raise AssertionError("there is a last dataset")

    def epochs(self, step: int) -> list[float]:
        """How often each dataset was read after `step` updates."""
        left, found = step * self.batch_size, []
        for peel, total in zip(self._peels, self.totals, strict=True):
            taken = left * peel.numerator // peel.denominator
            found.append(taken / total)
            left -= taken
        return found


class _Windows:
    """The windows of one dataset, by number."""

    def __init__(self, tokens: Tokens, seq_len: int) -> None:
        self.seq_len, self._shards = seq_len, tokens.shards
        # One window fewer than fit leaves room for the offset.
        fitting = [(len(shard) - 1) // seq_len for shard in tokens.shards]
        self._counts = [max(1, n - 1) if n else 0 for n in fitting]
        self._begins = np.cumsum([0, *self._counts])
        self.total = int(self._begins[-1])
        if self.total == 0:
            raise UserError(
                f"the documents make {tokens.n_tokens:,} training tokens, fewer than one window of {seq_len}: "
                "add documents or choose a smaller seq_len",
                field="seq_len",
            )

    def read(self, numbers: np.ndarray, offset: float) -> Iterator[np.ndarray]:
        """The tokens of some windows; `offset`, from 0 to 1, says where the first one of a shard begins."""
        for number in numbers.tolist():
            i = int(np.searchsorted(self._begins, number, side="right")) - 1
            shard = self._shards[i]
            slack = len(shard) - 1 - self._counts[i] * self.seq_len
            start = (number - int(self._begins[i])) * self.seq_len
            start += int(offset * min(self.seq_len, slack + 1))
            yield shard[start : start + self.seq_len + 1]
