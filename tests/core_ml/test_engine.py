"""The engine as a process, spoken to by the real `openai` package."""

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from core_ml.model import checkpoint
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.engines import CONTEXT, KEY, write_checkpoint

QUESTION = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def network(root: Path) -> tuple[GPT, Tokenizer]:
    return checkpoint.load(root / "aaaa1111" / "checkpoint", "cpu")


def test_it_lists_what_writes_text_by_name_where_the_name_is_unique(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"tiny", "twin:cccc3333-checkpoint", "twin:dddd4444-checkpoint"}
    assert listed["tiny"].object == "model" and listed["tiny"].created > 1_700_000_000
    assert listed["tiny"].artifact == "aaaa1111-checkpoint"  # type: ignore[attr-defined]
    assert listed["tiny"].max_model_len == CONTEXT  # type: ignore[attr-defined]
    assert client.models.retrieve("twin:cccc3333-checkpoint").id == "twin:cccc3333-checkpoint"
    assert client.models.retrieve("cccc3333-checkpoint").id == "twin:cccc3333-checkpoint"


def test_a_checkpoint_made_later_appears_and_a_removed_one_goes(client: openai.OpenAI, root: Path) -> None:
    write_checkpoint(root, "eeee5555", name="late", seed=3)
    try:
        assert client.completions.create(model="late", prompt="a", max_tokens=1).choices[0].text is not None
    finally:
        shutil.rmtree(root / "eeee5555")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="late", prompt="a", max_tokens=1)


def test_a_completion_counts_its_tokens_and_says_why_it_ended(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="the cat", max_tokens=5, temperature=0)
    assert answer.object == "text_completion" and answer.model == "tiny"
    assert answer.system_fingerprint and answer.system_fingerprint.startswith("m37-")
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].logprobs is None
    assert answer.usage is not None
    # <|bos|>, "the", " c", "at"; and five.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        4,
        5,
        9,
    )


def test_logprobs_of_an_echoed_completion_are_those_of_a_plain_forward_pass(
    client: openai.OpenAI, network: tuple[GPT, Tokenizer]
) -> None:
    model, tokenizer = network
    answer = client.completions.create(
        model="tiny", prompt="the cat", max_tokens=6, seed=1, logprobs=5, echo=True
    )
    choice = answer.choices[0]
    assert choice.text.startswith("the cat") and choice.logprobs is not None
    ids = choice.token_ids  # type: ignore[attr-defined]
    assert ids[:3] == tokenizer.encode("the cat")
    with torch.no_grad():
        logprobs = model(torch.tensor([[tokenizer.bos_id, *ids]]))[0].log_softmax(-1)
    expected = [float(logprobs[place, id]) for place, id in enumerate(ids)]
    assert choice.logprobs.token_logprobs == pytest.approx(expected, abs=1e-4)
    assert choice.logprobs.text_offset is not None and choice.logprobs.text_offset[:4] == [0, 3, 5, 7]
    assert choice.logprobs.tokens is not None and choice.logprobs.tokens[:3] == ["the", " c", "at"]
    assert choice.logprobs.top_logprobs is not None
    for place, (token, top) in enumerate(
        zip(choice.logprobs.tokens, choice.logprobs.top_logprobs, strict=True)
    ):
        best = logprobs[place].topk(5).values.tolist()
        assert sorted(top.values(), reverse=True)[:5] == pytest.approx(best, abs=1e-4)
        assert top[token] == pytest.approx(expected[place], abs=1e-4)


def test_a_prompt_in_token_ids_is_read_as_it_stands(
    client: openai.OpenAI, network: tuple[GPT, Tokenizer]
) -> None:
    tokenizer = network[1]
    ids = tokenizer.encode("the cat")
    text = client.completions.create(model="tiny", prompt="the cat", max_tokens=8, temperature=0)
    with_bos = client.completions.create(
        model="tiny", prompt=[tokenizer.bos_id, *ids], max_tokens=8, temperature=0
    )
    plain = client.completions.create(
        model="tiny", prompt=ids, max_tokens=0, echo=True, logprobs=0, temperature=0
    )
    assert with_bos.choices[0].text == text.choices[0].text
    assert plain.choices[0].text == "the cat" and plain.choices[0].finish_reason == "length"
    assert plain.choices[0].logprobs is not None and plain.choices[0].logprobs.token_logprobs is not None
    assert plain.choices[0].logprobs.token_logprobs[0] is None
    assert plain.usage is not None and plain.usage.completion_tokens == 0


