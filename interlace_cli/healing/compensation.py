"""Compensation without training: a linear map that imitates the dropped layers is folded into a weight of the layer in
front of the gap, so that the checkpoint keeps its plain architecture (Shopkhoev et al. 2025, "ReplaceMe", arXiv
2505.02819, section 3: T = argmin |M T + Y - X|^2, folded into the down projection).

The output of the layer in front of a gap is Y + M. M = m W' (+ bias) is the output of its last linear map for the input
m, and Y is the rest. X is the dense model's hidden state behind the gap. T solves the ridge regression of X - Y on M.
The penalty pulls T towards the identity, which means no compensation. Every fourth batch is held out from the fit; of
the penalties in RIDGES, the one with the lowest loss on these batches is taken. If none lowers the loss, the layer is
left as it is. Else W becomes T' W.

Gaps are closed from front to back. Each regression runs on the states that the earlier ones have produced, so that
later gaps also correct earlier errors.

Shape legend: B samples, T tokens, N tokens that are not padding, H hidden size, I inputs of the linear map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interlace_cli.data.labels import read_losses, sum_losses
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.finite import explain_not_finite
from interlace_cli.families.replay import Inputs, Recording, Replay
from interlace_cli.families.ways import Way
from interlace_cli.runtime.dispatch import loaded
from interlace_cli.runtime.wide import choose_wide_device, to_wide

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties to choose from, relative to the mean of the diagonal of M'M."""
UNSEEN = 4
"""Every fourth batch is held out from the fit, to choose the penalty by."""


@dataclass(frozen=True)
class Gap:
    """A run of dropped layers `first ... last`, and the layer `front` before them, which is compensated. Dense
    indices."""

    front: int
    first: int
    last: int


def find_gaps(drop: Sequence[int]) -> list[Gap]:
    """Runs of dropped layers, front to back. A run that begins with layer 0 has no layer in front of it and is left
    out. Example: [5, 2, 3] -> Gap(1, 2, 3), Gap(4, 5, 5)."""
    gaps: list[Gap] = []
    for layer in sorted(drop):
        if gaps and layer == gaps[-1].last + 1:
            gaps[-1] = Gap(gaps[-1].front, gaps[-1].first, layer)
        else:
            gaps.append(Gap(layer - 1, layer, layer))
    return [gap for gap in gaps if gap.front >= 0]


@torch.no_grad()
def compensate(
    model: nn.Module,
    layers: nn.ModuleList,
    drop: Sequence[int],
    batches: Iterable[Inputs],
    advance: Advance,
    way: Way = Way.THROUGH,
) -> list[int]:
    """Changes, in place, the last linear map of each layer in front of a gap where that lowers the loss of the held-out
    batches. Returns the dense indices of the changed layers.

    `batches` need an `attention_mask`, and `labels` [B, K] for the logits that they ask for. `way`: see `find_way`.
    Raises UnsupportedModelError, after the first batch, if the output of a layer in front of a gap is not a sum of a
    linear map's output and a rest.
    """
    changed = []
    with Replay(model, layers, way is Way.DIRECT) as replay:
        rest = iter(batches)
        first = next(rest)
        linears = _find_linears(replay, first, [gap.front for gap in find_gaps(drop)])
        state = _State(replay, [first, *rest], drop)
        for gap in find_gaps(drop):
            if state.close(gap, linears[gap.front]):
                changed.append(gap.front)
            advance(1)
    return changed


