"""Whether similarity can be trusted: how well the order of one importance foretells that of another. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def compute_spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, -1 ... 1, equals sharing their mean rank (Spearman 1904); None for fewer than three
    values, or where one side is all equal."""
    if len(first) < 3:
        return None
    try:
        return statistics.correlation(_rank(first), _rank(second))
    except statistics.StatisticsError:
        return None


def _rank(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    place = 0
    while place < len(order):
        end = place
        while end < len(order) and values[order[end]] == values[order[place]]:
            end += 1
        for i in order[place:end]:
            ranks[i] = (place + end - 1) / 2
        place = end
    return ranks
