"""Completions that match a JSON Schema or a regular expression, whatever the network would rather write."""

import json
import random
import re

import jsonschema
import pytest
import torch

from core_ml.errors import UserError
from core_ml.model.gpt import GPT
from core_ml.sampling.grammar import Grammar, Grammars
from core_ml.sampling.sampler import Row, Sampler
from core_ml.sampling.settings import Sampling
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.core_ml.models import small_model, small_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["bal", "lom"]},
        "sum": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["name", "sum"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer.token_bytes, tokenizer.vocab_size + 4, tokenizer.end_id)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return small_model(tokenizer.vocab_size + 4)  # more outputs than tokens, as a padded vocabulary has


def written(model: GPT, grammars: Grammars, tokenizer: Tokenizer, grammar: Grammar, seed: int) -> str:
    """One completion at temperature 1 to its end, beside a row that is free."""
    constraint = grammars.begin(grammar).copy()
    prompt = tokenizer.encode("What is 1 + 2?")
    rows = [
        Row(
            prompt=prompt, how=Sampling(), draws=random.Random(seed), max_new_tokens=60, constraint=constraint
        ),
        Row(prompt=prompt, how=Sampling(), draws=random.Random(seed), max_new_tokens=60),
    ]
    sampler: Sampler[Row] = Sampler(model)
    sampler.join(rows)
    while not rows[0].finished and rows[0].ids[-1] != tokenizer.end_id:
        assert len(rows[0].ids) < 60
        sampler.step()
    assert not rows[1].finished
    ids = rows[0].ids
    return tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.end_id else ids)


@pytest.mark.parametrize("seed", range(8))
def test_a_completion_is_json_of_its_schema(
    model: GPT, grammars: Grammars, tokenizer: Tokenizer, seed: int
) -> None:
    text = written(model, grammars, tokenizer, Grammar("json_schema", json.dumps(SCHEMA)), seed)
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("pattern", [r"[0-9]{3}-[a-f]{2}", r"(yes|no), (é|ß)+!", r"\d{1,3}(\.\d+)?"])
def test_a_completion_matches_its_regular_expression(
    model: GPT, grammars: Grammars, tokenizer: Tokenizer, pattern: str
) -> None:
    for seed in range(4):
        assert re.fullmatch(pattern, written(model, grammars, tokenizer, Grammar("regex", pattern), seed))


@pytest.mark.parametrize(
    ("grammar", "what"),
    [
        (Grammar("regex", "(unclosed"), "regular expression"),
        (Grammar("json_schema", '{"type": "nothing"}'), "JSON Schema"),
        (Grammar("json_schema", "{"), "JSON Schema"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_sentence(
    grammars: Grammars, grammar: Grammar, what: str
) -> None:
    with pytest.raises(UserError, match=f"the {what} cannot be used: ") as error:
        grammars.begin(grammar)
    assert "\n" not in error.value.message


def test_special_tokens_are_not_text_and_the_last_one_ends_it(
    tokenizer: Tokenizer, grammars: Grammars
) -> None:
    constraint = grammars.begin(Grammar("regex", "a*"))
    allowed = constraint.allowed(tokenizer.vocab_size + 4)
    ids = set(torch.nonzero(allowed)[:, 0].tolist())
    assert tokenizer.end_id in ids and tokenizer.bos_id not in ids and tokenizer.start_id not in ids
    assert all(set(tokenizer.token_bytes[id]) == {ord("a")} for id in ids - {tokenizer.end_id})
