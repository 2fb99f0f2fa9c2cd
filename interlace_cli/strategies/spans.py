"""What the greedy strategies share: spans in order of redundancy, taken when none of their layers is taken yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence


def rank_spans(similarity: Sequence[float]) -> list[int]:
    """Starts of spans from the most to the least redundant; equals stay in the order of the layers."""
    return sorted(range(len(similarity)), key=lambda start: -similarity[start])


def iter_free_spans(
    similarity: Sequence[float],
    length: int,
    num_layers: int,
    taken: set[int],
    passes: Callable[[list[int]], bool] | None = None,
) -> Iterator[list[int]]:
    """Yields spans of `length` layers, the most redundant first, that hold no taken layer and pass, and takes them."""
    for start in rank_spans(similarity):
        span = list(range(start, start + length))
        if span[-1] < num_layers and taken.isdisjoint(span) and (passes is None or passes(span)):
            taken.update(span)
            yield span
