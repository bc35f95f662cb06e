"""Checkpoints as GGUF: llama.cpp itself loads each network and continues as ours does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from core_ml.errors import UserError
from core_ml.exchange import gguf, gguf_tokenizer
from core_ml.exchange.gguf_networks import network_of
from core_ml.exchange.gguf_tokenizer import pattern_name
from core_ml.model import checkpoint
from core_ml.model.config import GPTConfig, RopeScaling
from core_ml.model.gpt import GPT
from core_ml.tokenizer import formats
from core_ml.tokenizer.templates import recognize
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.core_ml import foreign, test_templates

llama_cpp = pytest.importorskip("xllamacpp")

OURS = {"vocab_size": 304, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 64, "max_seq_len": 96, "ff_mult": 2}  # fmt: skip
LLAMA = OURS | {"qk_norm": None, "norm_weight": "plain", "norm_eps": 1e-6, "embedding_norm": False, "activation": "silu", "gated": True}  # fmt: skip
GPT2 = OURS | {"n_kv_head": 4, "qk_norm": None, "norm": "layer", "norm_weight": "plain", "norm_bias": True, "norm_eps": 1e-5, "embedding_norm": False, "activation": "gelu_tanh", "positions": "learned"}  # fmt: skip
SLOWED = {"max_seq_len": 256, "rope_scaling": RopeScaling(kind="llama3", factor=8, original_max_seq_len=32)}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("apertus", OURS),
    "ours, tied and scaled": ("apertus", OURS | {"tie_embeddings": True, "embedding_scale": 3.0}),
    "ours, slowed": ("apertus", OURS | SLOWED),
    "ours without head norms": ("arcee", OURS | {"qk_norm": None}),
    "llama": ("llama", LLAMA),
    "llama 3.1": ("llama", LLAMA | SLOWED),
    "llama, stretched": ("llama", LLAMA | {"rope_scaling": RopeScaling(kind="linear", factor=4)}),
    "llama with wide heads": ("llama", LLAMA | {"head_width": 32, "attention_scale": 0.11}),
    "smollm 3": ("smollm3", LLAMA | {"n_layer": 4, "rope_pattern": (True, True, True, False)}),
    "qwen 2": ("qwen2", LLAMA | {"qkv_bias": True, "tie_embeddings": True}),
    "qwen 3": ("qwen3", LLAMA | {"qk_norm": "weighted", "head_width": 32}),
    "gemma 2": (
        "gemma2",
        LLAMA
        | {"n_layer": 4, "norm_weight": "one_plus", "embedding_scale": 8.0, "activation": "gelu_tanh"}
        | {"post_norm": True, "tie_embeddings": True, "attention_softcap": 50.0, "logit_softcap": 30.0}
        | {"window": 8, "window_pattern": (True, False), "attention_scale": 0.2},
    ),
    "gpt 2": (
        "gpt2",
        GPT2 | {"qkv_bias": True, "out_bias": True, "ff_bias": True, "tie_embeddings": True},
    ),
    "gpt 2 without biases": ("gpt2", GPT2 | {"norm_weight": None, "norm_bias": False}),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["the cat sees a tree, the dog likes the sea"] * 20 + ["été, naïve, déjà vu"] * 20
    return Tokenizer.train(texts, 300)


def network(settings: dict[str, Any], seed: int = 0) -> GPT:
    """Weights drawn so that the most probable token is mostly far before the next."""
    model = GPT(GPTConfig(**settings))
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws) * 0.4)
    return model.eval()


@contextmanager
def served(path: Path, context: int) -> Iterator[httpx.Client]:
    """llama.cpp's own server over a file, on a socket beside it."""
    given = llama_cpp.CommonParams()
    given.model.path = str(path)
    given.n_ctx, given.n_parallel, given.warmup, given.verbosity = context, 1, False, -1
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
    given.hostnames = [f"{path}.sock"]
    server = llama_cpp.Server(given)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=f"{path}.sock"), base_url="http://it") as client:
            yield client
    finally:
        del server


