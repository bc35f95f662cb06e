"""Networks that the world publishes: their `config.json` as ours, their tensors as ours, and back.

No code that comes with a model is run, and no torch is imported. Whether a network of ours is one of a family is
not declared anywhere: it is when its settings, written as that family's, read back as the same network.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from core_ml.errors import UserError
from core_ml.model import family_settings as settings
from core_ml.model import family_tensors as tensors
from core_ml.model.config import GPTConfig
from core_ml.model.family_settings import FLOAT32_ROUNDING, Fields
from core_ml.model.family_tensors import Layout

__all__ = ["FAMILIES", "Family", "read", "released", "spelled_out", "write"]


@dataclass(frozen=True)
class Family:
    """`read` takes the settings of a `config.json` to ours, `write` back; `layout` tells where tensors lie."""

    name: str
    architecture: str
    read: Callable[[Fields], Fields]
    write: Callable[[GPTConfig], Fields]
    layout: Callable[[GPTConfig], Layout]
    prefix: str = "model."
    """What names lack in a folder that was saved without the head."""


# In the order in which a network is tried that is several of them.
FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "LlamaForCausalLM", settings.read_llama, settings.write_llama, tensors.llama),
        Family("mistral", "MistralForCausalLM", settings.read_mistral, settings.write_mistral, tensors.llama),
        Family("qwen2", "Qwen2ForCausalLM", settings.read_qwen2, settings.write_qwen2, tensors.llama),
        Family("qwen3", "Qwen3ForCausalLM", settings.read_qwen3, settings.write_qwen3, tensors.llama),
        Family("smollm3", "SmolLM3ForCausalLM", settings.read_smollm3, settings.write_smollm3, tensors.llama),
        Family("gemma2", "Gemma2ForCausalLM", settings.read_gemma2, settings.write_gemma2, tensors.gemma2),
        Family(
            "nanochat",
            "NanoChatForCausalLM",
            settings.read_nanochat,
            settings.write_nanochat,
            tensors.nanochat,
        ),
        Family(
            "gpt2",
            "GPT2LMHeadModel",
            settings.read_gpt2,
            settings.write_gpt2,
            tensors.gpt2,
            prefix="transformer.",
        ),
    )
}


def read(fields: Fields) -> tuple[Family, GPTConfig]:
    """The family and the network of a `config.json`. Raises UserError for what is not covered, by its name."""
    kind = fields.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UserError(f"models of type {str(kind)[:60]!r} are not covered: {', '.join(FAMILIES)} are")
    architectures = fields.get("architectures") or [family.architecture]
    if architectures != [family.architecture]:
        raise UserError(f"{str(architectures)[:120]} is not covered: {family.architecture} is")
    for name, what in (("auto_map", "code of its own"), ("quantization_config", "quantized weights")):
        if fields.get(name):
            raise UserError(f"config.json sets {name}: {what} cannot be read")
    try:
        return family, GPTConfig(**family.read(fields))
    except KeyError as error:
        raise UserError(f"config.json lacks {error.args[0]!r}") from None
    except ValidationError as error:
        first = error.errors()[0]
        text = ": ".join((*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")))
        raise UserError(f"config.json describes no network that fits here: {text}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"config.json is damaged: a setting is not of its kind ({str(error)[:200]})"
        ) from None


def released(name: str, sizes: GPTConfig) -> GPTConfig:
    """A network of these sizes that is in everything else as the family's own release.

    Norms, activation, positions, windows, caps, biases and, where the release ties them, head and embedding are the
    family's; a family without shared key-value heads has as many as heads.
    """
    return GPTConfig(**FAMILIES[name].read(settings.released(name, sizes)))


def write(config: GPTConfig, preferred: str | None = None) -> tuple[Family, Fields]:
    """The family that has exactly this network, `preferred` if it can be, and the network's `config.json`.

    Raises: UserError that names the settings which keep it from the family that is nearest.
    """
    wanted = spelled_out(config)
    nearest, obstacles = "", list(wanted)
    for family in sorted(FAMILIES.values(), key=lambda family: family.name != preferred):
        fields = {"architectures": [family.architecture], "model_type": family.name} | family.write(config)
        try:
            found = spelled_out(GPTConfig(**family.read(fields)))
        except (UserError, ValueError):
            continue
        differing = [name for name in wanted if wanted[name] != found[name]]
        if not differing:
            return family, fields
        if len(differing) < len(obstacles):
            nearest, obstacles = family.name, differing
    named = ", ".join(f"{name} = {wanted[name]}"[:100] for name in obstacles)
    raise UserError(
        f"no published family has this network: {nearest}, the nearest, is without {named}",
        field="checkpoint",
    )


def spelled_out(config: GPTConfig) -> Fields:
    """The settings without defaults and without those that do nothing: equal for equal networks."""
    windows = [config.window_of(layer) for layer in range(config.n_layer)]
    rope = config.positions == "rope"
    return config.model_dump() | {
        "head_width": config.d_head,
        "attention_scale": config.scale,
        "window": config.window if any(windows) else None,
        "window_pattern": tuple(window is not None for window in windows),
        "rope_theta": config.rope_theta if rope else None,
        "rope_scaling": config.rope_scaling if rope else None,
        "rope_pattern": tuple(config.rotates(layer) for layer in range(config.n_layer)),
        "norm_bias": config.norm_bias and config.norm_weight is not None,
        "norm_eps": config.norm_eps or FLOAT32_ROUNDING,
        "ff_mult": None,
        "ff_width": config.d_ff,
    }
