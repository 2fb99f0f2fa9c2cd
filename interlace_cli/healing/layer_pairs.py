"""Pairs of student and dense layers whose hidden states are compared. Pure; all layers are dense indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class LocalSpan:
    """The tuned layer `layer` learns to do alone what the dense layers `start ... stop - 1`, itself among them, do."""

    layer: int
    start: int
    stop: int


def find_local_spans(
    kept: Sequence[int], tuned: Sequence[int], num_layers: int, compensated: Sequence[int] = ()
) -> list[LocalSpan]:
    """One span for each tuned layer beside a gap. A gap (a run of dropped layers) is learned by the layer behind it, if
    that one is tuned, else by the one in front of it, if that one is. Gaps whose front layer is `compensated` already
    are not learned by the layer behind them. Tuned layers beside no gap are left out.

    Example: 6 layers, kept [0, 2, 3, 4, 5], tuned [2]: layer 1 was dropped, so layer 2 learns layers 1 and 2:
    LocalSpan(layer=2, start=1, stop=3).
    """
    starts, stops = {layer: layer for layer in tuned}, {layer: layer + 1 for layer in tuned}
    edges = [-1, *kept, num_layers]
    for before, behind in pairwise(edges):
        if behind == before + 1:
            continue
        if behind in starts and before not in compensated:
            starts[behind] = before + 1
        elif before in stops:
            stops[before] = behind
    return [LocalSpan(layer, starts[layer], stops[layer]) for layer in tuned if stops[layer] - starts[layer] > 1]


def find_anchors(kept: Sequence[int], tuned: Sequence[int]) -> list[int]:
    """The next frozen layer behind each tuned one: in a triplet, the anchor. A tuned layer with no frozen layer behind
    it has none. Ascending. Example: kept [0, 2, 3, 5, 6], tuned [2, 5] -> [3, 6]."""
    frozen = [layer for layer in kept if layer not in set(tuned)]
    found = {next((layer for layer in frozen if layer > one), None) for one in tuned}
    return sorted(layer for layer in found if layer is not None)
