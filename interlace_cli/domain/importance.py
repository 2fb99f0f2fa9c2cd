"""The effect of dropping a layer on the loss, measured (`LossImportance`) and estimated (`TaylorImportance`)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from interlace_cli.domain.record import Artifact, Record


class GreedyStep(Record):
    """One step of the greedy search: the layer that was dropped, and the loss without it and all layers before it."""

    layer: int
    loss: float


class LossImportance(Record):
    """Measured losses: mean cross-entropy in nats per answer token. Of a conversation that becomes several training
    sequences (`data/rendering.py`) it is over the answers of the last one, which holds all turns.

    - `dense`: of the dense model. `single[i]`: with layer i dropped alone; None if layer i cannot be dropped.
    - `path`: the greedy search, which drops in each step the layer that raises the loss least, but never a layer in
      `protected` (the order of SLEB, Song et al. 2024).
    - `layer_runs`: how many times a layer was run on a batch. `naive_layer_runs`: how many times if each candidate
      needed a full forward pass.
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
        """`single[i] - dense` for each layer, in nats per answer token; infinite if layer i cannot be dropped."""
        return [float("inf") if loss is None else loss - self.dense for loss in self.single]


class TaylorImportance(Record):
    """First-order (Taylor) estimates of each layer's importance, from gradients of the samples' mean loss.

    - `taylor_weight[i]`: the sum over the weights w of layer i of |w * dLoss/dw|.
    - `taylor_activation[i]`: the estimated change of the loss, in nats per answer token, if layer i is dropped: the
      mean over samples of |<dLoss/dx[i+1], x[i+1] - x[i]>|, where x[i] enters layer i.
    """

    taylor_weight: list[float]
    taylor_activation: list[float]
    samples: int = Field(ge=1)


class LossSearch(Artifact):
    """The state of an unfinished search by loss, from which it resumes.

    `tokens`, `dense` and the entries of `single` are per sample, in the order of the batches: answer tokens, and sums
    of their cross-entropies in nats. `path` holds the finished steps, `tried` the candidates of the current step.
    """

    KIND: ClassVar[str] = "interlace.loss-search"

    tokens: list[int]
    dense: list[float]
    single: list[list[float] | None]
    path: list[GreedyStep]
    tried: dict[str, float]
    layer_runs: int
    naive_layer_runs: int