class _State:
    """How far the gaps are closed: for each batch, the hidden states [B, T, H] in front of layer `index` in the dense
    model (`dense`) and in the pruned one (`short`)."""

    def __init__(self, replay: Replay, batches: Sequence[Inputs], drop: Sequence[int]) -> None:
        self.replay, self.drop, self.index = replay, drop, 0
        self.labels = [batch["labels"] for batch in batches]
        # Rows of [B T, H] that are no padding. A mask as an index would be looked at by the host each time.
        self.tokens = [batch["attention_mask"].flatten().nonzero()[:, 0] for batch in batches]
        self.recordings: list[Recording] = []
        self.dense: list[Tensor] = []
        for batch in batches:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            recording, hidden = replay.record_start(inputs, is_whole=True)
            self.recordings.append(recording)
            self.dense.append(hidden)
        self.short = list(self.dense)
        last = len(batches) - 1
        self.unseen = [i for i in range(len(batches)) if i % UNSEEN == UNSEEN - 1] or [last]

    def close(self, gap: Gap, linear: nn.Module) -> bool:
        """Compensates the gap in `linear`, the last linear map of the layer in front of it, and moves all states behind
        it. Returns whether the map was changed."""
        replay, behind = self.replay, gap.last + 1
        for i, recording in enumerate(self.recordings):
            self.dense[i] = replay.run(recording, self.index, self.dense[i], stop=behind)
            self.short[i] = replay.run(recording, self.index, self.short[i], self.drop, stop=gap.front)
        sums = to_wide(self.short[0]).double().sum(), to_wide(self.dense[0]).double().sum()
        _check_finite(replay, self.recordings[0], gap.front, sums[0] + sums[1].to(sums[0].device))
        with loaded(linear):
            original = [parameter.clone() for parameter in linear.parameters()]
        seen, unseen = self._sum(gap, linear, original[0].device)
        both = seen + unseen
        _check_finite(replay, self.recordings[0], gap.front, both.gram.sum() + both.target.sum())
        measured: dict[float | None, list[Tensor]] = {None: self._measure(gap.front)}
        for ridge in RIDGES:
            _fold(linear, original, seen.solve(ridge))
            measured[ridge] = self._measure(gap.front)
        read = read_losses([values for found in measured.values() for values in found])
        totals = [sum(values) for values in read]
        count = len(self.unseen)
        losses = {ridge: sum(totals[at * count : (at + 1) * count], 0.0) for at, ridge in enumerate(measured)}
        best = min(losses, key=lambda ridge: losses[ridge] if math.isfinite(losses[ridge]) else math.inf)
        eye = torch.eye(len(seen.gram), dtype=torch.float64, device=seen.gram.device)
        _fold(linear, original, eye if best is None else both.solve(best))
        for i, recording in enumerate(self.recordings):
            self.short[i] = replay.run(recording, gap.front, self.short[i], self.drop, stop=behind)
        self.index = behind
        return best is not None

    def _sum(self, gap: Gap, linear: nn.Module, device: torch.device) -> tuple[_Sums, _Sums]:
        seen, unseen = (_Sums.begin(self.short[0].shape[-1], device) for _ in range(2))
        for i, recording in enumerate(self.recordings):
            out, made = _run_layer(self.replay, recording, gap.front, self.short[i], linear)
            rows_N = self.tokens[i].to(device)
            out, wanted = out.to(device), self.dense[i].to(device).flatten(0, 1)[rows_N]
            rest = (out - made).flatten(0, 1)[rows_N]
            sums = unseen if i in self.unseen and len(self.recordings) > 1 else seen
            sums.add(made.flatten(0, 1)[rows_N], wanted - rest, wanted.float().norm(dim=-1))
        return seen, unseen

    def _measure(self, front: int) -> list[Tensor]:
        """Cross-entropy without the dropped layers, of each sample [B] of each held-out batch. Layers before `front`
        are not run again."""
        losses = []
        for i in self.unseen:
            outputs = self.replay.run(self.recordings[i], front, self.short[i], self.drop)
            losses.append(sum_losses(outputs, self.labels[i], self.recordings[i].inputs["logits_to_keep"]))
        return losses


@dataclass
class _Sums:
    """The normal equations of the regression, summed in float64: M'M and M'(X - Y), both [H, H]."""

    gram: Tensor
    target: Tensor

    @classmethod
    def begin(cls, width: int, device: torch.device) -> _Sums:
        """Sums of no token: zeros."""
        wide = choose_wide_device(device)
        gram, target = (torch.zeros(width, width, dtype=torch.float64, device=wide) for _ in range(2))
        return cls(gram, target)

    def add(self, made_NH: Tensor, wanted_NH: Tensor, scale_N: Tensor) -> None:
        """Adds N tokens: `made_NH` is M, `wanted_NH` is X - Y. Both are divided by `scale_N`, the norm of X, so that a
        token counts by its relative error: the norms of a few tokens are a hundred times those of the others."""
        made, wanted, scale = (value.to(self.gram.device).double() for value in (made_NH, wanted_NH, scale_N))
        made, wanted = made / scale[:, None], wanted / scale[:, None]
        self.gram += made.T @ made
        self.target += made.T @ wanted

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.gram + other.gram, self.target + other.target)

    def solve(self, ridge: float) -> Tensor:
        """The map T [H, H], for a penalty `ridge` relative to the mean of the diagonal of M'M."""
        eye = torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        weight = ridge * self.gram.diagonal().mean()
        return torch.linalg.solve(self.gram + weight * eye, self.target + weight * eye)


