"""How well a network predicts text that it was not trained on, and how well counting does on the same tokens."""

from collections.abc import Generator, Iterable

import numpy as np
import torch

from core_ml.events import Event, Progress
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.baselines import NGrams, baselines, count
from core_ml.training.loss import bits_per_byte, token_nll
from core_ml.workspace import Workspace

TOKENS_AT_ONCE = 8192
NOTE = "baselines.json"


class Validation:
    """The same windows of validation text, (n, T + 1), for every measurement of a run."""

    def __init__(self, windows: np.ndarray, tokenizer: Tokenizer) -> None:
        self.windows = windows
        self.vocab_size = tokenizer.vocab_size
        lengths = np.array([len(data) for data in tokenizer.token_bytes])
        self.n_bytes = int(lengths[self.windows[:, 1:]].sum())
        self.n_tokens = self.windows[:, 1:].size

    def measure(self, model: GPT) -> Generator[Event, None, float]:
        """Yields Progress; returns bits per byte."""
        nats, rows = 0.0, max(1, TOKENS_AT_ONCE // self.windows.shape[1])
        for begin in range(0, len(self.windows), rows):
            ids = torch.from_numpy(self.windows[begin : begin + rows]).to(model.device)
            with torch.no_grad():
                nats += token_nll(model, ids).cpu().double().sum().item()
            yield Progress(min(begin + rows, len(self.windows)), len(self.windows), "windows", "measuring")
        return bits_per_byte(nats, self.n_bytes)

    def baselines(
        self, train: Iterable[np.ndarray], workspace: Workspace
    ) -> Generator[Event, None, dict[str, float]]:
        """Unigram and bigram models of the training tokens, on these windows; counted once in a run's life."""
        known = workspace.read_json(NOTE)
        if known is None:
            ngrams = NGrams(self.vocab_size)
            for ngrams in count(train, self.vocab_size):
                yield Progress(int(ngrams.unigrams.sum()), None, "tokens", "counting pairs")
            known = {
                name: round(value, 4) for name, value in baselines(ngrams, self.windows, self.n_bytes).items()
            }
            workspace.write_json(NOTE, known)
        return known
