"""What counting alone achieves on the same tokens: unigram and bigram models, in bits per byte."""

from collections.abc import Iterable, Iterator

import numpy as np

from core_ml.training.loss import bits_per_byte

CHUNK = 1 << 22
MAX_TOKENS = 1 << 26  # counts have long settled by then


class NGrams:
    """Counts of tokens and of pairs of tokens, added chunk by chunk."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.unigrams = np.zeros(vocab_size, dtype=np.int64)
        self.pairs = np.zeros(0, dtype=np.int64)  # sorted keys: first * vocab_size + second
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, ids: np.ndarray) -> None:
        ids = ids.astype(np.int64)
        self.unigrams += np.bincount(ids, minlength=self.vocab_size)
        pairs, counts = np.unique(ids[:-1] * self.vocab_size + ids[1:], return_counts=True)
        merged, places = np.unique(np.concatenate((self.pairs, pairs)), return_inverse=True)
        both = np.concatenate((self.counts, counts))
        self.pairs, self.counts = merged, np.bincount(places, weights=both).astype(np.int64)

    def nll(self, windows: np.ndarray) -> tuple[float, float]:
        """Total nats of the targets of (n, T + 1) windows under the unigram and the bigram model.

        Unigram: add-one. Bigram: Witten-Bell, which backs off to the unigram by the share of new followers.
        Source: Witten and Bell 1991, IEEE Transactions on Information Theory 37(4), method C.
        """
        unigram = (self.unigrams + 1) / (self.unigrams.sum() + self.vocab_size)
        first = self.pairs // self.vocab_size
        n_after = np.bincount(first, weights=self.counts, minlength=self.vocab_size)
        n_kinds = np.bincount(first, minlength=self.vocab_size)
        a, b = windows[:, :-1].ravel(), windows[:, 1:].ravel()
        keys = a * self.vocab_size + b
        places = np.minimum(np.searchsorted(self.pairs, keys), max(0, len(self.pairs) - 1))
        seen = (
            np.where(self.pairs[places] == keys, self.counts[places], 0)
            if len(self.pairs)
            else np.zeros_like(a)
        )
        mass = n_after[a] + n_kinds[a]
        known = mass > 0
        bigram = np.where(known, (seen + n_kinds[a] * unigram[b]) / np.where(known, mass, 1), unigram[b])
        return float(-np.log(unigram[b]).sum()), float(-np.log(bigram).sum())


def count(shards: Iterable[np.ndarray], vocab_size: int) -> Iterator[NGrams]:
    """Count the training tokens, at most `MAX_TOKENS`; yields the counts so far after each chunk."""
    ngrams, left = NGrams(vocab_size), MAX_TOKENS
    for shard in shards:
        for begin in range(0, min(len(shard), left), CHUNK):
            # One token of overlap, so that the pair across the border counts; it is not counted alone twice.
            ids = np.asarray(shard[begin : begin + CHUNK + 1])
            ngrams.add(ids)
            if begin + CHUNK + 1 <= len(shard):
                ngrams.unigrams[ids[-1]] -= 1
            yield ngrams
        left -= len(shard)
        if left <= 0:
            return


def baselines(ngrams: NGrams, windows: np.ndarray, n_bytes: int) -> dict[str, float]:
    """Bits per byte of both models over the same targets as the network's."""
    unigram, bigram = ngrams.nll(windows)
    return {
        "unigram_bits_per_byte": bits_per_byte(unigram, n_bytes),
        "bigram_bits_per_byte": bits_per_byte(bigram, n_bytes),
    }
