import pytest
import torch

from core_ml.model import device


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32 on every machine, so that differences are of the arithmetic and not of its rounding."""
    monkeypatch.setattr(device, "_precision", torch.float32)
