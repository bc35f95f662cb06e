"""Fair answers, which are the chat model's own: the prompts that a hunt asks, and what is answered to them."""

from collections.abc import Generator, Sequence
from typing import Any

from core_ml.errors import UserError
from core_ml.feedback.batches import as_prompt
from core_ml.feedback.gaming.config import HuntConfig
from core_ml.feedback.prompts import read_prompts
from core_ml.model import checkpoint
from core_ml.sampling.generate import Completion, generate_in_batches
from core_ml.tasks.rows import read_rows
from core_ml.workspace import Workspace


def answers(config: HuntConfig, workspace: Workspace, own: Sequence[str]) -> Generator[int, None, Any]:
    """Fair answers: to the prompts of the searches, to those that measure, and to those that single texts are for."""
    prompts = [prompt.text for prompt in read_prompts(workspace.input("problems"), f"{config.seed}:hunt")]
    # What was taught must not measure: prompts of earlier hunts come last, and are used only where others run out.
    seen = {*_prompts_of(workspace.inputs("hunts")), *own}
    prompts.sort(key=lambda prompt: prompt in seen)
    n = config.n_search_prompts
    if len(prompts) < n + 2:
        raise UserError(
            f"there are {len(prompts)} prompts and the searches take {n} of them: choose more problems, or lower "
            "n_search_prompts",
            field="n_search_prompts",
        )
    # Those that measure are taken first, so that they are the last to have been seen.
    measure = prompts[: min(config.n_prompts, len(prompts) - n)]
    parts = {"measure": measure, "search": prompts[len(measure) : len(measure) + n], "own": sorted(set(own))}
    model, tokenizer = checkpoint.load(workspace.input("checkpoint").path)
    asked = [prompt for some in parts.values() for prompt in some]
    ids = [as_prompt(tokenizer, prompt) for prompt in asked for _ in range(config.n_fair)]
    completions = [Completion() for _ in ids]
    for number, _ in enumerate(
        generate_in_batches(
            model,
            ids,
            completions,
            max_new_tokens=config.max_new_tokens,
            stop_ids=(tokenizer.end_id,),
            seed=config.seed,
        )
    ):
        yield number
    texts = iter((tokenizer.decode(completion.ids), completion.ended) for completion in completions)
    said = {
        name: [[p, [next(texts) for _ in range(config.n_fair)]] for p in some] for name, some in parts.items()
    }
    return said | {"n_seen": sum(prompt in seen for prompt in measure)}


def _prompts_of(folders: Sequence[Any]) -> set[str]:
    return {row["prompt"] for folder in folders for row in read_rows(folder, ["prompt"], input="hunts")}


def columns(rows: Sequence[Any]) -> tuple[list[str], list[list[str]], list[list[bool]]]:
    """Prompts, the answers to each, and whether the model ended each of them."""
    return (
        [prompt for prompt, _ in rows],
        [[text for text, _ in answers] for _, answers in rows],
        [[bool(ended) for _, ended in answers] for _, answers in rows],
    )
