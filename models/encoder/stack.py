"""The layers of a BERT-like encoder over texts that are packed end to end: no padding is computed.

Every matrix works on all texts at once; only attention is told where one ends. Where a classifier reads the first token
of each text, the last layer computes no other.
"""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from models.encoder.batches import FINE, sizes
from models.encoder.kernels import Dense, Norm, Numerics, States
from models.encoder.sequences import ALIGNED, Runs, SequenceBounds


class Names(NamedTuple):
    """Where a family keeps its layers, and the parts of one."""

    layers: str
    query: str
    key: str
    value: str
    mix: str
    middle: str
    up: str
    activation: str
    down: str
    end: str


BERT: Final = Names(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    mix="attention.output.dense",
    middle="attention.output.LayerNorm",
    up="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    down="output.dense",
    end="output.LayerNorm",
)
"""And what copied it: RoBERTa, XLM-R, CamemBERT, ELECTRA, MiniLM, ..."""

DISTILBERT: Final = Names(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    mix="attention.out_lin",
    middle="sa_layer_norm",
    up="ffn.lin1",
    activation="ffn.activation",
    down="ffn.lin2",
    end="output_layer_norm",
)


class Stack(nn.Module):
    """Stands in a transformers model for its encoder, and returns what that would: states (1, T, E).

    With `first`, of each text only the first token's: (B rounded up, 1, E). Sums over layers and norms stay in float32:
    in bfloat16 they would move four times as many tiers.
    """

    def __init__(self, base: Any, names: Names, how: Numerics, *, first: bool) -> None:
        """Raises `ValueError`, `AttributeError` or `TypeError` for layers of another shape than `names` says."""
        super().__init__()
        *layers, last = base.get_submodule(names.layers)
        heads = base.config.num_attention_heads
        self._width, self._dtype, self._first = base.config.hidden_size, how.dtype, first
        self.step = ALIGNED if how.dtype == torch.bfloat16 else 1
        self._layers = [Layer(layer, names, heads, how) for layer in layers]
        self._layers.append((LastLayer if first else Layer)(last, names, heads, how))

    def forward(
        self, hidden_states: Tensor, bounds: SequenceBounds, **_: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """(1, T, E) and where the texts stand in it; T may go on beyond the last text."""
        x = self._both(hidden_states[0])
        for layer in self._layers:
            x = layer(x, bounds)
        states: Any = x.exact[:, None] if self._first else x.exact[None]  # the annotation is narrower than the use
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)

    def warm(self, most: int) -> None:
        """Let oneDNN prepare its kernels for every number of rows up to `most`; the layers share them."""
        for rows in sizes(most):
            for layer in (self._layers[0], self._layers[-1]):
                layer(self._both(torch.zeros(rows, self._width)), Runs.of([FINE] * (rows // FINE)))

    def _both(self, x: Tensor) -> States:
        return States(x, x.to(self._dtype))


class Layer:
    """One layer over T tokens of all texts; `heads` H of size D, hidden size E = H D."""

    def __init__(self, layer: nn.Module, names: Names, heads: int, how: Numerics) -> None:
        _check(layer, names)
        at: Any = layer.get_submodule
        dtype, fused = how
        self._heads = heads
        self._qkv = Dense(*(at(name) for name in (names.query, names.key, names.value)), dtype=dtype)
        self._mix, self._middle = Dense(at(names.mix), dtype=dtype), Norm(at(names.middle), fused=fused)
        self._up, self._activation = Dense(at(names.up), dtype=dtype), at(names.activation)
        self._down, self._end = Dense(at(names.down), dtype=dtype), Norm(at(names.end), fused=fused)
        self._gelu = fused and isinstance(self._activation, GELUActivation)

    def __call__(self, x: States, bounds: SequenceBounds) -> States:
        """(T, E) → (T, E)."""
        q, k, v = self._qkv(x.rounded).chunk(3, dim=-1)  # each (T, E)
        return self._rest(bounds.attend(q, k, v, self._heads), x)

    def _rest(self, mixed: Tensor, x: States) -> States:
        x = self._middle(self._mix(mixed), x.exact)
        wide = self._up.gelu(x.rounded) if self._gelu else self._activation(self._up(x.rounded))
        return self._end(self._down(wide), x.exact)


class LastLayer(Layer):
    """The same for the first token of each text alone: it asks, all tokens answer."""

    def __init__(self, layer: nn.Module, names: Names, heads: int, how: Numerics) -> None:
        super().__init__(layer, names, heads, how)
        at: Any = layer.get_submodule
        self._query = Dense(at(names.query), dtype=how.dtype)
        self._qkv = Dense(at(names.key), at(names.value), dtype=how.dtype)

    def __call__(self, x: States, bounds: SequenceBounds) -> States:
        """(T, E) → (B rounded up, E)."""
        asking = States(*map(bounds.firsts, x))  # (B', E)
        q, (k, v) = self._query(asking.rounded), self._qkv(x.rounded).chunk(2, dim=-1)
        return self._rest(bounds.attend_first(q, k, v, self._heads), asking)


def _check(layer: nn.Module, names: Names) -> None:
    """Raise `ValueError` if a layer holds weights that are not named: it computes something else."""
    known = sum(p.numel() for name in names[1:] for p in layer.get_submodule(name).parameters())
    if known != sum(p.numel() for p in layer.parameters()):
        raise ValueError("they hold further weights")
