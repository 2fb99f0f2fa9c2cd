"""How well two importances agree on the order of the layers; shows whether similarity can be trusted. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def compute_spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation (Spearman 1904), -1 ... 1; 1 if both order the layers alike. Equal values share their
    mean rank. None for fewer than three values, or if all values of one side are equal."""
    if len(first) < 3:
        return None
    try:
        return statistics.correlation(_rank(first), _rank(second))
    except statistics.StatisticsError:
        return None


def _rank(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 0; equal values share their mean rank. Example: [5, 7, 5] -> [0.5, 2.0, 0.5]."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + end - 1) / 2
        start = end
    return ranks