def test_several_prompts_with_several_choices_come_in_order(client: openai.OpenAI) -> None:
    prompts = ["the cat", "the dog", "été"]
    answer = client.completions.create(model="tiny", prompt=prompts, n=2, max_tokens=4, echo=True, seed=5)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [choice.text.startswith(prompts[choice.index // 2]) for choice in answer.choices] == [True] * 6
    assert answer.choices[0].text != answer.choices[1].text
    assert answer.usage is not None and answer.usage.completion_tokens == 24


def test_a_greedy_chat_streams_what_it_answers_whole(
    client: openai.OpenAI, network: tuple[GPT, Tokenizer]
) -> None:
    model, tokenizer = network
    whole = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=20)
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].object == "chat.completion.chunk"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    # And both are what the network says when it reads the chat protocol by itself.
    ids = tokenizer.prompt([{"role": "user", "content": "the cat"}])
    n_prompt = len(ids)
    with torch.no_grad():
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in (tokenizer.end_id, tokenizer.bos_id, tokenizer.start_id):
                break
    assert tokenizer.decode(id for id in ids[n_prompt:] if id < tokenizer.vocab_size) == text


def test_chat_logprobs_name_each_token_its_bytes_and_its_rivals(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_completion_tokens=10,
        logprobs=True,
        top_logprobs=20,
        temperature=0,
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    data = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
    assert data.decode("utf-8", "replace") == choice.message.content
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 20
        # Greedy: the token itself is the first of its rivals.
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)
        assert sum(torch.tensor(rival.logprob).exp().item() for rival in token.top_logprobs) <= 1


def test_the_same_seed_gives_the_same_text_and_another_seed_another(client: openai.OpenAI) -> None:
    def text(seed: int, **more: object) -> str | None:
        answer = client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=24, seed=seed, **more
        )  # type: ignore[call-overload]
        return answer.choices[0].message.content

    assert text(37) == text(37)
    assert text(37) != text(38)
    assert text(37, extra_body={"top_k": 1}) == text(38, top_p=0.0) == text(39, temperature=0)


def test_a_stop_string_ends_the_text_before_it_streamed_or_not(client: openai.OpenAI) -> None:
    free = client.completions.create(model="tiny", prompt="the cat", max_tokens=40, seed=3).choices[0].text
    stop = free[10:13]
    expected = free[: free.index(stop)]
    asked = {"model": "tiny", "prompt": "the cat", "max_tokens": 40, "seed": 3, "stop": ["never", stop]}
    whole = client.completions.create(**asked, logprobs=0).choices[0]  # type: ignore[call-overload]
    assert (whole.text, whole.finish_reason) == (expected, "stop")
    assert all(offset < len(expected) for offset in whole.logprobs.text_offset)
    chunks = list(client.completions.create(**asked, stream=True))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_streams_never_split_a_character(client: openai.OpenAI) -> None:
    # Greedy or not, this network writes bytes in disorder: the joined stream must equal the whole answer.
    for seed in range(5):
        asked = {"model": "tiny", "prompt": "é", "max_tokens": 60, "seed": seed}
        whole = client.completions.create(**asked).choices[0].text  # type: ignore[call-overload]
        chunks = client.completions.create(**asked, stream=True)  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole


def test_a_begun_answer_is_gone_on_with(client: openai.OpenAI, network: tuple[GPT, Tokenizer]) -> None:
    tokenizer = network[1]
    begun = [*QUESTION, {"role": "assistant", "content": "the tree"}]
    chat = client.chat.completions.create(
        model="tiny", messages=begun, temperature=0, max_tokens=9, extra_body={"continue_final_message": True}
    )  # type: ignore[call-overload]
    ids = tokenizer.prompt([{"role": "user", "content": "the cat"}]) + tokenizer.encode("the tree")
    plain = client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=9)
    assert chat.choices[0].message.content == plain.choices[0].text


def test_text_parts_are_one_text_and_a_base_model_chats_by_the_protocol_too(client: openai.OpenAI) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "the"}, {"type": "text", "text": " cat"}]}]
    asked = {"model": "cccc3333-checkpoint", "temperature": 0, "max_tokens": 8}
    one = client.chat.completions.create(messages=QUESTION, **asked)  # type: ignore[call-overload]
    other = client.chat.completions.create(messages=parts, **asked)  # type: ignore[call-overload]
    assert one.choices[0].message.content == other.choices[0].message.content


