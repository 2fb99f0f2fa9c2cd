"""Where a healed model can be compared with the dense one inside. Pure decisions about layers; dense indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class LocalSpan:
    """Tuned layer `layer` is to do what the dense layers `start ... stop - 1` do, itself among them."""

    layer: int
    start: int
    stop: int


def find_local_spans(
    kept: Sequence[int], tuned: Sequence[int], num_layers: int, compensated: Sequence[int] = ()
) -> list[LocalSpan]:
    """Each gap is made up for by the layer behind it, if that one is tuned, else by the one in front of it, if that
    one is. In a triplet this is the pair of the dropped and the tuned layer. What a `compensated` layer in front of a
    gap makes up for already, the one behind is not to do a second time. A tuned layer with no gap to make up for
    has nothing to learn by itself, and is left out."""
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
    """The next frozen layer behind each tuned one: in a triplet, its anchor. None behind the last."""
    frozen = [layer for layer in kept if layer not in set(tuned)]
    found = {next((layer for layer in frozen if layer > one), None) for one in tuned}
    return sorted(layer for layer in found if layer is not None)
