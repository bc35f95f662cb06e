"""Low-rank adapters: nothing changes at first, only they learn, and merged they are the same network."""

import pytest
import torch

from core_ml.errors import UserError
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.training import lora
from core_ml.training.loss import backward

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_kv_head=1, d_model=32, max_seq_len=32, qkv_bias=True)


def network() -> GPT:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.1)
    return model


def test_adapters_change_nothing_at_first_and_only_they_learn() -> None:
    model, ids = network(), torch.randint(0, 40, (4, 17))
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    logits = model(ids)
    adapters = lora.adapt(model, 4, 8.0)
    assert torch.equal(model(ids), logits)
    # Two layers of four matrices, A and B of each: 4 × (rows + columns) numbers.
    shapes = [(64, 32), (32, 32), (96, 32), (32, 96)]
    assert sum(param.numel() for param in adapters) == 2 * sum(
        4 * (rows + columns) for rows, columns in shapes
    )
    optimizer = torch.optim.AdamW(adapters, 0.01)
    losses = []
    for _ in range(40):
        losses.append(backward(model, ids, 1000).item())
        optimizer.step()
        model.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in before.items())


def test_merged_it_is_the_network_it_was_adapted_from_in_shape_and_the_tuned_one_in_answers() -> None:
    model, ids = network(), torch.randint(0, 40, (2, 9))
    names = {name: param.shape for name, param in model.named_parameters()}
    for param in lora.adapt(model, 2, 4.0):
        torch.nn.init.normal_(param, std=0.1)
    tuned = model(ids)
    lora.merge(model)
    assert {name: param.shape for name, param in model.named_parameters()} == names
    torch.testing.assert_close(model(ids), tuned, atol=1e-4, rtol=1e-4)


def test_a_copy_of_the_same_tensors_stays_without_the_adapters_of_the_other() -> None:
    model, ids = network(), torch.randint(0, 40, (2, 9))
    before, base = model(ids), lora.sharing(model)
    for param in lora.adapt(model, 2, 4.0):
        torch.nn.init.normal_(param, std=0.1)
    assert torch.equal(base(ids), before) and not torch.allclose(model(ids), before, atol=1e-2)
    own, its = dict(base.named_parameters()), dict(model.named_parameters())
    assert all(its[name].data_ptr() == param.data_ptr() for name, param in own.items())
    merged = lora.merged(model)
    assert {name: param.shape for name, param in merged.named_parameters()} == {
        name: param.shape for name, param in own.items()
    }
    torch.testing.assert_close(merged(ids), model(ids), atol=1e-4, rtol=1e-4)
    assert isinstance(model.blocks[0].qkv, lora.Adapted)  # it goes on learning


def test_a_rank_that_saves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="lora_rank is 32, and the narrowest matrix of this network has 32"):
        lora.adapt(network(), 32, 8.0)
