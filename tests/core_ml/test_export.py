"""The recipe export: files with their price, for every format."""

from pathlib import Path
from typing import Any

import pytest

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.events import Artifact, Figure, Summary
from core_ml.exchange.gguf_reading import describe
from core_ml.execute import mismatch
from core_ml.recipes.export import RECIPE, ExportConfig, run
from tests.core_ml import models, small


def exported(path: Path, **config: Any) -> tuple[Folder, dict[str, Any], Figure]:
    inputs: Any = {
        "checkpoint": models.write_checkpoint(path, "chat", n_kv_head=2, d_model=64),
        "documents": Folder(small.documents(path / "documents")),
    }
    told = ExportConfig(speed_tokens=16, val_tokens=2048, threads=1, **config)
    events = list(run(told, models.workspace(path / "run", inputs)))
    made = next(event for event in events if isinstance(event, Artifact))
    assert made.id == "r1-export"
    summary = next(event for event in events if isinstance(event, Summary)).values
    return Folder(path / "run" / "out" / "export"), summary, next(e for e in events if isinstance(e, Figure))


@pytest.mark.parametrize("precision", ["f16", "q8_0", "q4_0"])
def test_a_gguf_file_comes_with_its_size_speed_and_loss_beside_the_original(
    precision: str, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    folder, summary, table = exported(tmp_path, precision=precision)
    (file,) = folder.files(".gguf")
    told = describe(file)
    assert (told.architecture, told.precision, folder.manifest.kind) == ("apertus", precision, "export")
    assert summary["bytes"] == file.stat().st_size < summary["bytes_original"]
    # Fewer bits cost more; 16 cost next to nothing.
    lost = abs(summary["bits_per_byte"] - summary["bits_per_byte_original"])
    assert lost < {"f16": 0.001, "q8_0": 0.01, "q4_0": 0.2}[precision]
    assert summary["tokens_per_second"] > 0 and summary["tokens_per_second_original"] > 0
    assert [row[0] for row in table.content["rows"]] == ["Size, MB", "Bits per byte", "Tokens a second"]
    assert folder.manifest.summary["findings"] == summary["findings"] and len(summary["findings"]) == 3


def test_four_bits_lose_more_than_eight(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    lost = []
    for precision in ("q8_0", "q4_0"):
        _, summary, _ = exported(tmp_path / precision, precision=precision)
        lost.append(abs(summary["bits_per_byte"] - summary["bits_per_byte_original"]))
    assert lost[1] > lost[0]


def test_what_no_family_has_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    source = models.write_checkpoint(tmp_path, "chat", logit_softcap=15.0, norm="layer")
    inputs: Any = {"checkpoint": source}
    with pytest.raises(UserError, match="logit_softcap"):
        list(run(ExportConfig(threads=1), models.workspace(tmp_path / "run", inputs)))
    assert not (tmp_path / "run" / "out" / "export").exists()


def test_a_reward_model_is_not_taken() -> None:
    assert mismatch(RECIPE, "checkpoint", "checkpoint", "reward") is not None


def test_a_folder_for_transformers_is_loaded_by_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    from core_ml.model import checkpoint

    llama = {"qk_norm": None, "norm_weight": "plain", "embedding_norm": False, "activation": "silu", "gated": True}  # fmt: skip
    source = models.write_checkpoint(tmp_path, "chat", **llama)
    inputs: Any = {"checkpoint": source}
    list(run(ExportConfig(format="huggingface", threads=1), models.workspace(tmp_path / "run", inputs)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "out" / "export").eval()
    ours, _ = checkpoint.load(source.path, "cpu")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-4, rtol=1e-4)
