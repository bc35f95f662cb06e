"""A checkpoint as files that other programs load, with what that costs: size, speed and loss beside the original's."""

import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal

from core_ml.config import RecipeConfig, Threads, setting
from core_ml.events import Event, Figure, Log, Metric, Progress, Resumed, Summary
from core_ml.recipe import Cost, Input, Measure, Output, Preset, Recipe
from core_ml.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from core_ml.artifact import Folder, Manifest
    from core_ml.model.gpt import GPT
    from core_ml.tokenizer.tokenizer import Tokenizer

MEASURING = "Measuring"
MOST_ANCESTORS = 20


class ExportConfig(RecipeConfig):
    format: Literal["gguf", "huggingface"] = setting(
        "gguf", "One GGUF file for llama.cpp, LM Studio and Ollama, or a folder for transformers and vLLM."
    )
    precision: Literal["f16", "q8_0", "q4_0"] = setting(
        "f16", "Of a GGUF file's weights: 16, 8 or 4 bits each.", group="GGUF"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "Of the weights in a folder for transformers.", group="Hugging Face"
    )
    speed_tokens: int = setting(
        128, "Sampled one after the other, to measure speed.", unit="tokens", group=MEASURING, ge=8, le=4096
    )
    val_tokens: int = setting(
        32_768, "Validation tokens read, at most.", unit="tokens", group=MEASURING, ge=64, le=100_000_000
    )
    val_share: float = setting(
        0.05, "Share of the text that pretraining kept for validation.", group=MEASURING, gt=0, le=0.5
    )
    threads: Threads = None


