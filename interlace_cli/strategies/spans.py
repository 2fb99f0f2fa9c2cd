"""Greedy choice of spans: in order of redundancy, each taken if none of its layers is taken yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence


def rank_spans(similarity: Sequence[float]) -> list[int]:
    """Starts of spans, from the highest similarity to the lowest; equals in the order of the layers. Example: [0.2,
    0.9, 0.9] -> [1, 2, 0]."""
    return sorted(range(len(similarity)), key=lambda start: -similarity[start])


def iter_free_spans(
    similarity: Sequence[float],
    length: int,
    num_layers: int,
    taken: set[int],
    passes: Callable[[list[int]], bool] | None = None,
) -> Iterator[list[int]]:
    """Yields spans of `length` layers, the most redundant first, that contain no layer of `taken` and that `passes`
    returns True for. Adds their layers to `taken`."""
    for start in rank_spans(similarity):
        span = list(range(start, start + length))
        if span[-1] < num_layers and taken.isdisjoint(span) and (passes is None or passes(span)):
            taken.update(span)
            yield span
