"""Scores from what each sample scored. Pure.

A sample has points and a weight; a score is the sum of points over the sum of weights: a mean where all weights are 1,
and what F1 needs where they are not. A sample's `kind` plays the part of a task: the score of a whole is the macro mean
over kinds, `retention` the mean over kinds of the ratio to the dense model's score, in percent (method.md, "Words").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Points:
    """What each sample scored; `weights` None: 1 each."""

    points: Sequence[float]
    weights: Sequence[float] | None = None

    def pairs(self) -> list[tuple[float, float]]:
        """`(points, weight)` of each sample."""
        weights = [1.0] * len(self.points) if self.weights is None else self.weights
        return list(zip(map(float, self.points), weights, strict=True))


def score_kinds(scored: Points, kinds: Sequence[str]) -> dict[str, float]:
    """Score of each kind, kinds in alphabetical order; 0 where there is no weight."""
    result = {}
    for kind in sorted(set(kinds)):
        members = [pair for pair, k in zip(scored.pairs(), kinds, strict=True) if k == kind]
        weight = sum(weight for _, weight in members)
        result[kind] = sum(points for points, _ in members) / weight if weight else 0.0
    return result


def score_macro(by_kind: dict[str, float]) -> float:
    """Mean over kinds."""
    return sum(by_kind.values()) / len(by_kind)


def score_retention(by_kind: dict[str, float], dense: dict[str, float]) -> float | None:
    """Percent of the dense score kept: the mean of the ratios over kinds that the dense model scores on at all; None if
    there is no such kind."""
    ratios = [by_kind[kind] / value for kind, value in dense.items() if value > 0]
    return 100 * sum(ratios) / len(ratios) if ratios else None