def run(config: ExportConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.exchange import gguf, huggingface
    from core_ml.model import checkpoint
    from core_ml.model.device import use_threads

    yield Resumed(-1)
    use_threads(config.threads)
    source = workspace.input("checkpoint")
    manifest = source.manifest
    what = config.precision if config.format == "gguf" else config.dtype
    yield Progress(0, 3, "steps", f"writing {config.format} in {what}")
    writer = workspace.create("export", "export", name=f"{manifest.name} {what}")
    try:
        if config.format == "gguf":
            file = writer.path / f"{_file_name(manifest.name)}-{config.precision}.gguf"
            network = gguf.save(
                file, source.path, config.precision, name=manifest.name, role=manifest.role or ""
            )
        else:
            network = huggingface.save(writer.path, source, ancestors=_ancestors(source), dtype=config.dtype)
        model, tokenizer = checkpoint.load(source.path, "cpu")
        yield Progress(1, 3, "steps", "measuring the loss")
        found: dict[str, Any] = {"format": config.format, "precision": what, "network": network}
        found |= {"checkpoint": manifest.id, "role": manifest.role}
        found["n_parameters"] = manifest.summary.get("n_parameters")
        found |= {
            "bytes": _n_bytes(writer.path),
            "bytes_original": _n_bytes(source.path, "model.safetensors"),
        }
        yield Metric(1, {"bytes": found["bytes"]})
        found |= yield from _losses(config, workspace, model, tokenizer)
        yield Progress(2, 3, "steps", "measuring the speed")
        found |= _speeds(config, writer.path, model, tokenizer)
        if config.format == "gguf" and "tokens_per_second" not in found:
            yield Log("llama.cpp is not installed here (the wheel xllamacpp), so its speed is not measured.")
        found["findings"] = findings(found)
        yield workspace.made("export", writer.finish(found))
    finally:
        writer.discard()
    values: dict[str, float] = {
        name: found[name] for name in ("bits_per_byte", "tokens_per_second") if name in found
    }
    if values:
        yield Metric(3, values)
    yield _table(found)
    yield Progress(3, 3, "steps", "")
    yield Summary(found)


def findings(found: dict[str, Any]) -> list[str]:
    """What the export costs and brings, in sentences; one for each thing that was measured."""
    share = found["bytes"] / found["bytes_original"]
    told = [
        f"{found['bytes'] / 1e6:,.1f} MB, {share:.0%} of the checkpoint's {found['bytes_original'] / 1e6:,.1f} MB."
    ]
    if "bits_per_byte" in found:
        more = found["bits_per_byte"] - found["bits_per_byte_original"]
        change = "no more" if abs(more) < 5e-5 else f"{abs(more):.4f} {'more' if more > 0 else 'fewer'}"
        told.append(f"{found['bits_per_byte']:.4f} bits a byte, {change} than the checkpoint.")
    if "tokens_per_second" in found and "tokens_per_second_original" in found:
        times = found["tokens_per_second"] / found["tokens_per_second_original"]
        told.append(
            f"{found['tokens_per_second']:,.0f} tokens a second by llama.cpp, {times:.1f} times our own sampler's."
        )
    return told


def _table(found: dict[str, Any]) -> Figure:
    """The export beside the original."""
    rows: list[list[Any]] = [["Size, MB", found["bytes_original"] / 1e6, found["bytes"] / 1e6]]
    for title, name in (("Bits per byte", "bits_per_byte"), ("Tokens a second", "tokens_per_second")):
        if name in found or f"{name}_original" in found:
            rows.append([title, found.get(f"{name}_original"), found.get(name)])
    content = {"columns": ["Measure", "checkpoint", found["precision"]], "rows": rows}
    return Figure("export", 3, "Beside the checkpoint", content, " ".join(found["findings"]))


def _losses(
    config: ExportConfig, workspace: Workspace, model: "GPT", tokenizer: "Tokenizer"
) -> Generator[Event, None, dict[str, float]]:
    """Bits per byte of the checkpoint and of the weights that a reader of the files gets, on the same windows."""
    from core_ml.exchange import gguf
    from core_ml.training.evaluate import Validation
    from core_ml.training.mixture import files_of
    from core_ml.training.packing import pack
    from core_ml.training.tokens import Tokens

    if not workspace.has("documents"):
        return {}
    files = [file for documents in workspace.inputs("documents") for file in files_of(documents)]
    yield from pack(files, tokenizer, workspace.state / "tokens", config.val_share)
    seq_len = min(128, model.config.max_seq_len)
    windows = Tokens(workspace.state / "tokens", "val").spread(seq_len, config.val_tokens)
    validation = Validation(windows, tokenizer)
    original = yield from validation.measure(model)
    written = (
        gguf.as_written(model, config.precision) if config.format == "gguf" else _cast(model, config.dtype)
    )
    loss = yield from validation.measure(written)
    return {"bits_per_byte_original": round(original, 5), "bits_per_byte": round(loss, 5)}


def _cast(model: "GPT", dtype: str) -> "GPT":
    """A copy whose weights went through a type of fewer bits."""
    import copy

    import torch

    written = copy.deepcopy(model)
    with torch.no_grad():
        for weight in written.parameters():
            weight.copy_(weight.to(getattr(torch, dtype)).float())
    return written


def _speeds(config: ExportConfig, path: "Path", model: "GPT", tokenizer: "Tokenizer") -> dict[str, float]:
    """Tokens a second, one completion at a time: ours by our sampler, and a GGUF file's by llama.cpp where it is."""
    from core_ml.engine.gguf_backend import is_installed

    n = min(config.speed_tokens, model.config.max_seq_len - 2)
    if config.format != "gguf":
        return {}
    found = {"tokens_per_second_original": round(_our_speed(model, tokenizer.bos_id, n), 1)}
    if is_installed():
        found["tokens_per_second"] = round(_llama_speed(next(path.glob("*.gguf")), tokenizer.bos_id, n), 1)
    return found


def _our_speed(model: "GPT", first: int, n: int) -> float:
    """Greedy, by the sampler as the engine uses it: exact weights, one row, no token that ends the text."""
    from core_ml.sampling.generate import complete, rows_of
    from core_ml.sampling.sampler import Sampler
    from core_ml.sampling.settings import Sampling

    speeds = []
    for _ in range(2):  # the first warms up, and finds out how products are laid out best
        rows = rows_of(model, [[first]], Sampling(temperature=0), n, 0)
        began = time.perf_counter()
        n_drawn = sum(1 for _ in complete(model, rows, (), Sampler(model)))
        speeds.append(n_drawn / (time.perf_counter() - began))
    return speeds[-1]


def _llama_speed(path: "Path", first: int, n: int) -> float:
    """Greedy, with every token that would end the text kept from being said, so that all `n` come."""
    import asyncio

    from core_ml.engine.backend import Job
    from core_ml.engine.gguf_backend import GgufBackend

    async def measure() -> float:
        backend = GgufBackend(path)
        try:
            banned = tuple((id, -1e6) for id in backend.ends)
            speeds = []
            for _ in range(2):  # the first warms up
                job = Job(prompts=[[first]], max_tokens=n, temperature=0, logit_bias=banned)
                began = time.perf_counter()
                generation = await backend.start(job)
                async for _piece in generation:
                    pass
                generation.close()
                speeds.append(generation.n_completion_tokens / (time.perf_counter() - began))
            return speeds[-1]
        finally:
            backend.close()

    return asyncio.run(measure())


def _file_name(name: str) -> str:
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in name)
    return kept.strip("-.")[:60] or "model"


