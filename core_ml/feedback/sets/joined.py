"""Sets that keep votes in one file and texts in another: LLMFAO's crowd, MT-bench and AlpacaEval.

Votes are read in a stream and joined with the texts that a `Lookup` holds on disk.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from core_ml.feedback.sets.lookup import Lookup, lookup
from core_ml.feedback.sets.ranked import (
    FIRST,
    SECOND,
    TIE,
    Ranked,
    Read,
    Row,
    Source,
    Vote,
    chosen,
    each,
    text,
)

Parts = Mapping[str, Sequence[Source]]
SIDES = {"left": FIRST, "right": SECOND, "tie": TIE}
WINNERS = {"model_a": FIRST, "model_b": SECOND, "tie": TIE, "tie (inconsistent)": TIE}
MIRRORED = {0: 1, 1: 0}


def llmfao(parts: Parts) -> Read:
    """`id, prompt, model_x, model_y, winner, worker?` with the texts of pairs by id, or of results by model and prompt.

    Votes without a worker are a judge model's, named by its file. The left response is model_x's.
    """
    with lookup() as texts:
        texts.fill(parts.get("pairs", ()), _llmfao_pair)
        texts.fill(parts.get("results", ()), _llmfao_result)
        texts.fill(parts.get("prompts", ()), _llmfao_prompt)
        for source in parts["votes"]:
            judge = re.split(r"[-.]", source.name)[0]
            yield from each(source, partial(_llmfao_vote, texts=texts, judge=judge), named=True)


def _llmfao_pair(row: Row) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield ("pair", row.get("id")), [row.get(name) for name in ("text", "result_x", "result_y")]


def _llmfao_result(row: Row) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield ("result", row.get("model"), row.get("prompt")), row.get("result")


def _llmfao_prompt(row: Row) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield ("prompt", row.get("id")), row.get("text")


def _llmfao_vote(row: Row, number: int, texts: Lookup, judge: str) -> Iterator[Ranked]:
    prompt, *results = texts.get(("pair", row.get("id"))) or [
        texts.get(("prompt", row.get("prompt"))),
        *(texts.get(("result", row.get(name), row.get("prompt"))) for name in ("model_x", "model_y")),
    ]
    if not all(isinstance(one, str) for one in (prompt, *results)):
        raise ValueError(
            f"the texts of pair {row.get('id')} are in none of the files: bring pairs-crowd.jsonl, or results.jsonl "
            "and prompts.jsonl, too"
        )
    order = chosen(row, "winner", SIDES)
    assert order is not None
    worker = row.get("worker")
    yield Ranked(
        group_id=str(row.get("id")),
        prompt=prompt,
        completions=results,
        votes=[Vote(judge, order, simulated=True) if worker is None else Vote(f"worker {worker}", order)],
        metadata={"models": [row.get("left"), row.get("right")]},
    )


def mtbench(parts: Parts) -> Read:
    """`question_id, turn, model_a, model_b, winner, judge` with questions, and the models' answers where they are given.

    A vote on the second turn is on the whole of what follows the first question. Where the answers' texts are not
    part of the set, completions say whose they would be, and `without_texts` in the metadata that they are not there:
    such votes measure judges and rate models, and teach a reward model nothing.
    """
    with lookup() as texts:
        texts.fill(parts["questions"], _mtbench_question)
        texts.fill(parts.get("answers", ()), _mtbench_answer)
        for source in parts["votes"]:
            yield from each(source, partial(_mtbench_vote, texts=texts), named=True)


def _mtbench_question(row: Row) -> Iterator[tuple[tuple[Any, ...], Any]]:
    kept = {name: row.get(name) for name in ("turns", "category", "reference")}
    yield ("question", row.get("question_id")), kept


def _mtbench_answer(row: Row) -> Iterator[tuple[tuple[Any, ...], Any]]:
    choices = row.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        yield ("answer", row.get("question_id"), row.get("model_id")), choices[0].get("turns")


def _mtbench_vote(row: Row, number: int, texts: Lookup) -> Iterator[Ranked]:
    question = texts.get(("question", row.get("question_id")))
    turn = row.get("turn", 1)
    if question is None or not isinstance(question["turns"], list):
        raise ValueError(
            f"question {row.get('question_id')} is in no file of questions: bring question.jsonl too"
        )
    if turn not in (1, 2) or turn > len(question["turns"]):
        raise ValueError(
            f"'turn' is {turn!r}, and question {row['question_id']} has {len(question['turns'])}"
        )
    order = chosen(row, "winner", WINNERS)
    assert order is not None
    models = [text(row, "model_a"), text(row, "model_b")]
    if models[0] > models[1]:
        # The same two models stand either way round; one group must have one order of completions.
        models.reverse()
        order = [[MIRRORED[index] for index in tied] for tied in order]
    answers = [texts.get(("answer", row["question_id"], model)) for model in models]
    there = all(isinstance(one, list) and len(one) >= turn for one in answers)
    judge = text(row, "judge")
    yield Ranked(
        group_id=f"{row['question_id']}-{turn}-{models[0]}-{models[1]}",
        prompt=question["turns"][0],
        completions=[
            _continued(question["turns"], answer, turn)
            if there
            else f"[what {model} answered is not in this set]"
            for model, answer in zip(models, answers, strict=True)
        ],
        votes=[
            Vote(judge, order, simulated=bool(re.match(r"gpt|claude|gemini|llama", judge, re.IGNORECASE)))
        ],
        metadata={
            "models": models,
            "turn": turn,
            "category": question["category"],
            "turns": question["turns"],
        }
        # The right answers, a turn each, of the questions that have one: what a judge is shown beside both.
        | ({"reference": question["reference"]} if question["reference"] else {})
        | ({} if there else {"without_texts": True}),
    )


def _continued(questions: list[str], answers: list[str], turn: int) -> str:
    if turn == 1:
        return answers[0]
    return f"{answers[0]}\n\nUser: {questions[1]}\n\nAssistant: {answers[1]}"


def alpacaeval(parts: Parts) -> Read:
    """`instruction_id, model_1, model_2, judge, preference` with `instruction_id, instruction, outputs{model: text}`.

    Preference is 1 where the first is better and 2 where the second is; 1.5 and 0 are ties, and what lies between,
    which weighted judges give, goes to the nearer side and is kept in the metadata. All judges are models.
    """
    with lookup() as texts:
        texts.fill(parts["outputs"], _alpacaeval_outputs)
        for source in parts["votes"]:
            yield from each(source, partial(_alpacaeval_vote, texts=texts), named=True)


def _alpacaeval_outputs(row: Row) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield ("instruction", row.get("instruction_id")), row.get("instruction")
    outputs = row.get("outputs")
    for model, output in outputs.items() if isinstance(outputs, dict) else ():
        yield ("output", row.get("instruction_id"), model), output


def _alpacaeval_vote(row: Row, number: int, texts: Lookup) -> Iterator[Ranked]:
    id, models = row.get("instruction_id"), [text(row, "model_1"), text(row, "model_2")]
    prompt = texts.get(("instruction", id))
    completions = [texts.get(("output", id, model)) for model in models]
    if prompt is None or None in completions:
        missing = (
            f"instruction {id}"
            if prompt is None
            else f"an output of {models[completions.index(None)]} to {id}"
        )
        raise ValueError(f"{missing} is in no file of outputs: bring outputs.jsonl too")
    value = row.get("preference")
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value <= 2
    ):
        raise ValueError(f"'preference' is {value!r}: it must be a number from 0 to 2")
    order = TIE if value in (0, 1.5) else FIRST if value < 1.5 else SECOND
    yield Ranked(
        group_id=f"{id}-{models[0]}-{models[1]}",
        prompt=prompt,
        completions=completions,
        votes=[Vote(text(row, "judge"), order, simulated=True, metadata={"preference": value})],
        metadata={"models": models},
    )
