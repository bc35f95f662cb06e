"""Sets that keep two responses and the verdicts on them in one row: PandaLM's test set and Auto-J's."""

from collections.abc import Iterator

from core_ml.feedback.sets.ranked import FIRST, SECOND, TIE, Ranked, Row, Vote, chosen, text

ANNOTATORS = ("annotator1", "annotator2", "annotator3")
VERDICTS = {0: TIE, 1: FIRST, 2: SECOND, None: None}
JUDGED = {"1": FIRST, "2": SECOND, "Tie": TIE, "tie": TIE, "0": TIE, 0: TIE, 1: FIRST, 2: SECOND} | {
    # What a judge model wrote that was no verdict.
    "garbage": None,
    None: None,
}


def pandalm(row: Row, number: int) -> Iterator[Ranked]:
    """`instruction, input, response1, response2, annotator1 … annotator3 (0 tie, 1, 2), judge_…`: people and judges."""
    prompt = text(row, "instruction")
    if given := row.get("input"):
        prompt = f"{prompt}\n\n{text(row, 'input') if isinstance(given, str) else given}"
    votes = [
        Vote(name, order) for name in ANNOTATORS if name in row and (order := chosen(row, name, VERDICTS))
    ]
    for name in row:
        if name.startswith("judge_") and (order := chosen(row, name, JUDGED)):
            votes.append(Vote(name.removeprefix("judge_"), order, simulated=True))
    if not votes:
        raise ValueError(
            "nobody judged this pair: at least one of annotator1, annotator2, annotator3 must be 0, 1 or 2"
        )
    yield Ranked(
        group_id=str(row.get("idx", number)),
        prompt=prompt,
        completions=(text(row, "response1"), text(row, "response2")),
        votes=votes,
        metadata={
            "models": str(row["cmp_key"]).split("_")
            if str(row.get("cmp_key", "")).count("_") == 1
            else row.get("cmp_key"),
            "application": row.get("motivation_app"),
        },
    )


def autoj(row: Row, number: int) -> Iterator[Ranked]:
    """`scenario, label (0: response 1, 1: response 2, 2: tie), prompt, response 1, response 2`: one label a pair."""
    order = chosen(row, "label", {0: FIRST, 1: SECOND, 2: TIE})
    assert order is not None
    yield Ranked(
        group_id=str(number),
        prompt=text(row, "prompt"),
        completions=(text(row, "response 1"), text(row, "response 2")),
        votes=[Vote("Auto-J's labelers", order)],
        metadata={"scenario": row.get("scenario")},
    )
