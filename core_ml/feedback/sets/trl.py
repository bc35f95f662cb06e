"""TRL's preference form: `prompt, chosen, rejected`, as texts or as conversations, with the prompt said or implied.

Read as well: an implied prompt is what both texts begin with (also the dialogues of "Human:" and "Assistant:" of
Bai et al. 2022), messages may be ShareGPT's {from, value}, and a prompt may stand in `conversations`. A pair says
nothing about which answer was shown first, so its completions stand in the order of their texts: the same pair, judged
by two labelers, is one group.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from core_ml.feedback.sets.ranked import Ranked, Row, Vote, conversation, fingerprint, messages, shown

KEPT = ("prompt", "chosen", "rejected", "conversations", "labeler", "simulated", "metadata")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
Turns = list[dict[str, str]]


def read(row: Row, number: int) -> Iterator[Ranked]:
    """One row is one vote on a pair. Raises: ValueError when there is no prompt, or nothing differs."""
    prompt, chosen, rejected = (row.get(name) for name in ("prompt", "chosen", "rejected"))
    if prompt is None:
        prompt = row.get("conversations")
    if isinstance(chosen, dict) and isinstance(rejected, dict):
        chosen, rejected = [chosen], [rejected]
    if isinstance(chosen, list) and isinstance(rejected, list):
        turns, better, worse = _of_conversations(
            prompt, messages(chosen, "chosen"), messages(rejected, "rejected")
        )
    elif isinstance(chosen, str) and isinstance(rejected, str):
        turns, better, worse = _of_texts(prompt, chosen, rejected)
    else:
        raise ValueError(
            "'chosen' and 'rejected' must be two texts or two lists of messages, and they are "
            f"{shown(chosen)} and {shown(rejected)}"
        )
    if better == worse:
        raise ValueError("'chosen' and 'rejected' are the same: leave the row out, since it prefers nothing")
    completions = sorted((better, worse))
    text = conversation(turns)
    labeler = row.get("labeler")
    metadata = {key: value for key, value in row.items() if key not in KEPT and value is not None}
    if len(turns) > 1:
        metadata["messages"] = turns
    order = [[completions.index(better)], [completions.index(worse)]]
    yield Ranked(
        group_id=fingerprint(text, *completions),
        prompt=text,
        completions=completions,
        votes=[
            Vote(
                str(labeler) if labeler not in (None, "") else "imported",
                order,
                simulated=bool(row.get("simulated", False)),
            )
        ],
        metadata=metadata,
    )


def _of_conversations(prompt: Any, chosen: Turns, rejected: Turns) -> tuple[Turns, str, str]:
    n = 0
    while n < min(len(chosen), len(rejected)) - 1 and chosen[n] == rejected[n]:
        n += 1
    shared = chosen[:n]
    if isinstance(prompt, list):
        said = messages(prompt, "prompt")
        turns = shared if shared[: len(said)] == said else said + shared
    elif isinstance(prompt, str):
        turns = shared or [{"role": "user", "content": prompt}]
    else:
        turns = shared
    if not turns:
        raise ValueError(
            "there is no prompt: give 'prompt', or begin 'chosen' and 'rejected' with the same messages"
        )
    return turns, _answer(chosen[n:]), _answer(rejected[n:])


def _answer(turns: Turns) -> str:
    return turns[0]["content"] if len(turns) == 1 else conversation(turns)


def _of_texts(prompt: Any, chosen: str, rejected: str) -> tuple[Turns, str, str]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}], chosen, rejected
    if isinstance(prompt, list):
        return messages(prompt, "prompt"), chosen, rejected
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    at = chosen.rfind(ASSISTANT, 0, n)
    if at >= 0 and chosen.startswith(HUMAN):
        cut = at + len(ASSISTANT)
        return _dialogue(chosen[:at]), chosen[cut:].strip(), rejected[cut:].strip()
    # A word that both begin with belongs to the answers, not to the prompt.
    cut = max((i + 1 for i in range(n) if chosen[i].isspace()), default=0)
    if not chosen[:cut].strip():
        raise ValueError(
            "there is no prompt: give 'prompt', or begin 'chosen' and 'rejected' with the same words"
        )
    return [{"role": "user", "content": chosen[:cut].strip()}], chosen[cut:], rejected[cut:]


def _dialogue(said: str) -> Turns:
    turns: Turns = []
    for piece in said.split(HUMAN)[1:]:
        human, *answers = piece.split(ASSISTANT)
        turns.append({"role": "user", "content": human.strip()})
        turns += [{"role": "assistant", "content": answer.strip()} for answer in answers]
    return turns


def write(ranked: Ranked, conversational: bool = False) -> Iterator[Row]:
    """All pairs that the votes on a group order, the better one chosen; ties prefer nothing and make no pair.

    `labeler` and `group_id` stand beside the three columns, which is all that TRL reads.
    """
    for vote in ranked.votes:
        for place, better in enumerate(vote.order):
            for worse in vote.order[place + 1 :]:
                for i in better:
                    for j in worse:
                        yield {
                            **_pair(ranked, ranked.completions[i], ranked.completions[j], conversational),
                            "group_id": ranked.group_id,
                            "labeler": vote.labeler,
                            "simulated": vote.simulated,
                        }


def _pair(ranked: Ranked, better: str, worse: str, conversational: bool) -> Row:
    if not conversational:
        return {"prompt": ranked.prompt, "chosen": better, "rejected": worse}
    turns: Sequence[Any] = ranked.metadata.get("messages") or [{"role": "user", "content": ranked.prompt}]
    answers = ([{"role": "assistant", "content": answer}] for answer in (better, worse))
    return {"prompt": list(turns), **dict(zip(("chosen", "rejected"), answers, strict=True))}