async def test_streams_of_several_clients_move_side_by_side(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        order: list[int] = []

        async def listen(who: int, model: str) -> str:
            stream = await client.completions.create(
                model=model, prompt="the cat", max_tokens=60, temperature=0, stream=True
            )
            text = ""
            async for chunk in stream:
                order.append(who)
                text += chunk.choices[0].text
            return text

        models = ["tiny", "tiny", "cccc3333-checkpoint"]
        texts = await asyncio.gather(*(listen(who, model) for who, model in enumerate(models)))
        assert texts[0] == texts[1] != texts[2]
        # Nobody's last piece comes before somebody's first.
        assert max(order.index(who) for who in range(3)) < min(
            len(order) - order[::-1].index(w) for w in range(3)
        )


@pytest.mark.parametrize(
    ("flooding", "modest"),
    [
        ({"user": "greedy"}, {"user": "modest"}),
        ({"headers": {"x-account": "1"}}, {"headers": {"x-account": "2"}, "user": "greedy"}),
    ],
    ids=["users of one key", "accounts of a lab"],
)
async def test_a_client_waits_for_its_turn_and_not_for_all_requests_of_another(
    url: str, root: Path, flooding: dict[str, Any], modest: dict[str, Any]
) -> None:
    """100 requests ask for 2,000 completions of 400 tokens at once; another client asks for one after the other."""
    config = GPTConfig(
        vocab_size=304, n_layer=2, n_head=4, n_kv_head=2, d_model=32, max_seq_len=512, ff_mult=2
    )
    write_checkpoint(root, "abcd7777", name="slow", config=config)
    key = {"Authorization": f"Bearer {KEY}"}
    body = {"model": "slow", "prompt": "the cat", "max_tokens": 400, "n": 20, "stream": True}
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(base_url=url, headers=key, timeout=60, limits=limits) as http:

            async def ask(who: dict[str, Any], **more: Any) -> httpx.Response:
                asked = body | {name: value for name, value in who.items() if name != "headers"} | more
                request = http.build_request(
                    "POST", "/v1/completions", json=asked, headers=who.get("headers")
                )
                answer = await http.send(request, stream=True)
                assert answer.status_code == 200
                return answer

            async def waiting() -> int:
                return int((await http.get("/health")).json()["waiting"])

            flood = await asyncio.gather(*(ask(flooding) for _ in range(100)))
            before = await waiting()
            for seed in range(5):
                text = await (await ask(modest, n=1, max_tokens=5, seed=seed)).aread()
                assert text.endswith(b"data: [DONE]\n\n")
            # Meanwhile one round of the others' 64 places may have ended, and not the rounds of 100 requests.
            assert before > 1000 and before - await waiting() <= 64
            await asyncio.gather(*(answer.aclose() for answer in flood))
    finally:
        shutil.rmtree(root / "abcd7777")


def test_a_caller_who_leaves_stops_the_sampling(url: str, client: openai.OpenAI) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    asked = {"model": "tiny", "prompt": ["the cat"] * 100, "n": 5, "max_tokens": 90, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, headers=headers) as answer:
        lines = answer.iter_lines()  # a dropped iterator would close the stream
        next(lines)
        assert httpx.get(f"{url}/health", headers=headers).json()["running"] > 0
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/completions", json=asked | {"stream": False}, headers=headers, timeout=0.3)
    end = time.monotonic() + 20
    while (state := httpx.get(f"{url}/health", headers=headers).json())["running"] + state["waiting"]:
        assert time.monotonic() < end, f"nobody listens, and the engine goes on: {state}"
        time.sleep(0.05)


def test_a_damaged_checkpoint_is_told_in_one_sentence_and_the_others_answer(
    client: openai.OpenAI, root: Path
) -> None:
    write_checkpoint(root, "ffff6666", name="broken")
    weights = root / "ffff6666" / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    try:
        with pytest.raises(openai.UnprocessableEntityError, match="damaged"):
            client.completions.create(model="broken", prompt="a")
        assert client.completions.create(model="tiny", prompt="a", max_tokens=1).choices
    finally:
        shutil.rmtree(root / "ffff6666")


def test_an_answer_follows_a_schema_or_a_regular_expression(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
              "required": ["n"], "additionalProperties": False}  # fmt: skip
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = client.chat.completions.create(
        model="tiny", messages=QUESTION, seed=1, max_tokens=40, response_format=asked, n=3
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop" and choice.message.content is not None
        assert set(json.loads(choice.message.content)) == {"n"}
    for more in (
        {"guided_regex": "(cat|dog)[0-9]{2}"},
        {"structured_outputs": {"regex": "(cat|dog)[0-9]{2}"}},
        {"guided_json": {"enum": ["cat11", "dog22"]}},
    ):
        text = client.completions.create(
            model="tiny", prompt="the", seed=2, max_tokens=30, extra_body=more
        ).choices[0].text  # fmt: skip
        assert re.fullmatch(r'"?(cat|dog)[0-9]{2}"?', text)


def test_penalties_and_biases_of_one_request_do_not_touch_another(
    client: openai.OpenAI, network: tuple[GPT, Tokenizer]
) -> None:
    plain = client.completions.create(model="tiny", prompt="the cat", max_tokens=30, temperature=0)
    first = plain.choices[0].token_ids[0]  # type: ignore[attr-defined]
    barred = client.completions.create(
        model="tiny", prompt=["the cat"] * 2, max_tokens=30, temperature=0, logit_bias={str(first): -100}
    )
    assert all(first not in choice.token_ids for choice in barred.choices)  # type: ignore[attr-defined]
    varied = client.completions.create(
        model="tiny", prompt="the cat", max_tokens=30, temperature=0, frequency_penalty=2, presence_penalty=2,
        extra_body={"repetition_penalty": 5.0, "min_p": 0.1},
    )  # fmt: skip
    ids = varied.choices[0].token_ids  # type: ignore[attr-defined]
    assert len(set(ids)) > len(set(plain.choices[0].token_ids))  # type: ignore[attr-defined]


def test_a_chat_goes_on_from_what_the_engine_has_read_before(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=12)
    said = {"role": "assistant", "content": first.choices[0].message.content or ""}
    asked = [*QUESTION, said, {"role": "user", "content": "a tree"}]
    again = [
        client.chat.completions.create(model="tiny", messages=asked, temperature=0, max_tokens=12)  # type: ignore[arg-type]
        for _ in range(2)
    ]
    assert again[0].choices[0].message.content == again[1].choices[0].message.content
