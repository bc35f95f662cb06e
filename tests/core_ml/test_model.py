"""The network against a slow implementation with explicit loops, and its sizes against counting."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from core_ml.model.attention import WRITTEN_OUT_UP_TO, attend
from core_ml.model.gpt import GPT, Cache, GPTConfig, rotary, rotate

CONFIG = GPTConfig(vocab_size=50, n_layer=2, n_head=4, n_kv_head=2, d_model=32, ff_mult=2, max_seq_len=40)


def network(config: GPTConfig = CONFIG) -> GPT:
    """Every weight random: the zeros of initialization would hide what they multiply."""
    torch.manual_seed(0)
    model = GPT(config)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3)
    return model


def slow_logits(model: GPT, ids: list[int]) -> torch.Tensor:
    """One token at a time, one head at a time, in float64."""
    config, weights = model.config, {name: w.double() for name, w in model.state_dict().items()}
    d_head = config.d_head

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean() + torch.finfo(torch.float32).eps)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        out = torch.empty_like(x)
        for i in range(d_head // 2):
            angle = position / config.rope_theta ** (2 * i / d_head)
            a, b = x[i], x[i + d_head // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + d_head // 2] = a * math.sin(angle) + b * math.cos(angle)
        return out

    xs = [norm(weights["embedding.weight"][id]) for id in ids]
    for layer in range(config.n_layer):
        w = {name: weights[f"blocks.{layer}.{name}.weight"] for name in ("qkv", "out", "up", "down")}
        heads = [(w["qkv"] @ norm(x)).view(-1, d_head) for x in xs]
        after = []
        for t, x in enumerate(xs):
            outputs = []
            for h in range(config.n_head):
                shared = h // (config.n_head // config.n_kv_head)
                q = turned(norm(heads[t][h]), t)
                scores = torch.stack(
                    [
                        q @ turned(norm(heads[s][config.n_head + shared]), s) / d_head**0.5
                        for s in range(t + 1)
                    ]
                )
                values = [heads[s][config.n_head + config.n_kv_head + shared] for s in range(t + 1)]
                outputs.append(sum(p * v for p, v in zip(scores.softmax(0), values, strict=True)))
            x = x + w["out"] @ torch.cat(outputs)
            after.append(x + w["down"] @ (w["up"] @ norm(x)).clamp(min=0) ** 2)
        xs = after
    head = weights["embedding.weight"] if config.tie_embeddings else weights["head.weight"]
    return torch.stack([head @ norm(x) for x in xs])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_it_computes_what_explicit_loops_compute(n_kv_head: int, tied: bool) -> None:
    model = network(CONFIG.model_copy(update={"n_kv_head": n_kv_head, "tie_embeddings": tied}))
    ids = [3, 14, 15, 9, 26, 5, 3]
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.tensor([ids]))[0], slow_logits(model, ids).float(), atol=2e-4, rtol=1e-3
        )


def test_written_out_attention_agrees_with_the_fused_kernel() -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, mask, 8**-0.5), fused, atol=1e-5, rtol=1e-4)


def test_long_contexts_take_the_fused_kernel_to_the_same_result() -> None:
    length = WRITTEN_OUT_UP_TO + 8
    model = network(CONFIG.model_copy(update={"n_layer": 1, "max_seq_len": length}))
    ids = torch.randint(0, 50, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        long, short = model(ids), model(ids[:, :WRITTEN_OUT_UP_TO])
    torch.testing.assert_close(long[:, :WRITTEN_OUT_UP_TO], short, atol=2e-4, rtol=1e-3)


def test_a_later_token_changes_nothing_before_it() -> None:
    model = network()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    changed = torch.tensor([[1, 2, 3, 4, 9]])
    with torch.no_grad():
        first, second = model(ids), model(changed)
    assert torch.equal(first[:, :4], second[:, :4])
    assert not torch.equal(first[:, 4], second[:, 4])


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary(32, 8, 10_000.0)
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(a: int, b: int) -> float:
        return (rotate(q, cos[a], sin[a]) * rotate(k, cos[b], sin[b])).sum().item()

    assert score(7, 3) == pytest.approx(score(20, 16), abs=1e-5)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-3)


def test_a_cache_read_token_by_token_gives_the_logits_of_one_pass() -> None:
    model, ids = network(), torch.tensor([[3, 1, 4, 1, 5, 9]])
    cache = Cache(model, 1, 6)
    with torch.no_grad():
        steps = [model.hidden(ids[:, t : t + 1], cache=cache) for t in range(6)]
        torch.testing.assert_close(model.logits(torch.cat(steps, 1)), model(ids), atol=1e-4, rtol=1e-4)


def test_the_untrained_network_predicts_every_token_alike() -> None:
    torch.manual_seed(0)
    assert torch.count_nonzero(GPT(CONFIG)(torch.tensor([[1, 2, 3]]))) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_the_config_counts_the_parameters_that_the_network_has(tied: bool) -> None:
    config = CONFIG.model_copy(update={"tie_embeddings": tied, "value_head": True})
    assert config.n_parameters == sum(param.numel() for param in GPT(config).parameters())
    # By hand, untied: embedding and head 2·50·32; a block: qkv (4 + 2·2)·8·32, out 32·32, up and down 2·64·32.
    assert CONFIG.n_parameters == 3200 + 2 * (2048 + 1024 + 4096)


def test_a_value_head_begins_at_zero_and_keeps_the_rest() -> None:
    model = network()
    scored = model.with_value_head()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(scored(ids), model(ids))
        assert scored.value(scored.hidden(ids)[:, -1]).tolist() == [0.0]
    with pytest.raises(ValueError, match="no value head"):
        model.value(model.hidden(ids)[:, -1])


def test_more_tokens_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="max_seq_len 40"):
        network()(torch.zeros(1, 41, dtype=torch.long))


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"d_model": 30}, r"d_model 30 must be a multiple of n_head 4: try 3[26]|try 28"),
        ({"d_model": 20}, "rotary positions need an even number"),
        ({"n_kv_head": 3}, "n_head 4 must be a multiple of n_kv_head 3"),
    ],
)
def test_sizes_that_do_not_divide_are_told_with_a_mend(sizes: dict[str, int], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        GPTConfig(**{**CONFIG.model_dump(), **sizes})
