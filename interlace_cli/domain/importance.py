"""Importances beside similarity: what dropping a layer does to the loss, measured and estimated."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from interlace_cli.domain.record import Artifact, Record


class GreedyStep(Record):
    """One step of the greedy search: the layer that went, and the loss without it and all before it."""

    layer: int
    loss: float


class LossImportance(Record):
    """Mean cross-entropy of an answer token: of the dense model, with each layer alone dropped (`single`, None for a
    layer that cannot be), and along the greedy search (`path`), which never takes a `protected` layer.

    `layer_runs` is how many times a layer was run on a batch, `naive_layer_runs` how many times it would have been if
    every candidate were a forward of its own.
    """

    dense: float
    single: list[float | None]
    path: list[GreedyStep]
    protected: list[int]
    samples: int = Field(ge=1)
    answer_tokens: int = Field(ge=1)
    layer_runs: int
    naive_layer_runs: int

    @property
    def loss_increase(self) -> list[float]:
        """What dropping a layer alone adds to the loss; infinite where it cannot be dropped."""
        return [float("inf") if loss is None else loss - self.dense for loss in self.single]


class TaylorImportance(Record):
    """From one backward pass over the samples' mean loss: `taylor_weight[i]` is the sum of |gradient x weight| over
    layer i, `taylor_activation[i]` the first-order estimate of how much dropping it changes the loss of an answer
    token: the mean over samples of |<gradient of its output, what it adds to the hidden state>|."""

    taylor_weight: list[float]
    taylor_activation: list[float]
    samples: int = Field(ge=1)


class LossSearch(Artifact):
    """A search by loss under way, so that it can go on where it stopped: sums of cross-entropies for each sample, in
    the order of the batches, the steps that are done, and the candidates of the current one that have been tried."""

    KIND: ClassVar[str] = "interlace.loss-search"

    tokens: list[int]
    dense: list[float]
    single: list[list[float] | None]
    path: list[GreedyStep]
    tried: dict[str, float]
    layer_runs: int
    naive_layer_runs: int
