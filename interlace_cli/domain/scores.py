"""The input of a strategy: the scores of all layers, and what to drop by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Criterion = Literal["similarity", "loss", "taylor"]
"""What the strategy `interlace` ranks triplets by: similarity, or the loss increase of the drop, measured (loss) or
estimated to first order (taylor)."""
Search = Literal["greedy", "optimal"]
"""How the strategy `interlace` selects triplets: one after another, best first, or the best set as a whole."""
TuneRule = Literal["paired", "nearest", "none"]
"""Which layers are tuned for a given set of dropped layers (`strategies/tuning.py`)."""


@dataclass(frozen=True)
class Scores:
    """Importances of a model with `num_layers` layers.

    - `s1[i]`, `s2[i]`, `s3[i]`: similarity of the spans (i), (i, i+1), (i, i+1, i+2), in -1 ... 1. High: drop sooner.

    The others are empty if they were not measured. High means drop later:

    - `angular[n-1][i]`: angular distance at the last token, in 0 ... 1, between the states that enter layers i and i+n
      (Gromov et al. 2024, arXiv 2403.17887).
    - `loss_increase[i]`: loss with layer i dropped minus dense loss, in nats per answer token.
    - `taylor_activation[i]`: first-order estimate of the size of that change.
    - `taylor_weight[i]`: sum of |weight * gradient| over layer i.
    - `path`: the layers in the order in which the greedy search by loss drops them, those `unsearched` left alone.

    A list may be shorter than the model allows; a span without a score is never chosen.
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
    unsearched: frozenset[int] = frozenset()

    def without_last(self) -> Scores:
        """The scores without spans that hold the last layer (i in 0 ... L-p-1), as in INTERLACE's released scripts."""
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
    """What a strategy has to decide: which `count` layers to drop by `scores`.

    `protected` layers are in no span: they are neither dropped, nor tuned, nor anchors. When triplets run out, pairs
    are used, but none with s2 below `pair_bar`; None allows all pairs. `seed` is for random strategies.
    """

    scores: Scores
    count: int
    protected: frozenset[int] = frozenset()
    seed: int = 0
    criterion: Criterion = "similarity"
    search: Search = "greedy"
    pair_bar: float | None = None
