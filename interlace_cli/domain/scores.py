"""The scores a strategy chooses by, and what it is allowed to touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Span similarities of a model of `num_layers` layers: `s1[i]` of layer i, `s2[i]` of the span (i, i+1), `s3[i]`
    of (i, i+1, i+2). A list may stop early: spans that it has no score for are never chosen."""

    num_layers: int
    s1: Sequence[float]
    s2: Sequence[float]
    s3: Sequence[float]

    def without_last(self) -> Scores:
        """As the released scripts score: i in 0 ... L-p-1, so that no span holds the last layer."""
        layers = self.num_layers
        return Scores(layers, self.s1[: layers - 1], self.s2[: layers - 2], self.s3[: layers - 3])


@dataclass(frozen=True)
class Task:
    """Drop `count` layers by `scores`; `protected` layers take part in no span: they are neither dropped, nor tuned,
    nor anchors."""

    scores: Scores
    count: int
    protected: frozenset[int] = frozenset()
    seed: int = 0
