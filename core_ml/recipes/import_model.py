"""Bring in a model that others have published, from a folder on the server or from the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from core_ml.config import RecipeConfig, setting
from core_ml.errors import UserError
from core_ml.events import Event, Progress, Resumed, Summary
from core_ml.recipe import Output, Preset, Recipe
from core_ml.workspace import Workspace

HUB_ID = r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$"


class ImportModelConfig(RecipeConfig):
    """One of `path` and `hub`; a run with neither says so."""

    path: str | None = setting(
        None,
        "A model folder on the server, in an allowed folder: config.json, safetensors and tokenizer.json.",
        max_length=1000,
    )
    hub: str | None = setting(
        None, 'Id of a model on the Hugging Face hub, "owner/name".', pattern=HUB_ID, max_length=200
    )
    revision: str = setting(
        "main",
        "Branch, tag or commit on the hub.",
        group="Hub",
        pattern=r"^[A-Za-z0-9][\w./-]{0,99}$",
    )
    role: Literal["base", "chat"] = setting(
        "base",
        "What it is to be here: a base model completes text, a chat model answers in its own protocol.",
    )
    chat_tokens: bool = setting(
        False,
        "Give a base model the tokens of the lab's chat protocol, so that it can be fine-tuned here. Its "
        "vocabulary grows where it has no room for them.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.hub is not None:
            raise ValueError("path and hub are both given: leave one of them out")
        return self


def run(config: ImportModelConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.exchange.incoming import bring_in

    yield Resumed(-1)
    if config.hub is not None:
        yield Progress(0, 2, "steps", f"downloading {config.hub}")
        folder = workspace.state / "hub"
        source = f"{config.hub}@{download(config.hub, config.revision, folder)}"
        name = config.hub.partition("/")[2]
    else:
        if config.path is None:
            raise UserError("name a folder on the server or a model of the hub", field="path")
        folder = Path(config.path)
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder on this machine: name a model's folder", field="path")
        source, name = str(folder), folder.name
    yield Progress(1, 2, "steps", "reading weights")
    writer = workspace.create("checkpoint", "checkpoint", role=config.role, name=name[:100] or workspace.name)
    try:
        summary = bring_in(folder, writer.path, config.role, config.chat_tokens)
        yield workspace.made("checkpoint", writer.finish({**summary, "source": source}))
    finally:
        writer.discard()
    yield Progress(2, 2, "steps", "")
    yield Summary({**summary, "source": source})


def download(id: str, revision: str, target: Path) -> str:
    """Fetch the files of a model on the hub that are read here; a download that was cut off goes on.

    Returns: the commit that `revision` stands for.
    Raises: UserError, in one sentence, where the hub cannot be reached or has no such model.
    """
    from huggingface_hub import HfApi, errors

    from core_ml.exchange.incoming import READ

    hub = HfApi()
    try:
        # Asked first: a download of what is not there would look like a hub that cannot be reached.
        commit = str(hub.model_info(id, revision=revision).sha)
        hub.snapshot_download(id, revision=commit, local_dir=target, allow_patterns=list(READ))
    except errors.GatedRepoError:
        raise UserError(
            f"{id} is given only to those who have accepted its licence on the hub", field="hub"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise UserError(
            f"the hub has no model {id} at {revision}, or not for everybody", field="hub"
        ) from None
    except (
        errors.HfHubHTTPError,
        errors.HTTPError,
        errors.LocalEntryNotFoundError,
        ConnectionError,
    ) as error:
        raise UserError(
            f"the Hugging Face hub cannot be reached from this machine ({type(error).__name__}): bring {id} here "
            "as a folder and import that",
            field="hub",
        ) from None
    return commit


RECIPE = Recipe(
    kind="import_model",
    title="Import a model",
    stage="base",
    explanation=(
        "Brings in a network that others have trained (GPT-2, Llama, Mistral, Qwen 2 and 3, Gemma 2, SmolLM3, "
        "nanochat), because much can be learned from a model that no single machine could pretrain."
    ),
    config=ImportModelConfig,
    run=run,
    makes={"checkpoint": Output("checkpoint", description="The model, as if it had been trained here.")},
    presets=(
        Preset("base", "Base model", "To be completed, examined and fine-tuned."),
        Preset("chat", "Chat model", "To be talked to in the protocol that it was taught.", {"role": "chat"}),
    ),
    why=(
        "Why can a stranger's model be opened here without fear?",
        "Only numbers, settings and a table of tokens are read; no code that comes with it runs, which older "
        "formats of weights allow. Each tensor must have the shape that the settings say before it is read.",
        "Trail of Bits 2023, safetensors security audit",
    ),
)
