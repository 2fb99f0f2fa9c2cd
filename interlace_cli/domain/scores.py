"""The scores a strategy chooses by, and what it is allowed to touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum


class Rank(str, Enum):
    """What `interlace` ranks triplets by."""

    SIMILARITY = "similarity"
    LOSS = "loss"
    TAYLOR = "taylor"


class Assign(str, Enum):
    """How `interlace` puts a set of triplets together."""

    GREEDY = "greedy"
    OPTIMAL = "optimal"


class Tune(str, Enum):
    """Which layers are tuned for a set of dropped ones (`strategies/tuning.py`)."""

    PAIRED = "paired"
    NEAREST = "nearest"
    NONE = "none"


@dataclass(frozen=True)
class Scores:
    """Importances of a model of `num_layers` layers. `s1[i]`: similarity of layer i, `s2[i]` of the span (i, i+1),
    `s3[i]` of (i, i+1, i+2). A list may stop early: what it has no score for is never chosen. The rest is empty where
    it was not measured:

    `angular[n-1][i]`: angular distance, 0 ... 1, of the last token's hidden states in front of layer i and n layers on;
    `loss_increase[i]`: what dropping layer i alone adds to the loss; `taylor_activation[i]`: the size of that, to first
    order; `taylor_weight[i]`: sum of |gradient x weight|; `path`: layers in the order of the greedy search by loss.
    """

    num_layers: int
    s1: Sequence[float]
    s2: Sequence[float]
    s3: Sequence[float]
    angular: Sequence[Sequence[float]] = ()
    loss_increase: Sequence[float] = ()
    taylor_activation: Sequence[float] = ()
    taylor_weight: Sequence[float] = ()
    path: Sequence[int] = ()

    def without_last(self) -> Scores:
        """As the released scripts score: i in 0 ... L-p-1, so that no span holds the last layer."""
        layers = self.num_layers
        last = layers - 1
        return replace(
            self,
            s1=self.s1[:last],
            s2=self.s2[: layers - 2],
            s3=self.s3[: layers - 3],
            angular=[row[: layers - length] for length, row in enumerate(self.angular, start=1)],
            loss_increase=self.loss_increase[:last],
            taylor_activation=self.taylor_activation[:last],
            taylor_weight=self.taylor_weight[:last],
            path=self.path[: self.path.index(last)] if last in self.path else self.path,
        )


@dataclass(frozen=True)
class SelectionTask:
    """Drop `count` layers by `scores`; `protected` layers take part in no span: they are neither dropped, nor tuned,
    nor anchors. Pairs whose S_2 is below `pair_bar` are not taken; None lets all of them pass."""

    scores: Scores
    count: int
    protected: frozenset[int] = frozenset()
    seed: int = 0
    rank: Rank = Rank.SIMILARITY
    assign: Assign = Assign.GREEDY
    pair_bar: float | None = None
