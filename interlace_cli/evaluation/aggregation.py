"""From points per sample to scores and retention. Pure.

Each sample has points and a weight. The score of a kind is sum(points) / sum(weights). With all weights 1 that is the
mean; F1 uses other weights (`metrics/yes_no.py`). A sample's `kind` is treated as a task:

- the overall score is the macro mean, that is, the unweighted mean over kinds;
- retention is the mean over kinds of score / dense score, in percent, as in the tables of INTERLACE (arXiv 2511.19676).

Example: kinds a and b, dense scores 1.0 and 0.5, pruned scores 0.9 and 0.5. The score of the pruned model is 0.7, its
retention 100 * (0.9 / 1.0 + 0.5 / 0.5) / 2 = 95, not 100 * 0.7 / 0.75 = 93.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Points:
    """The points of each sample and its weight, both of length N. `weights=None` means 1 for each sample."""

    points: Sequence[float]
    weights: Sequence[float] | None = None

    def pairs(self) -> list[tuple[float, float]]:
        """`(points, weight)` of each sample, a list of length N."""
        weights = [1.0] * len(self.points) if self.weights is None else self.weights
        return list(zip(map(float, self.points), weights, strict=True))


def score_kinds(scored: Points, kinds: Sequence[str]) -> dict[str, float]:
    """Kind -> score, kinds in alphabetical order.

    `kinds[i]` is the kind of sample i. Its score is sum(points) / sum(weights), or 0 if the weights sum to 0.
    """
    result = {}
    for kind in sorted(set(kinds)):
        members = [pair for pair, k in zip(scored.pairs(), kinds, strict=True) if k == kind]
        weight = sum(weight for _, weight in members)
        result[kind] = sum(points for points, _ in members) / weight if weight else 0.0
    return result


def score_macro(by_kind: dict[str, float]) -> float:
    """The macro mean: the unweighted mean of the scores in `by_kind`, in the same unit. `by_kind` must not be empty."""
    return sum(by_kind.values()) / len(by_kind)


def score_retention(by_kind: dict[str, float], dense: dict[str, float]) -> float | None:
    """Retention in percent: 100 times the mean over kinds of score / dense score.

    Kinds on which the dense model scores 0 have no ratio and are left out. None if no kind is left.
    """
    ratios = [by_kind[kind] / value for kind, value in dense.items() if value > 0]
    return 100 * sum(ratios) / len(ratios) if ratios else None
