"""A small corpus of invented sentences, brought into a lab over its API."""

import json
import random

from tests.journeys.stack import Lab

NOUNS = ["cat", "dog", "tree", "sea", "bird", "boat"]
WORDS = [*NOUNS, "the", "a", "sees", "likes", "red", "blue", "big", "small", "and", "then", "near", "under"]


def bring_in(running: Lab, n_documents: int = 300) -> str:
    """The id of the documents; the same sentences each time."""
    chance = random.Random(0)
    lines = (" ".join(chance.choices(WORDS, k=60)) for _ in range(n_documents))
    rows = "\n".join(json.dumps({"text": f"{n}: {line}."}) for n, line in enumerate(lines))
    answer = running.api.post(
        "/datasets", files={"file": ("corpus.jsonl", rows.encode())}, data={"name": "corpus"}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]
