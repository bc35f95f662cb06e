"""The reward model: one or several chat models with a value head, each of which reads a whole answer and says one number.

It reads what a person reads, the text: an answer is encoded anew and closed by `<|im_end|>`, whether or not
the policy ended it, so that training on rankings and scoring of rollouts see the same thing. On disk it is a
checkpoint, further members' weights beside it, and `reward.json` with the scale and what counts beside the text.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.feedback import shared
from core_ml.feedback.batches import Part, Row, as_prompt, in_parts
from core_ml.feedback.pairs import Group, flat
from core_ml.feedback.surface import Surface
from core_ml.model import checkpoint
from core_ml.model.device import autocast, tokens_at_once
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer

FILE = "reward.json"
MAX_MEMBERS = 16


@dataclass(slots=True)
class RewardModel:
    """Scores answers. A score of 0 is the mean of the answers it was trained on, and 1 their spread.

    `others` are the further members of an ensemble, which are of the same shape as `model`; `shifts` says by how much
    the mean of each member, on the answers it was trained on, differs from that of all.
    """

    model: GPT
    tokenizer: Tokenizer
    mean: float = 0.0
    std: float = 1.0
    others: list[GPT] = field(default_factory=list)
    shifts: list[float] = field(default_factory=list)
    surface: Surface | None = None

    @classmethod
    def load(cls, folder: artifact.Folder) -> "RewardModel":
        """Raises: UserError for a checkpoint that is no reward model, or is damaged."""
        model, tokenizer = checkpoint.load(folder.path)
        name, summary = folder.manifest.name, folder.manifest.summary
        if model.value_head is None:
            raise UserError(
                f"{name} has no value head: choose a checkpoint that `reward` made", field="reward"
            )
        if all(
            file.path != FILE for file in folder.manifest.files
        ):  # one that was made before there were members
            return cls(
                model, tokenizer, summary.get("reward_mean", 0.0), summary.get("reward_std", 1.0) or 1.0
            )
        try:
            fields = json.loads(folder.file(FILE).read_text(encoding="utf-8"))
            shifts = [float(shift) for shift in fields["shifts"]]
            mean, std = float(fields["mean"]), float(fields["std"])
            if (
                not 1 <= len(shifts) <= MAX_MEMBERS
                or not all(map(math.isfinite, [mean, std, *shifts]))
                or std <= 0
            ):
                raise ValueError("its scale is no scale")
            surface = Surface.from_dict(fields["surface"]) if fields["surface"] else None
            others = [_member(model, folder.file(_weights(n))) for n in range(2, len(shifts) + 1)]
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{name}/{FILE} is damaged: {error}", field="reward") from None
        return cls(model, tokenizer, mean, std, others, shifts, surface)

    def save(self, path: Path) -> None:
        """Write the checkpoint, the other members' weights and the scale into a folder."""
        checkpoint.save(self.model, self.tokenizer, path)
        for number, other in enumerate(self.others, 2):
            tensors = {name: t.detach().float().cpu().contiguous() for name, t in other.state_dict().items()}
            artifact.write_atomically(path / _weights(number), to_bytes(tensors))
        fields: dict[str, Any] = {
            "mean": self.mean,
            "std": self.std,
            "shifts": self.shifts or [0.0],
            "surface": self.surface.as_dict() if self.surface else None,
        }
        artifact.write_atomically(path / FILE, json.dumps(fields, indent=1))

    @property
    def members(self) -> list[GPT]:
        return [self.model, *self.others]

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """One score for each answer, the mean of the members; equal answers to equal prompts are read once."""
        return [sum(values) / len(values) for values in zip(*self.scores(prompts, completions), strict=True)]

    def score_groups(self, groups: Sequence[Group]) -> list[list[float]]:
        """By group, one score for each completion."""
        values = iter(self.score(*flat(groups)))
        return [[next(values) for _ in group.completions] for group in groups]

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> list[list[float]]:
        """By member, one score for each answer, all on one scale: their spread says how unsure the ensemble is."""
        pairs = list(zip(prompts, completions, strict=True))
        distinct = list(dict.fromkeys(pairs))
        place = {pair: i for i, pair in enumerate(distinct)}
        beside = [0.0] * len(distinct)
        if self.surface and distinct:
            beside = self.surface.scores([p for p, _ in distinct], [c for _, c in distinct])
        rows = [encode(self.tokenizer, *pair, self.model.config.max_seq_len) for pair in distinct]
        found = []
        for member, shift in zip(self.members, self.shifts or [0.0] * len(self.members), strict=True):
            with torch.no_grad():
                read = read_rewards(member, rows).tolist() if rows else []
            values = [
                (value + own - shift - self.mean) / self.std for value, own in zip(read, beside, strict=True)
            ]
            found.append([values[place[pair]] for pair in pairs])
        return found

    def spread(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The members' standard deviation for each answer; 0 for a single model."""
        by_answer = zip(*self.scores(prompts, completions), strict=True)
        return [torch.tensor(values).std(correction=0).item() for values in by_answer]

    def rescale(self, prompts: Sequence[str], completions: Sequence[str]) -> None:
        """Set the scale such that these answers, which are those trained on, have mean 0 and spread 1."""
        self.mean, self.std, self.shifts = 0.0, 1.0, [0.0] * len(self.members)
        values = torch.tensor(self.scores(prompts, completions), dtype=torch.float64)  # (members, answers)
        self.mean = values.mean().item()
        self.shifts = (values.mean(1) - self.mean).tolist()
        # All answers alike have no spread, and are to score 0.
        self.std = values.mean(0).std(correction=0).item() or 1.0


def _weights(number: int) -> str:
    return checkpoint.WEIGHTS if number == 1 else f"member-{number}.safetensors"


def _member(like: GPT, file: Path) -> GPT:
    """Raises: RuntimeError when tensors are missing or of another shape, ValueError when they are no numbers."""
    weights = load_file(file)
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise ValueError(f"{file.name} holds numbers that are not finite")
    member = GPT(like.config)
    member.load_state_dict(weights)
    return member.to(like.device).eval()


def encode(tokenizer: Tokenizer, prompt: str, completion: str, max_len: int) -> Row:
    """The tokens of a prompt and of its answer as read by a reward model; what does not fit goes from the front."""
    answer = [*tokenizer.encode(completion), tokenizer.end_id][-max_len:]
    room = max_len - len(answer)
    return (as_prompt(tokenizer, prompt)[-room:] if room else []), answer


def read_rewards(model: GPT, rows: Sequence[Row], recompute: bool = False) -> Tensor:
    """(B,) float32: the value of each row's last token. What rows share of their beginning is read once.

    Args:
        recompute: keep nothing of a part but its tokens, and read it again in the backward pass.
    """

    def read(part: Part) -> Tensor:
        with autocast(model.device):
            return model.value(shared.hidden(model, part.laid_out(model.device)))

    values: list[Tensor] = []
    numbers: list[int] = []
    for part in in_parts(rows, tokens_at_once(model.device), model.config.n_head):
        again = recompute and torch.is_grad_enabled()
        values.append(recomputed(read, part, use_reentrant=False) if again else read(part))
        numbers += part.numbers
    places = torch.empty(len(rows), dtype=torch.long)
    places[torch.tensor(numbers)] = torch.arange(len(rows))
    return torch.cat(values)[places.to(model.device)]
