"""Checkpoints come back as they were, and nothing damaged is loaded."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core_ml.errors import UserError
from core_ml.model import checkpoint
from core_ml.model.gpt import GPT, GPTConfig
from tests.core_ml import small

CONFIG = GPTConfig(vocab_size=320, n_layer=1, n_head=2, n_kv_head=1, d_model=16, ff_mult=2, max_seq_len=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoint.save(GPT(CONFIG), small.tokenizer(), tmp_path)
    return tmp_path


def rewrite_header(folder: Path, change: object) -> None:
    """Change the JSON header of the weights, leaving the numbers as they are."""
    data = (folder / checkpoint.WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = change(data[8 : 8 + length].decode())  # type: ignore[operator]
    (folder / checkpoint.WEIGHTS).write_bytes(
        struct.pack("<Q", len(text)) + text.encode() + data[8 + length :]
    )


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": True}, {"value_head": True}])
def test_it_comes_back_as_it_was(tmp_path: Path, options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG.model_copy(update=options))
    checkpoint.save(model, small.tokenizer(), tmp_path)
    loaded, tokenizer = checkpoint.load(tmp_path, "cpu")
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert tokenizer.encode("The cat") == small.tokenizer().encode("The cat")


def test_the_same_weights_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    checkpoint.save(checkpoint.load(folder, "cpu")[0], small.tokenizer(), other)
    for name in (checkpoint.WEIGHTS, checkpoint.CONFIG, "tokenizer.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def test_its_shapes_are_read_without_torch(folder: Path) -> None:
    code = (
        "import sys; from core_ml.model import checkpoint; "
        f"infos = checkpoint.tensors({str(folder)!r}); config = checkpoint.read_config({str(folder)!r}); "
        "assert 'torch' not in sys.modules; "
        "assert sum(info['n_parameters'] for info in infos) == config.n_parameters"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("size", [0, 4, 60, 5000])
def test_truncated_weights_are_refused(folder: Path, size: int) -> None:
    data = (folder / checkpoint.WEIGHTS).read_bytes()
    (folder / checkpoint.WEIGHTS).write_bytes(data[:size])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("head.weight", "../head.ight"), "lacks tensor|unexpected tensor"),
        (lambda text: text.replace("[320,16]", "[16,320]"), r"\[16, 320\] and must be \[320, 16\]"),
        (lambda text: text.replace('"F32"', '"I32"'), "does not fill its place"),
        (lambda text: text.replace("head.weight", "embedding.weight"), "names a tensor twice"),
        (lambda text: text + " " * (2 << 20), "header claims"),
        (lambda text: text[:-3], "damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(folder: Path, change: object, told: str) -> None:
    rewrite_header(folder, change)
    with pytest.raises(UserError, match=told):
        checkpoint.load(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    model = GPT(CONFIG)
    with torch.no_grad():
        model.blocks[0].up.weight[3, 3] = bad
    checkpoint.save(model, small.tokenizer(), tmp_path)
    with pytest.raises(UserError, match="not finite"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("", "config.json is damaged"),
        ("[1]", "config.json is damaged"),
        ('{"architecture": "llama"}', "another architecture"),
        (json.dumps({"architecture": "move37-gpt", "vocab_size": 320, "n_head": 3}), "multiple of n_head"),
        (json.dumps({"architecture": "move37-gpt", "vocab_size": 10**12}), "vocab_size"),
    ],
)
def test_a_damaged_config_is_told_by_its_field(folder: Path, config: str, told: str) -> None:
    (folder / checkpoint.CONFIG).write_text(config)
    with pytest.raises(UserError, match=told):
        checkpoint.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / checkpoint.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        checkpoint.load(folder)
    (folder / checkpoint.CONFIG).unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        checkpoint.load(folder)
