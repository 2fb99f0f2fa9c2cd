"""One row of an optimizer step: the forward, and the loss of a stage's terms (`loss.py` at the labels, `anchor` here).

Healing skips work that the update does not need: nothing below the first tuned layer is kept for the backward pass, and
frozen weights get no gradient. The cost of a step, with P_f parameters of frozen layers, P_t of tuned ones (both:
language layers from the first tuned one on; P_b lie below it), V H of the head, and N tokens of which K have a label:

    FLOPs = 2 N (P_b + P_f + P_t)      forward
          + 2 N (P_f + P_t)            gradients of activations: none below the first tuned layer
          + 2 N P_t                    gradients of weights: none of frozen ones
          + 4 K V H                    head and loss, forward and backward together, at the labels alone
          + 4 T A per token and layer  attention, T the length of its own sample, A heads x head dimension; 8 T A more
                                       from the first tuned layer on
          + 2 M P_v                    the vision tower's forward: M patches, P_v parameters

    bytes = 2 (P_b + P_f + V H + vision)   frozen, in bfloat16
          + (4 + 4 + 8) P_t                master weights, gradients and AdamW's moments of tuned ones, in float32
          + activations of N tokens in the layers from the first tuned one on, or, checkpointed, 2 N H for each

`cost.py` evaluates the FLOPs; `tests/unit/test_step.py` compares them with those of a real step.

Shape legend: B samples in a row (1 if it is packed), N token positions (padding among them), K labels, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.data.rows import PackedRow
from interlace_cli.families.modules import split_tokens
from interlace_cli.families.replay import Stop
from interlace_cli.healing.loss import HeadLoss, LogitsLoss
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.teacher import capture_inputs


@dataclass(frozen=True)
class TermWeights:
    """`distill`: share of the KL divergence in the loss at the labels, 0 ... 1. `anchor`: weight of the anchor
    (hidden-state) loss."""

    distill: float
    anchor: float


TokenLoss = HeadLoss | LogitsLoss
"""The loss at the labels, computed in one of two ways (`loss.py`)."""


@dataclass(frozen=True)
class Teacher:
    """The dense model, and where its hidden states are compared with the student's. The hidden states are those that
    leave the anchors: they enter the layers `indices` of the dense model, and the layers `student_indices` of the
    student, in the same order. The index `len(layers)` stands for what leaves the last layer."""

    model: nn.Module
    layers: Sequence[nn.Module]
    loss: TokenLoss
    indices: Sequence[int]
    student_layers: Sequence[nn.Module]
    student_indices: Sequence[int]


@dataclass(frozen=True)
class Sums:
    """Losses of one row, scalars. `token`: the loss at the labels, summed over them (mixed with KL for `distill`);
    `ce`: the cross-entropy in it, without gradient; `anchor`: the relative error at the anchors, summed over tokens."""

    token: Tensor
    ce: Tensor
    anchor: Tensor


class RowLoss:
    """Computes the terms of a stage for one row. `teacher` is needed for every stage but `ce`."""

    def __init__(self, stage: Stage, loss: TokenLoss, weights: TermWeights, teacher: Teacher | None = None) -> None:
        self.stage, self.loss, self.weights, self.teacher = stage, loss, weights, teacher
        self.share = weights.distill if "distill" in stage.terms else 0.0

    def compute(self, model: Any, row: PackedRow) -> Sums:
        """The student's forward and losses; the teacher's forward runs before it, if there is a teacher."""
        teacher = self.teacher
        if teacher is None:
            token, ce = self.loss.compute(model, row)
            return Sums(token, ce.detach(), torch.zeros_like(ce))
        wanted_states, wanted = self._run_teacher(teacher, row)
        indices = teacher.student_indices if wanted_states else []
        with capture_inputs(teacher.student_layers, indices) as found:
            token, ce = self.loss.compute(model, row, wanted, self.share)
        anchor = torch.zeros_like(ce)
        if wanted_states:
            states = [found[index].hidden for index in indices]
            anchor = sum_errors(states, wanted_states, row.inputs.get("attention_mask"))
        return Sums(token if self.stage.needs_head else token.detach(), ce.detach(), anchor)

    @torch.no_grad()
    def _run_teacher(self, teacher: Teacher, row: PackedRow) -> tuple[list[Tensor], Tensor | None]:
        """The dense hidden states [B, N, H] that leave each anchor (none without the term `anchor`), and the teacher
        targets at the labels (None without `distill`)."""
        indices = teacher.indices if "anchor" in self.stage.terms else []
        wanted = None
        with capture_inputs(teacher.layers, indices, stop=not self.share) as found, suppress(Stop):
            wanted = teacher.loss.teacher_targets(teacher.model, row)
        return [found[index].hidden for index in indices], wanted if self.share else None


def sum_errors(made_BNH: Sequence[Tensor], wanted_BNH: Sequence[Tensor], mask_BN: Tensor | None) -> Tensor:
    """The sum over tokens of |made - wanted|^2 / |wanted|^2, averaged over the pairs of hidden states; scalar, 0 for no
    pair. The error is relative because the norms of a few tokens are a hundred times those of the others. `mask_BN` is
    1 at tokens and 0 at padding; None if there is no padding."""
    total = torch.zeros((), device=made_BNH[0].device)
    for made, wanted in zip(made_BNH, wanted_BNH, strict=True):
        made, wanted = (_per_token(state, mask_BN).float() for state in (made, wanted))
        error_BN = (made - wanted).square().sum(-1) / wanted.square().sum(-1).clamp(min=1e-12)
        total = total + (error_BN.sum() if mask_BN is None else (error_BN * mask_BN).sum())
    return total / max(len(made_BNH), 1)


def _per_token(state: Tensor, mask_BN: Tensor | None) -> Tensor:
    """[B, N, D]: a hidden state of several streams is one state. Without a mask the row is packed, or its tokens are
    the first two axes."""
    return state if state.ndim == 3 or mask_BN is None else split_tokens(state, *mask_BN.shape)
