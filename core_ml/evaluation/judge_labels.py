"""A network of the lab as a judge: its verdict is the likeliest of the letters, by their exact log-probabilities.

Nothing is sampled and nothing is parsed, so the same battle has the same verdict at every run. How much of its
probability a network gives to the letters at all says whether it has understood that it is asked for one.
"""

from collections.abc import Sequence

import torch

from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer


class LabelJudge:
    """Scores what may follow a prompt.

    Args:
        labels: the texts that are compared, such as "A", "B" and "C"; each may be several tokens.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, labels: Sequence[str]) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.labels = [tokenizer.encode(label) for label in labels]

    @torch.inference_mode()
    def logprobs(self, prompts: Sequence[str]) -> list[list[float] | None]:
        """For each prompt, a person's, the log-probability of each label as the reply; None where it does not fit.

        All rows are one batch, without autocast: the same prompts together give the same numbers.
        """
        asked = [self.tokenizer.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
        room = self.model.config.max_seq_len - max(len(label) for label in self.labels)
        fits = [len(ids) <= room for ids in asked]
        # Of one token, every label is read at the prompt's end: the rows of all of them are one.
        rows = {(n, *label[:-1]): 0 for n, fit in enumerate(fits) if fit for label in self.labels}
        if not rows:
            return [None for _ in asked]
        for place, row in enumerate(rows):
            rows[row] = place
        ids = [asked[n] + list(begun) for n, *begun in rows]
        width = max(map(len, ids))
        padded = torch.zeros(len(ids), width, dtype=torch.long)
        for place, row_ids in enumerate(ids):
            padded[place, : len(row_ids)] = torch.tensor(row_ids)
        hidden = self.model.hidden(padded.to(self.model.device))
        found: list[list[float] | None] = []
        for n, fit in enumerate(fits):
            if not fit:
                found.append(None)
                continue
            scores = []
            for label in self.labels:
                place, begin = rows[(n, *label[:-1])], len(asked[n]) - 1
                logits = self.model.logits(hidden[place, begin : begin + len(label)])
                told = logits.log_softmax(-1).gather(1, torch.tensor(label, device=logits.device)[:, None])
                scores.append(float(told.sum()))
            found.append(scores)
        return found
