"""The paper's interleaving for any set of dropped layers: which layers are tuned for them, and which are anchors.

`paired`: for each dropped layer, one of its two neighbours is tuned, the one with the higher S_2 across both layers.
The layer behind the two is the anchor, if it is free. The result is a triplet or a pair, as in the paper. A dropped
layer without a free neighbour gets no tuned layer. `nearest`: as `paired`, but such a layer gets the nearest free
layer, so that as many layers are tuned as dropped, if possible. `none`: no layer is tuned.

Example, `paired`: layer 3 is dropped and S_2[2] < S_2[3]: layer 4 is tuned, layer 5 is the anchor.
"""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import Scores, TuneRule


def assign_tuned(picks: Sequence[Pick], scores: Scores, protected: frozenset[int], rule: TuneRule) -> list[Pick]:
    """Copies of the picks with the same dropped layers, and with tuned layers and anchors by `rule`. Protected layers
    are neither. Earlier picks choose first."""
    dropped = {layer for pick in picks for layer in pick.drop}
    free = set(range(scores.num_layers)) - dropped - protected
    tuned: dict[int, int] = {}
    if rule != "none":
        for layer in (layer for pick in picks for layer in pick.drop):
            _take(tuned, layer, _find_neighbour(layer, scores, free), free)
    if rule == "nearest":
        for layer in (layer for pick in picks for layer in pick.drop if layer not in tuned):
            _take(tuned, layer, min(free, key=lambda other: (abs(other - layer), -other), default=None), free)
    result = []
    for pick in picks:
        tune = [tuned[layer] for layer in pick.drop if layer in tuned]
        anchor = [layer for layer in (_find_anchor(layer, tuned) for layer in pick.drop) if layer in free]
        free -= set(anchor)
        members = {"drop": pick.drop, "tune": sorted(tune), "anchor": sorted(set(anchor))}
        layers = sorted(layer for role in members.values() for layer in role)
        result.append(pick.model_copy(update={**members, "layers": layers}))
    return result


def _take(tuned: dict[int, int], layer: int, chosen: int | None, free: set[int]) -> None:
    if chosen is not None:
        tuned[layer] = chosen
        free.remove(chosen)


def _find_neighbour(layer: int, scores: Scores, free: set[int]) -> int | None:
    """The free neighbour with the higher S_2 across both layers, in a tie the one behind; None if neither is free."""
    s2 = scores.s2
    pairs = {
        other: s2[min(layer, other)] if min(layer, other) < len(s2) else float("-inf")
        for other in (layer + 1, layer - 1)
        if other in free
    }
    return max(pairs, key=lambda other: pairs[other], default=None)


def _find_anchor(layer: int, tuned: dict[int, int]) -> int | None:
    """The layer behind a dropped layer and its tuned neighbour; None if no neighbour of it is tuned."""
    other = tuned.get(layer)
    return max(layer, other) + 1 if other is not None and abs(layer - other) == 1 else None
