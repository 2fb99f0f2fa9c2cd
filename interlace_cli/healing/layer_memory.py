"""What autograd keeps of a decoder layer, in bytes, operation by operation. `memory_need.py` walks through them.

A layer is RMSNorm, query/key/value, norm of queries and keys (Qwen3), rotary, attention, output projection, RMSNorm,
gate and up, activation, down. Under autocast in 16 bits:

- RMSNorm computes in float32 and keeps its input so. A tuned one also keeps the normalized state, for its weight.
- A linear layer keeps its weight, which is there anyway; a tuned one keeps its input too. Autocast casts float32
  weights to 16 bits, once for each forward, and the casts are kept. A tuned norm's output is float32, so each linear
  layer behind it keeps a cast of its own.
- Attention keeps q, k, v, its output, and the log of each row's sum of exponentials (flash or memory-efficient kernels:
  nothing that grows with the square of a sample). A mask over the whole row is [N, N].
- The activation keeps gate's output; the product keeps the activated gate and up.

Shape legend: H hidden size, A query heads x head dimension, C key heads x head dimension, I intermediate size (of the
experts that a token uses), e bytes of an element. All sizes are for one token, but for parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from interlace_cli.domain.model import LayerWidths


@dataclass(frozen=True)
class Operation:
    """One operation. Bytes for a token: `kept` from its forward to its backward; `forward` and `backward`, what else is
    alive while the one or the other runs. `parameters` train in it, `largest` in one tensor at most; of the parameters
    `is_cast` says that autocast keeps them in 16 bits."""

    kept: float
    forward: float
    backward: float
    parameters: int = 0
    largest: int = 0
    is_cast: bool = False


@dataclass(frozen=True)
class _Layer:
    """What decides a layer's operations. `parameters`: those that train."""

    widths: LayerWidths
    parameters: int
    element: int
    is_tuned: bool
    is_cast: bool

    @property
    def is_wide(self) -> bool:
        """Whether a norm multiplies by float32 weights what is computed in 16 bits."""
        return self.is_tuned and self.element < 4

    @property
    def wide(self) -> int:
        """Bytes of an element that a norm gives."""
        return 4 if self.is_wide else self.element


def list_operations(
    widths: LayerWidths, parameters: int, element: int, is_tuned: bool, has_masters: bool, is_first: bool
) -> list[Operation]:
    """The operations of a layer of `parameters` parameters, in the order of the forward. `element` is the bytes of an
    element in the forward; norms of a tuned layer are float32, and its matrices too where `has_masters`; `is_first`: no
    gradient goes below this layer."""
    layer = _Layer(widths, parameters if is_tuned else 0, element, is_tuned, is_tuned and has_masters and element < 4)
    projections = widths.hidden * (2 * widths.query + 2 * widths.key_value) if is_tuned else 0
    first = _norm(layer, widths.hidden)
    return [
        replace(first, kept=first.kept - 4 * widths.hidden) if is_first else first,
        *_list_attention(layer),
        _norm(layer, widths.hidden),
        *_list_mlp(layer, max(layer.parameters - projections, 0)),
    ]


def _norm(layer: _Layer, width: int) -> Operation:
    e = layer.element
    return Operation(
        kept=4 * width + layer.is_tuned * e * width,
        forward=8 * width,
        backward=20 * width + e * layer.widths.hidden,
    )


def _list_attention(layer: _Layer) -> list[Operation]:
    h, a, c, e = layer.widths.hidden, layer.widths.query, layer.widths.key_value, layer.element
    projections = Operation(
        kept=layer.is_tuned * (3 if layer.is_wide else 1) * e * h + e * c,
        forward=layer.wide * h + e * (a + c),
        backward=e * (a + 2 * c) + 2 * e * h + 2 * layer.wide * h,
        parameters=layer.is_tuned * h * (a + 2 * c),
        largest=layer.is_tuned * h * a,
        is_cast=layer.is_cast,
    )
    attention = Operation(
        kept=e * (2 * a + c) + 4 * layer.widths.heads,
        forward=e * a + 3 * layer.wide * a,
        backward=e * (h + a) + 3 * layer.wide * (a + c),
    )
    output = Operation(
        kept=layer.is_tuned * e * a,
        forward=e * (a + h),
        backward=e * (h + 2 * a),
        parameters=layer.is_tuned * a * h,
        largest=layer.is_tuned * a * h,
        is_cast=layer.is_cast,
    )
    return [projections, *([_norm(layer, a + c)] if layer.widths.has_query_norm else []), attention, output]


def _list_mlp(layer: _Layer, parameters: int) -> list[Operation]:
    h, i, e, is_gated = layer.widths.hidden, layer.widths.intermediate, layer.element, layer.widths.is_gated
    matrices = 2 if is_gated else 1
    down = parameters // (matrices + 1)
    up = Operation(
        kept=layer.is_tuned * (matrices if layer.is_wide else 1) * e * h + matrices * e * i,
        forward=layer.wide * h + e * i,
        backward=matrices * e * i + 2 * e * h + 2 * layer.wide * h,
        parameters=parameters - down,
        largest=down,
        is_cast=layer.is_cast,
    )
    activation = Operation(kept=is_gated * e * i, forward=e * i, backward=3 * e * i + e * h)
    last = Operation(
        kept=layer.is_tuned * e * i,
        forward=e * (h + i),
        backward=e * (i + 2 * h),
        parameters=down,
        largest=down,
        is_cast=layer.is_cast,
    )
    return [up, activation, last]
