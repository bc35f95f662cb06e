"""One more token for each row of a running batch: the network's layers, written for a single query a row.

`GPT.hidden` is the textbook twin, and a test compares the two for every kind of network. Here the time axis is
gone, the new keys are written where they stay, and what a mask hides is added to the scores by their product.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from core_ml.model.attention import capped
from core_ml.model.gpt import ACTIVATIONS, GPT, Block
from core_ml.sampling.products import Linear, Products
from core_ml.sampling.slots import Slots, Turn, append
from core_ml.sampling.trunks import Seats


class Step:
    """The network as it is now: weights that change afterwards need a new one. Products are in `dtype`."""

    compiled: "tuple[int, bool, Network] | None" = None
    """How many rows a step as one compiled graph takes, whether they share prompts, and the graph;
    `core_ml.sampling.compiled` decides."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.layers = [Layer(block, dtype) for block in model.blocks]
        head = nn.Linear(1, 1, bias=False, device="meta")
        head.weight = nn.Parameter(model.head_weight.detach(), requires_grad=False)
        self.head = Linear(head, dtype)
        self.linears = {
            (layer.number, name): getattr(layer, name)
            for layer in self.layers
            for name in ("qkv", "out", "up", "down")
        }
        self.linears[-1, "head"] = self.head
        self.products = Products(list(self.linears.values()))
        if model.config.positions == "rope":
            self.cos = torch.cat((model.cos, model.cos), -1)  # (max_seq_len, d_head)
            self.sin = torch.cat((-model.sin, model.sin), -1)

    def __call__(self, ids: list[int], slots: Slots) -> Tensor:
        """Each row's new token to the logits after it, (n, vocab_size) float32; all rows get one longer."""
        n = self.products.rows(len(ids))
        turn = slots.turn(n)
        tokens = torch.tensor(ids + [0] * (n - len(ids)), device=slots.device)
        size, shared, network = self.compiled or (0, False, Step.network)
        network = network if n == size and shared == (turn.seats is not None) else Step.network
        logits = network(self, tokens, slots.keys, slots.values, turn)
        slots.close()
        return logits[: len(ids)]

    def network(self, ids: Tensor, keys: list[Tensor], values: list[Tensor], turn: Turn) -> Tensor:
        """(n,) token ids to (n, vocab_size) logits; new keys and values are written to their places."""
        x = self.model.embed(ids[:, None], turn.positions[:, None])[:, 0]
        rotation = None
        if self.model.config.positions == "rope":
            rotation = self.cos[turn.positions, None], self.sin[turn.positions, None]
        for number, layer in enumerate(self.layers):
            x = layer(x, rotation, keys[number], values[number], turn)
        logits = self.head(self.model.norm(x).to(self.dtype)).float()
        return capped(logits, self.model.config.logit_softcap)


Rotation = tuple[Tensor, Tensor]
Network = Callable[[Step, Tensor, list[Tensor], list[Tensor], Turn], Tensor]


class Layer:
    """`Block.forward` for one new token a row."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        self.dtype, self.config = dtype, block.config
        # An adapted layer is used as what it will be when its adapter is merged.
        merged = [
            getattr(layer, "merged", lambda layer=layer: layer)()
            for layer in (block.qkv, block.out, block.up, block.down)
        ]
        self.qkv, self.out, self.up, self.down = (Linear(layer, dtype) for layer in merged)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.post_norm1, self.post_norm2 = block.post_norm1, block.post_norm2
        self.q_norm, self.k_norm = block.q_norm, block.k_norm
        self.number = block.layer
        self.turns = block.config.rotates(block.layer)
        self.windowed = block.config.window_of(block.layer) is not None

    def __call__(
        self, x: Tensor, rotation: Rotation | None, keys: Tensor, values: Tensor, turn: Turn
    ) -> Tensor:
        """x: (n, d_model); rotation: (n, 1, d_head) each; keys and values: this layer's, of all rows."""
        x = x + self.post_norm1(self.out(self.attention(self.norm1(x), rotation, keys, values, turn)))
        return x + self.post_norm2(self.feed_forward(self.norm2(x)))

    def attention(
        self, x: Tensor, rotation: Rotation | None, keys: Tensor, values: Tensor, turn: Turn
    ) -> Tensor:
        config, n = self.config, x.size(0)
        heads = self.qkv(x.to(self.dtype)).view(n, -1, config.d_head)
        qk, v = heads.split((config.n_head + config.n_kv_head, config.n_kv_head), dim=1)
        if config.qk_norm == "weighted":
            q, k = qk.split((config.n_head, config.n_kv_head), dim=1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=1)
        elif config.qk_norm:
            qk = self.q_norm(qk)
        if rotation is not None and self.turns:
            a, b = qk.chunk(2, dim=-1)
            qk = torch.addcmul(qk * rotation[0], torch.cat((b, a), dim=-1), rotation[1])
        q, k = qk.to(self.dtype).split((config.n_head, config.n_kv_head), dim=1)
        keys, values = append(keys, turn, k), append(values, turn, v)
        # Query heads that share a key head are rows of one product.
        q = q.reshape(n * config.n_kv_head, -1, config.d_head)
        scores = self.scores(torch.bmm(q, keys.mT), turn.windowed if self.windowed else turn.bias)
        if turn.seats is None:
            weights = scores.softmax(-1, dtype=torch.float32).to(self.dtype)
            return torch.bmm(weights, values).reshape(n, -1)
        return self.branching(q, scores, values, turn.seats).reshape(n, -1)

    def branching(self, q: Tensor, scores: Tensor, values: Tensor, seats: Seats) -> Tensor:
        """Attention to a prompt that several rows share and to what each has written: one softmax over both."""
        shared = self.scores(seats.product(q, seats.keys[self.number], turned=True), seats.bias)
        both = torch.cat((shared, scores), dim=-1)
        weights = both.softmax(-1, dtype=torch.float32).to(self.dtype)
        of_shared, of_own = weights.split((shared.size(-1), scores.size(-1)), dim=-1)
        return torch.bmm(of_own, values) + seats.product(of_shared, seats.values[self.number])

    def scores(self, products: Tensor, bias: Tensor) -> Tensor:
        """(B, g, S) of queries with keys, scaled and capped; what is hidden comes far below all others."""
        cap = self.config.attention_softcap
        if cap is None:
            # Not `baddbmm`, which first writes the bias out for every row: that took twice as long.
            return torch.add(bias, products, alpha=self.config.scale)
        return cap * torch.tanh(products * (self.config.scale / cap)) + bias

    def feed_forward(self, x: Tensor) -> Tensor:
        inner, activate = self.up(x.to(self.dtype)), ACTIVATIONS[self.config.activation]
        if self.config.gated:
            gate, inner = inner.chunk(2, dim=-1)
            return self.down(activate(gate) * inner)
        return self.down(activate(inner))