def _run_layer(
    replay: Replay, recording: Recording, layer: int, hidden_BTH: Tensor, linear: nn.Module
) -> tuple[Tensor, Tensor]:
    """The output of the layer, and the output of its linear map `linear`; both [B, T, H]."""
    made: list[Tensor] = []
    handle = linear.register_forward_hook(lambda module, args, output: made.append(output))
    out = replay.run(recording, layer, hidden_BTH, stop=layer + 1)
    handle.remove()
    return out, made[0].reshape(out.shape)


def _check_finite(replay: Replay, recording: Recording, layer: int, values: Tensor) -> None:
    """Raises NotFiniteError if hidden states behind `layer`, or a sum over them, are NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        what = f"a hidden state behind layer {layer}"
        raise explain_not_finite(replay.model, replay.layers, recording.inputs, what)


def _find_linears(replay: Replay, batch: Inputs, fronts: Sequence[int]) -> dict[int, nn.Module]:
    """Layer -> its last linear map (`_find_last_linear`), from one batch: before all the others are run."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int, hidden: Tensor) -> None:
        if layer in fronts:
            kept[layer] = hidden

    recording, _ = replay.record({name: value for name, value in batch.items() if name != "labels"}, keep=keep)
    for layer, hidden in kept.items():
        _check_finite(replay, recording, layer, hidden)
    return {layer: _find_last_linear(replay, recording, layer, kept.get(layer)) for layer in fronts}


def _find_last_linear(replay: Replay, recording: Recording, layer: int, hidden_BTH: Tensor | None) -> nn.Module:
    """The linear map whose output the layer adds to the rest at its end. It is found by a trial: a change of its output
    changes what the layer passes on by the same amount. `hidden_BTH` enters it, None if it did not run. Raises
    UnsupportedModelError if there is none."""
    maps = [] if hidden_BTH is None else _list_linears(replay.layers[layer], hidden_BTH.shape[-1])
    if hidden_BTH is not None and maps:
        plain = replay.run(recording, layer, hidden_BTH, stop=layer + 1)
        change_H = plain.std() * torch.linspace(-1, 1, plain.shape[-1], dtype=plain.dtype, device=plain.device)
        for linear in reversed(maps):
            handle = linear.register_forward_hook(lambda module, args, output: output + change_H)
            changed = replay.run(recording, layer, hidden_BTH, stop=layer + 1)
            handle.remove()
            wanted = plain + change_H
            if bool(((changed - wanted).abs() <= 1e-2 * (change_H.abs().max() + wanted.abs())).all()):
                return linear
    raise UnsupportedModelError(
        f"layer {layer} of {type(replay.model).__name__} cannot make up for layers behind it: it does not end with a"
        " linear map that is added to the rest, but with a norm, a gate, experts or cross-attention.",
        "Leave out --compensate.",
    )


def _list_linears(layer: nn.Module, width: int) -> list[nn.Module]:
    """Its linear maps with `width` outputs; GPT-2's are called convolutions."""
    from transformers.pytorch_utils import Conv1D

    counts = {module: getattr(module, "out_features", getattr(module, "nf", None)) for module in layer.modules()}
    return [m for m, count in counts.items() if isinstance(m, (nn.Linear, Conv1D)) and count == width]


def _fold(linear: nn.Module, original: Sequence[Tensor], map_HH: Tensor) -> None:
    """Sets the weight W to T' W and the bias to T' bias, since M T = m W' T (+ bias' T). `original` are the old ones. A
    weight that is stored as W' becomes W' T."""
    is_stored_across = not isinstance(linear, nn.Linear)
    with loaded(linear, is_changed=True):
        for parameter, value in zip(linear.parameters(), original, strict=True):
            wide = value.to(map_HH.device).double()
            new = wide @ map_HH if is_stored_across and value.ndim == 2 else map_HH.T @ wide
            parameter.copy_(new.to(parameter.dtype))
