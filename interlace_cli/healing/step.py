"""One row of an optimizer step: the forward, and the loss of a stage's terms.

What a step costs. With P_f parameters of frozen layers, P_t of tuned ones (both: language layers from the first tuned
one on; P_b lie below it), V H of the head, and N tokens of which K have a label:

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

`cost.py` evaluates it; `tests/unit/test_step.py` counts the FLOPs of a real step beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.data.rows import PackedRow
from interlace_cli.families.replay import Stop
from interlace_cli.healing.loss import HeadLoss, LogitsLoss
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.teacher import capture_inputs


@dataclass(frozen=True)
class TermWeights:
    """Shares of the terms."""

    distill: float
    anchor: float


TokenLoss = HeadLoss | LogitsLoss


@dataclass(frozen=True)
class Teacher:
    """The dense model beside the student: both models' layers, and in each the places behind the anchors."""

    model: nn.Module
    layers: Sequence[nn.Module]
    loss: TokenLoss
    places: Sequence[int]
    student_layers: Sequence[nn.Module]
    student_places: Sequence[int]


@dataclass(frozen=True)
class Sums:
    """Of one row: `token`, and the cross-entropy `ce` in it, over its labels; `anchor` over its tokens."""

    token: Tensor
    ce: Tensor
    anchor: Tensor


class RowLoss:
    """The loss of a row, for the terms of a stage."""

    def __init__(self, stage: Stage, loss: TokenLoss, weights: TermWeights, teacher: Teacher | None = None) -> None:
        self.stage, self.loss, self.weights, self.teacher = stage, loss, weights, teacher
        self.share = weights.distill if "distill" in stage.terms else 0.0

    def compute(self, model: Any, row: PackedRow) -> Sums:
        """Forward of the student, and where needed of the teacher before it."""
        teacher = self.teacher
        if teacher is None:
            token, ce = self.loss.compute(model, row)
            return Sums(token, ce.detach(), torch.zeros_like(ce))
        wanted_states, wanted = self._ask(teacher, row)
        places = teacher.student_places if wanted_states else []
        with capture_inputs(teacher.student_layers, places) as found:
            token, ce = self.loss.compute(model, row, wanted, self.share)
        anchor = torch.zeros_like(ce)
        if wanted_states:
            states = [found[place].hidden for place in places]
            anchor = sum_errors(states, wanted_states, row.inputs.get("attention_mask"))
        return Sums(token if self.stage.needs_head else token.detach(), ce.detach(), anchor)

    @torch.no_grad()
    def _ask(self, teacher: Teacher, row: PackedRow) -> tuple[list[Tensor], Tensor | None]:
        """The dense hidden states behind each anchor, and what its distribution at the labels is made of."""
        places = teacher.places if "anchor" in self.stage.terms else []
        wanted = None
        with capture_inputs(teacher.layers, places, stop=not self.share) as found, suppress(Stop):
            wanted = teacher.loss.teacher_targets(teacher.model, row)
        return [found[place].hidden for place in places], wanted if self.share else None


def sum_errors(made_BNH: Sequence[Tensor], wanted_BNH: Sequence[Tensor], mask_BN: Tensor | None) -> Tensor:
    """Sum over tokens, mean over places, of the squared error relative to the squared norm of what is wanted. A token
    counts by its relative error: a few have norms a hundred times those of the others."""
    total = torch.zeros((), device=made_BNH[0].device)
    for made, wanted in zip(made_BNH, wanted_BNH, strict=True):
        error_BN = (made.float() - wanted.float()).square().sum(-1) / wanted.float().square().sum(-1).clamp(min=1e-12)
        total = total + (error_BN.sum() if mask_BN is None else (error_BN * mask_BN).sum())
    return total / max(len(made_BNH), 1)