def ask(client: httpx.Client, prompt: list[int], **fields: Any) -> Any:
    answer = client.post("/completion", json={"prompt": prompt, "n_probs": 1, "return_tokens": True} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@torch.no_grad()
def decided(settings: dict[str, Any], prompt: list[int], never: set[int]) -> tuple[GPT, list[int]]:
    """A network, and its continuation of 32 tokens that holds no near tie, which f16's rounding could turn."""
    for seed in range(200):
        model, ids = network(settings, seed), list(prompt)
        for _ in range(32):
            logits = model(torch.tensor([ids]))[0, -1]
            logits[list(never)] = -torch.inf
            first, second = logits.topk(2).values.tolist()
            if first - second < 0.03:
                break
            ids.append(int(logits.argmax()))
        else:
            return model, ids[len(prompt) :]
    raise AssertionError("every seed has a near tie")


@pytest.mark.parametrize("name", NETWORKS)
def test_llama_cpp_continues_each_network_as_ours_for_32_tokens(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    wanted, settings = NETWORKS[name]
    prompt, never = tokenizer.encode("the cat sees a dog"), {tokenizer.bos_id, tokenizer.end_id}
    model, expected = decided(settings, prompt, never)
    checkpoint.save(model, tokenizer, tmp_path)
    assert gguf.save(tmp_path / "it.gguf", tmp_path, "f16", name="it", role="chat") == wanted
    with served(tmp_path / "it.gguf", model.config.max_seq_len) as client:
        ban = [[id, False] for id in never]
        told = ask(client, prompt, n_predict=32, temperature=0, samplers=["temperature"], logit_bias=ban)
    assert told["tokens"] == expected


@pytest.mark.parametrize("precision", gguf.PRECISIONS)
def test_a_file_holds_the_weights_that_its_loss_is_measured_with(
    precision: gguf.Precision, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = network(OURS)
    checkpoint.save(model, tokenizer, tmp_path)
    gguf.save(tmp_path / "it.gguf", tmp_path, precision, name="it", role="base")
    ids = tokenizer.encode("the cat sees a tree, été, the dog likes the sea")
    with served(tmp_path / "it.gguf", 96) as client:
        told = []
        for place in range(1, len(ids)):
            # Pushed to say the text's next token, llama.cpp tells what it thought of it before.
            forced = ask(
                client, ids[:place], n_predict=1, temperature=0, logit_bias=[[ids[place], 1e4]]
            )  # fmt: skip
            assert forced["tokens"] == [ids[place]]
            told.append(forced["completion_probabilities"][0]["logprob"])
    with torch.no_grad():
        written = gguf.as_written(model, precision)(torch.tensor([ids]))[0, :-1].log_softmax(-1)
        exact = model(torch.tensor([ids]))[0, :-1].log_softmax(-1)
    mine, original = (one.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0] for one in (written, exact))
    # llama.cpp rounds activations too: to f16, or to 8 bits in blocks where weights are quantized.
    away = (torch.tensor(told) - mine).abs()
    assert away.mean() < (0.01 if precision == "f16" else 0.1)
    if precision == "q4_0":
        assert (torch.tensor(told) - original).abs().mean() > 2 * away.mean()


def test_files_become_smaller_with_precision_and_carry_the_tokenizer(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    checkpoint.save(network(OURS), tokenizer, tmp_path)
    sizes = []
    for precision in gguf.PRECISIONS:
        gguf.save(tmp_path / f"{precision}.gguf", tmp_path, precision, name="it", role="chat")
        sizes.append((tmp_path / f"{precision}.gguf").stat().st_size)
    assert sizes[0] > 1.5 * sizes[1] > 1.8 * sizes[2]
    fields = GGUFReader(tmp_path / "q4_0.gguf").fields
    again = json.loads(fields["tokenizer.huggingface.json"].contents())
    assert again == json.loads(tokenizer.inner.to_str())
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.end_id
    assert len(fields["tokenizer.ggml.tokens"].contents()) == 304


def test_llama_cpp_writes_a_conversation_as_our_protocol_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    checkpoint.save(network(OURS), tokenizer, tmp_path)
    gguf.save(tmp_path / "it.gguf", tmp_path, "f16", name="it", role="chat")
    messages: list[Any] = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "a tree"}, {"role": "user", "content": "the sea"}]  # fmt: skip
    with served(tmp_path / "it.gguf", 96) as client:
        prompt = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
        asked = {"content": prompt, "add_special": True, "parse_special": True}
        ids = client.post("/tokenize", json=asked).json()["tokens"]
    assert ids == tokenizer.prompt(messages)


@pytest.mark.parametrize("kind", ["llama 2", "gemma"])
def test_llama_cpp_reads_texts_by_tokens_of_characters_as_we_do(kind: str, tmp_path: Path) -> None:
    theirs = Tokenizer.read(foreign.KINDS[kind]().to_str())
    settings = LLAMA | {"vocab_size": theirs.vocab_size + 2}
    texts = ["the cat sees a tree", "  two spaces, été 日本語\n\n 👩‍👩‍👧", *foreign.TEXTS[:4]]
    prompt, never = theirs.encode("the cat"), {theirs.bos_id, theirs.end_id}
    model, expected = decided(settings, prompt, never)
    checkpoint.save(model, theirs, tmp_path)
    gguf.save(tmp_path / "it.gguf", tmp_path, "f16", name="it", role="base")
    with served(tmp_path / "it.gguf", 96) as client:
        ban = [[id, False] for id in never]
        told = ask(client, prompt, n_predict=32, temperature=0, samplers=["temperature"], logit_bias=ban)
        assert told["tokens"] == expected
        for text in texts:
            asked = {"content": text, "add_special": True, "parse_special": False}
            ids = client.post("/tokenize", json=asked).json()["tokens"]
            assert ids == [theirs.bos_id, *theirs.encode(text)], text
            written = client.post("/detokenize", json={"tokens": theirs.encode(text)}).json()["content"]
            assert written == " " * theirs.dropped[0] + text


@pytest.mark.parametrize(
    ("kind", "template"),
    [
        ("llama 2", test_templates.LLAMA2),
        ("llama 2", test_templates.MISTRAL_1),
        ("gemma", test_templates.GEMMA_2),
    ],
)
def test_llama_cpp_writes_a_conversation_in_the_protocol_that_the_model_was_taught(
    kind: str, template: str, tmp_path: Path
) -> None:
    theirs = Tokenizer(foreign.KINDS[kind](), recognize(template))
    checkpoint.save(network(LLAMA | {"vocab_size": theirs.vocab_size}), theirs, tmp_path)
    gguf.save(tmp_path / "it.gguf", tmp_path, "f16", name="it", role="chat")
    messages: list[Any] = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "a tree"}, {"role": "user", "content": "the sea"}]  # fmt: skip
    with served(tmp_path / "it.gguf", 96) as client:
        prompt = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
        asked = {"content": prompt, "add_special": True, "parse_special": True}
        ids = client.post("/tokenize", json=asked).json()["tokens"]
    assert ids == theirs.prompt(messages)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece", "words", "ends of words"])
def test_a_tokenizer_that_llama_cpp_does_not_have_is_told(kind: str) -> None:
    theirs = formats.from_json(foreign.KINDS[kind]().to_str())
    with pytest.raises(UserError, match=r"cannot be written as GGUF.*export it as a Hugging Face folder"):
        gguf_tokenizer.write(None, theirs, theirs.vocab_size, "chat")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"logit_softcap": 15.0}, "logit_softcap = 15.0"),
        ({"norm": "layer"}, "norm = layer"),
        ({"window": 16}, "window = 16"),
        ({"value_head": True}, "a reward model"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        network_of(GPTConfig(**OURS | change))


def test_the_name_of_a_pattern_says_whether_llama_cpp_cuts_as_we_do(tokenizer: Tokenizer) -> None:
    import tokenizers

    name, exact = pattern_name(tokenizer)
    assert name == "qwen2" and not exact
    plain = Tokenizer.train(["a b"], 280)
    plain.inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert pattern_name(plain) == ("gpt-2", True)