def _n_bytes(path: "Path", name: str = "*") -> int:
    return sum(file.stat().st_size for file in path.rglob(name) if file.is_file())


def _ancestors(source: "Folder") -> "list[Manifest]":
    """Manifests of what the checkpoint came from, nearest first, as far as they lie in the same store."""
    from core_ml.artifact import scan

    known = {folder.manifest.id: folder.manifest for folder in scan(source.path.parent.parent)}
    found: dict[str, Manifest] = {}
    ahead = [id for ids in source.manifest.origin.inputs.values() for id in ids]
    while ahead and len(found) < MOST_ANCESTORS:
        id = ahead.pop(0)
        if id in known and id not in found:
            found[id] = known[id]
            ahead += [one for ids in known[id].origin.inputs.values() for one in ids]
    return list(found.values())


def cost(config: ExportConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    n_parameters = next((one.get("n_parameters") for one in inputs.get("checkpoint", [])), None) or 1_000_000
    bits = {"f16": 16.0, "q8_0": 8.5, "q4_0": 4.5}[config.precision]
    if config.format == "huggingface":
        bits = 32.0 if config.dtype == "float32" else 16.0
    reading = 2 * config.val_tokens * 2e-11 * n_parameters if inputs.get("documents") else 0
    return Cost(
        seconds=8 + n_parameters * 1e-7 + reading,
        memory_bytes=500_000_000 + 12 * n_parameters,
        disk_bytes=int(n_parameters * bits / 8),
        facts={"bits a weight": f"{bits:g}"},
    )


RECIPE = Recipe(
    kind="export",
    title="Export",
    stage="arena",
    explanation=(
        "Writes a checkpoint as files that other programs load, and measures what fewer bits a weight cost, because "
        "a model that only its maker can run is of little use."
    ),
    config=ExportConfig,
    run=run,
    takes={
        "checkpoint": Input(
            "checkpoint", ("base", "chat", "reasoner", "aligned"), description="The model to be taken home."
        ),
        "documents": Input(
            "dataset", ("documents",), optional=True, many=True, description="Texts for bits per byte."
        ),
    },
    makes={"export": Output("export", description="The files, to be downloaded or talked to.")},
    presets=(
        Preset("f16", "GGUF, 16 bits", "As good as the checkpoint, half its size.", {"precision": "f16"}),
        Preset("q8_0", "GGUF, 8 bits", "A quarter of the size, hardly a loss.", {"precision": "q8_0"}),
        Preset(
            "q4_0", "GGUF, 4 bits", "An eighth of the size, and a loss that shows.", {"precision": "q4_0"}
        ),
        Preset(
            "huggingface", "Hugging Face", "A folder for transformers and vLLM.", {"format": "huggingface"}
        ),
    ),
    measures=(
        Measure("bits_per_byte", "Bits per byte", "bits", "lower"),
        Measure("tokens_per_second", "Speed", "tokens/s", "higher"),
        Measure("bytes", "Size", "bytes", "lower"),
    ),
    why=(
        "Why do eight bits do where training needs thirty-two?",
        "Training adds up changes far smaller than a weight, and rounding would swallow them. A trained weight is "
        "only multiplied: rounded in blocks that share a scale, its errors mostly cancel in the sums.",
        "Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339",
    ),
    cost=cost,
)
