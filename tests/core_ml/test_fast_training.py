"""The quick ways of training beside their textbook twins: the same losses, the same gradients."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from core_ml.model.attention import CausalAttention, blocks, written_out
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.training import fast
from core_ml.training.linear_loss import CHUNK, linear_nll, nll
from core_ml.training.loss import backward, masked_backward, shapes_of_passes

GPT2 = GPTConfig(
    vocab_size=60,
    n_layer=2,
    d_model=32,
    n_head=2,
    n_kv_head=2,
    max_seq_len=96,
    qk_norm=None,
    positions="learned",
    norm="layer",
    norm_weight="plain",
    embedding_norm=False,
    activation="gelu",
    tie_embeddings=True,
)
OURS = GPTConfig(vocab_size=60, n_layer=2, d_model=32, n_head=4, n_kv_head=2, max_seq_len=96)


def network(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.2)
    return model


@pytest.mark.parametrize("T", [1, 7, 64, 97, 130])
def test_causal_attention_has_the_values_and_gradients_of_the_textbook(T: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, T, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = torch.randn(2, 3, T, 8, dtype=torch.float64)
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    wanted = written_out(q, k, v, mask, 8**-0.5)
    wanted_grads = torch.autograd.grad((wanted * weight).sum(), (q, k, v))
    ours = CausalAttention.apply(q, k, v, 8**-0.5)
    grads = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)
    for grad, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, other, atol=1e-6, rtol=1e-5)


def test_blocks_of_rows_cover_every_row_once() -> None:
    for T in (1, 63, 64, 65, 128, 511):
        spans = blocks(T)
        assert [row for begin, end in spans for row in range(begin, end)] == list(range(T))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_loss_in_chunks_has_the_values_and_gradients_of_cross_entropy(softcap: float | None) -> None:
    torch.manual_seed(0)
    n = CHUNK + 37
    hidden = torch.randn(n, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    targets, weights = torch.randint(0, 50, (n,)), torch.rand(n)
    logits = F.linear(hidden, weight)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    each = F.cross_entropy(logits, targets, reduction="none")
    wanted = (each * weights).sum()
    wanted_grads = torch.autograd.grad(3 * wanted, (hidden, weight))
    ours = linear_nll(hidden, weight, targets, weights, softcap)
    grads = torch.autograd.grad(3 * ours, (hidden, weight))
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(nll(hidden, weight, targets, softcap), each, atol=1e-5, rtol=1e-5)
    for grad, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, other, atol=1e-4, rtol=1e-4)


def test_a_target_that_is_nearly_certain_loses_no_digits() -> None:
    """p - 1 near p = 1 cancels; the gradient of the target must stay the sum of the others."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[20.0], [0.0]], requires_grad=True)
    loss = linear_nll(hidden, weight, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-20)), abs=1e-7)


@pytest.mark.parametrize("config", [GPT2, OURS], ids=["gpt2", "ours"])
def test_compiled_blocks_give_the_loss_and_gradients_of_plain_ones(config: GPTConfig) -> None:
    model = network(config)
    ids = torch.randint(0, 60, (3, 65), generator=torch.Generator().manual_seed(1))
    found = []
    for compiled in (False, True):
        model.zero_grad()
        if compiled:
            fast.compile_blocks(model)
        assert fast.is_compiled(model) == compiled
        loss = backward(model, ids, 1000)
        found.append((loss.item(), torch.cat([param.grad.flatten() for param in model.parameters()])))
    fast.release(model)
    assert not fast.is_compiled(model)
    assert found[0][0] == pytest.approx(found[1][0], rel=2e-3)
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.999


@pytest.mark.parametrize("recomputed", [False, True])
def test_compiled_packed_rows_give_the_loss_and_gradients_of_plain_ones(
    recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(OURS)
    draws = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 60, (4, 65), generator=draws)
    mask = torch.rand(4, 65, generator=draws) < 0.5
    segments = torch.rand(4, 65, generator=draws).lt(0.1).cumsum(1)
    shapes, block = [], fast._compiled_block()

    def counted(own: Any, x: torch.Tensor, *rest: Any) -> Any:
        shapes.append(tuple(x.shape[:2]))
        return block(own, x, *rest)

    monkeypatch.setattr(fast, "_compiled_block", lambda: counted)
    if recomputed:
        fast.recompute_blocks(model)
    found = []
    for compiled in (False, True):
        if compiled:
            shapes_known = shapes_of_passes(ids[:3], 3 * 64) | shapes_of_passes(ids[:3], 2 * 64)
            assert shapes_known == {(3, 64), (2, 64), (1, 64)}
            fast.compile_blocks(model, frozenset({(3, 64)}))
        for rows in (3, 4):  # four rows are two passes of two, for which there is no graph
            model.zero_grad()
            loss = masked_backward(model, ids[:rows], mask[:rows], 100, segments[:rows], 3 * 64)
            grads = [param.grad.flatten() for param in model.parameters() if param.grad is not None]
            found.append((loss.item(), torch.cat(grads)))
    # What is recomputed goes through a block twice.
    assert shapes == [(3, 64)] * model.config.n_layer * (1 + recomputed)
    for plain, fused in zip(found[:2], found[2:], strict=True):
        assert plain[0] == pytest.approx(fused[0], rel=2e-3)
        assert torch.cosine_similarity(plain[1], fused[1], dim=0) > 0.999
    fast.release(model)
    assert not fast.is_compiled(model) and fast.is_recomputed(model) == recomputed


def test_recomputed_blocks_give_the_same_gradients_and_keep_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(OURS)
    ids = torch.randint(0, 60, (3, 65), generator=torch.Generator().manual_seed(1))
    found, kept = [], []
    for recomputed in (False, True):
        model.zero_grad()
        if recomputed:
            fast.recompute_blocks(model)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.hidden(ids)
        kept.append(sum(sizes))
        loss = backward(model, ids, 1000)
        found.append((loss.item(), [param.grad.clone() for param in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert kept[1] < kept[0] / 3
    fast.compile_blocks(model)
    assert fast.is_compiled(model) and fast.is_recomputed(model)
    fast.release(model)
    assert not fast.is_compiled(model) and fast.is_recomputed(model)


def test_a_short_run_is_not_compiled_and_a_choice_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(OURS)
    passes = []

    def one_pass() -> None:
        passes.append(fast.is_compiled(model))

    assert not fast.pays(model, one_pass, (3, 9), steps=3)
    assert passes == [False] * 4
    # So long a run that even a pass that takes no time at all is worth a probe.
    monkeypatch.setattr(fast, "LIKELY_COMPILING", 0.0)
    answer = fast.pays(model, one_pass, (3, 9), steps=10**12)
    assert True in passes and not fast.is_compiled(model)
    n = len(passes)
    assert fast.pays(model, one_pass, (3, 9), steps=10**12) == answer
    assert len(passes) == n
