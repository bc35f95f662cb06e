"""Folders of models from elsewhere, and the recipe that brings one in."""

from pathlib import Path

import transformers

from core_ml import artifact
from core_ml.events import Resumed, Summary
from core_ml.recipes.import_model import ImportModelConfig, run
from tests.core_ml import published
from tests.core_ml.models import workspace
from tests.core_ml.test_protocol import FOREIGN, theirs


def folder(
    path: Path, template: str | None, name: str = "qwen2", **sizes: int
) -> transformers.PreTrainedModel:
    """A model with its tokenizer, as a lab publishes them; its network has rows for 5 tokens that there are not."""
    model = published.make(name, **{"vocab_size": FOREIGN.vocab_size + 5, **sizes})
    model.save_pretrained(path)
    tokenizer = theirs(template)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(path)
    return model


def bring(place: Path, **config: object) -> artifact.Folder:
    events = list(run(ImportModelConfig(**config), workspace(place, {})))
    assert events[0] == Resumed(-1)
    assert isinstance(events[-1], Summary)
    return artifact.Folder(place / "out" / "checkpoint")
