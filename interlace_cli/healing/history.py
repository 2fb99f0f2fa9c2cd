"""The losses of a healing, step by step, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CURVE_POINTS = 100
"""Most points of a loss curve."""


@dataclass(frozen=True)
class History:
    """`losses[stage][i]`: the loss at optimizer step i. It is the mean cross-entropy per label, or the mean relative
    error per token in stages without one (`local`, `anchor` alone). `before` and `after`: the mean cross-entropy per
    label of the same samples (`probe_loss.py`), None where it was not measured."""

    losses: list[list[float]]
    before: float | None = None
    after: float | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps, summed over stages."""
        return sum(map(len, self.losses))

    @property
    def first(self) -> float:
        """Mean over the first tenth of the last stage's steps."""
        return mean(self.losses[-1][: self._tenth])

    @property
    def last(self) -> float:
        """Mean over the last tenth of the last stage's steps."""
        return mean(self.losses[-1][-self._tenth :])

    @property
    def curve(self) -> list[tuple[int, float]]:
        """At most CURVE_POINTS points `(step, mean loss since the point before)` of the last stage, steps counted from
        1."""
        losses = self.losses[-1]
        size = -(-len(losses) // CURVE_POINTS)
        ends = range(size, len(losses) + size, size)
        return [(min(end, len(losses)), round(mean(losses[end - size : end]), 6)) for end in ends]

    @property
    def _tenth(self) -> int:
        return max(len(self.losses[-1]) // 10, 1)


def mean(values: Sequence[float]) -> float:
    """Of one value at least."""
    return sum(values) / len(values)
