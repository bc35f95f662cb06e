from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch

from core_ml.model import device
from tests.engines import KEY, running, write_checkpoint


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32 on every machine, so that differences are of the arithmetic and not of its rounding."""
    monkeypatch.setattr(device, "_precision", torch.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts that an engine serves: a chat model, a reward model, and two base models of one name."""
    root = tmp_path_factory.mktemp("engine")
    write_checkpoint(root)
    write_checkpoint(root, "bbbb2222", name="scorer", role="reward")
    write_checkpoint(root, "cccc3333", name="twin", role="base", seed=1)
    write_checkpoint(root, "dddd4444", name="twin", role="base", seed=2)
    return root


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    """Of an engine that serves `root`, whichever a file has."""
    with running(root) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client
