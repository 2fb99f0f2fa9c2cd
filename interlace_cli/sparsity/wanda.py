"""Wanda: in each group, the weights with the smallest |weight| x |input| are dropped, where |input| is the norm of the
weight's input over all calibration tokens (Sun et al. 2023, arXiv 2306.11695, section 3).

Layers are pruned from first to last. A layer's inputs come from the layers before it, pruned already; its own input
norms are measured before it is pruned. Only the hidden states that enter one layer are held.

Shape legend: B samples, T tokens, H hidden size, O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.domain.progress import Advance
from interlace_cli.families.replay import Inputs, Replay
from interlace_cli.families.ways import Way
from interlace_cli.runtime.accelerator import to_host
from interlace_cli.runtime.dispatch import loaded
from interlace_cli.runtime.wide import to_wide
from interlace_cli.sparsity.pattern import Pattern


@torch.no_grad()
def prune_by_wanda(
    model: nn.Module,
    layers: nn.ModuleList,
    batches: Sequence[Inputs],
    pattern: Pattern,
    advance: Advance,
    way: Way = Way.THROUGH,
) -> None:
    """Sets weights of every linear layer inside `layers` to zero, in place. `batches` need an `attention_mask`. Each
    layer is run twice on each batch, before and after it is pruned. `advance` counts layers. `way`: see `find_way`."""
    with Replay(model, layers, way is Way.DIRECT) as replay:
        recordings, states, rows = [], [], []
        for batch in batches:
            recording, hidden = replay.record_start(batch)
            recordings.append(recording)
            states.append(to_host(hidden))
            rows.append(batch["attention_mask"].flatten().nonzero()[:, 0])
        for index, layer in enumerate(layers):
            norms = _InputNorms(layer)
            with norms:
                for recording, hidden, rows_N in zip(recordings, states, rows, strict=True):
                    norms.begin(recording.inputs["attention_mask"].shape, rows_N)
                    replay.run(recording, index, hidden, stop=index + 1)
            with loaded(layer, is_changed=True):
                for linear, squares_I in norms.squares.items():
                    if pattern.fits(linear.weight):
                        metric_OI = linear.weight.abs().float() * squares_I.sqrt()
                        linear.weight.masked_fill_(pattern.find_dropped(metric_OI), 0)
            if index + 1 < len(layers):
                states = [
                    to_host(replay.run(recording, index, hidden, stop=index + 1))
                    for recording, hidden in zip(recordings, states, strict=True)
                ]
            advance(1)


class _InputNorms:
    """Hooks that sum the squares [I] of each linear layer's inputs over all tokens that are not padding."""

    def __init__(self, layer: nn.Module) -> None:
        self.linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        self.squares: dict[nn.Linear, Tensor] = {}
        self._shape: tuple[int, ...] = ()
        self._rows_N: Tensor | None = None
        self._handles: list[Any] = []

    def begin(self, shape: tuple[int, ...], rows_N: Tensor) -> None:
        """Call before each batch, with its shape (B, T), and the rows of [B T] that are tokens."""
        self._shape, self._rows_N = shape, rows_N

    def __enter__(self) -> _InputNorms:
        self._handles = [linear.register_forward_pre_hook(self._build_hook(linear)) for linear in self.linears]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _build_hook(self, linear: nn.Linear) -> Callable[..., None]:
        def on_input(module: nn.Module, args: tuple[Any, ...]) -> None:
            del module
            values = args[0]
            # Experts get a list of some tokens, among which padding cannot be recognised.
            if self._rows_N is not None and values.shape[:-1] == self._shape:
                values = values.flatten(0, 1)[self._rows_N.to(values.device)]
            squares_NI = to_wide(values.reshape(-1, values.shape[-1]).float().square())
            squares_I = squares_NI.sum(0, dtype=torch.float64).float().to(values.device)
            self.squares[linear] = self.squares.get(linear, torch.zeros_like(squares_I)) + squares_I

        return on_input
