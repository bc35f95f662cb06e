"""What a run of practice leaves behind: the aligned model, the answers of its rounds, and what can be said of it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from core_ml.events import Event, Log, Progress, Summary
from core_ml.feedback import kept, peak
from core_ml.feedback.config import RlhfConfig
from core_ml.feedback.gold import Gold
from core_ml.feedback.reasons import headline, reasons
from core_ml.feedback.rlhf_report import begin_and_end, findings, reward_over_kl, stopped_improving
from core_ml.model import checkpoint
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.workspace import Workspace

KEPT = (
    "reward", "liked", "correct", "kl", "mean_tokens", "ended", "entropy", "clipfrac", "flat_groups", "group_std", "value_loss",
)  # fmt: skip
"""Measures whose curves the findings are drawn from."""


def publish(
    config: RlhfConfig,
    workspace: Workspace,
    looked_at: Callable[[int], AbstractContextManager[GPT]],
    tokenizer: Tokenizer,
    notes: dict[str, Any],
    gold: Gold | None,
) -> Iterator[Event]:
    """Checkpoints, rows and findings.

    Args:
        looked_at: the network as it was at a look, by its step.
        notes: the run's; "history" has an entry a round, "watched" one a look.
    """
    history, watched = notes["history"], notes["watched"]
    yield Progress(watched[-1]["step"], watched[-1]["step"], message="publishing")
    last, best = watched[-1]["step"], notes["best"]
    summary = {
        "n_parameters": checkpoint.read_config(workspace.input("checkpoint").path).n_parameters,
        "n_steps": last,
        "tokens": notes["tokens"],
        "tokens_per_second": round(notes["tokens"] / max(1e-9, notes["seconds"])),
        **begin_and_end(history, watched),
    }
    summary["best_step"], stopped = stopped_improving(watched)
    harmed = peak.fell(watched)
    summary |= {"peak_step": best, "stopped_early": notes.get("stopped_early", False)}
    if gold:
        summary["gold"] = gold.said
    if fitted := peak.over_kl(watched):
        summary["over_kl"] = fitted.as_dict()
    summary["findings"] = [
        *findings(watched[0], watched[-1], summary.get("kl_last")),
        stopped,
        *peak.findings(watched, gold.said if gold else None, config.keep),
    ]
    curves = {name: [h.get(name) for h in history] for name in KEPT}
    for reason in reasons(curves, config.model_dump()):
        yield Log(f"{headline(curves)} {reason.what} {reason.tries}")
    published = {"checkpoint": (best if config.keep == "best" else last, summary)}
    if config.keep == "last" and harmed and best:
        published["peak"] = (best, {**summary, "n_steps": best})
    for name, (step, values) in published.items():
        output = workspace.create(
            name, "checkpoint", role="aligned", name=f"{workspace.name}-{name}" if name == "peak" else None
        )
        try:
            with looked_at(step) as model:
                checkpoint.save(model, tokenizer, output.path)
            yield workspace.made(name, output.finish(values))
        finally:
            output.discard()
    rounds = workspace.state / kept.FOLDER
    if config.keep_rollouts and rounds.is_dir():
        answers = workspace.create("rollouts", "dataset", form="rollouts")
        try:
            n_rows = kept.collect(rounds, answers.path, last)
            facts = {"n_rows": n_rows, "n_completions": config.n_completions, "n_steps": last}
            yield workspace.made("rollouts", answers.finish(facts))
        finally:
            answers.discard()
    if "kl" in history[0]:
        yield reward_over_kl(history)
    yield Summary(summary)
