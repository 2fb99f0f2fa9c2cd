"""The loss that is trained: cross-entropy at the labels, (1 - share) CE + share KL with distillation. To change the
loss, change `HeadLoss` (with `_ChunkedLoss`) and `LogitsLoss`, which compute the same in two ways.

    CE = sum over labels of -log p[target]                    p = softmax of the student's logits
    KL = sum over labels and words of t (log t - log p)       t = softmax of the dense model's logits

`step.py` adds the hidden-state term `anchor`, and `trainer.py` divides by the number of labels of the whole step. The
loss that is only measured, for `eval`, is in `data/labels.py`.

`HeadLoss` fuses the head and the loss, in chunks of labels: the logits of all labels never exist at once. The gradient
of the hidden states is computed together with the loss, while a chunk's logits are there, so that a label costs two
products with the head's matrix (4 V H FLOPs) and no recomputation. The head is frozen: it gets no gradient. torch
2.13's own `linear_cross_entropy` with chunking options took 4 times as long (512 labels, hidden 1024, 50 000 words, 2
CPU cores, forward and backward: 3.7 s; this one 0.9 s, as long as all logits at once).

Shape legend: B samples in a row, K labels, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.data.labels import keep_positions
from interlace_cli.data.rows import PackedRow
from interlace_cli.healing.precision import autocast
from interlace_cli.runtime.memory import is_out_of_memory

CHUNK = 512
"""Labels at once: 300 MB of float32 logits for a vocabulary of 152 000 words."""


class HeadLoss:
    """The loss of a model whose logits are exactly its head's output. During `compute`, the head's `forward` is
    replaced by the loss. As that runs inside the head's module, engines that shard the weights gather the head's for
    it."""

    def __init__(self, head: nn.Linear) -> None:
        self.head = head

    def compute(self, model: Any, row: PackedRow, wanted: Tensor | None = None, share: float = 0.0) -> Tensor:
        """A forward and the loss of one row. Returns [2]: (1 - share) CE + share KL, and CE alone, both summed over the
        labels; only the first has a gradient. `wanted` [K, H] are the teacher's hidden states from `teacher_targets`;
        None (with share 0) for no distillation."""

        def loss(hidden_BKH: Tensor) -> Tensor:
            hidden_KH, targets_K = _at_labels(hidden_BKH, row), _find_targets(row)
            weight, bias = self.head.weight, self.head.bias
            result: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
                hidden_KH, wanted, targets_K, weight, bias, share
            )
            return result

        with self._replace_forward(loss):
            result: Tensor = model(**row.arguments).logits
        return result

    def teacher_targets(self, model: Any, row: PackedRow) -> Tensor:
        """Teacher hidden states [K, H] at the label positions, before the head."""
        with self._replace_forward(lambda hidden_BKH: hidden_BKH):
            hidden_BKH: Tensor = model(**row.arguments).logits
        return _at_labels(hidden_BKH, row)

    @contextmanager
    def _replace_forward(self, forward: Any) -> Iterator[None]:
        # A torch hook cannot skip the forward that it belongs to; an attribute of the instance replaces it.
        head: Any = self.head
        own = vars(head).get("forward")
        head.forward = forward
        try:
            yield
        finally:
            del head.forward
            if own is not None:
                head.forward = own


class LogitsLoss:
    """The same loss for a model that changes its logits after the head (a soft cap, a scale). It is computed from the
    model's logits at all labels at once."""

    def compute(self, model: Any, row: PackedRow, wanted: Tensor | None = None, share: float = 0.0) -> Tensor:
        """As `HeadLoss.compute`; `wanted` are the teacher's logits [K, V]."""
        log_p = torch.log_softmax(self.teacher_targets(model, row).float(), -1)
        cross_entropy = -log_p.gather(1, _find_targets(row)[:, None]).sum()
        total = (1 - share) * cross_entropy
        if wanted is not None:
            log_t = torch.log_softmax(wanted.float(), -1)
            total = total + share * (log_t.exp() * (log_t - log_p)).sum()
        return torch.stack([total, cross_entropy.detach()])

    def teacher_targets(self, model: Any, row: PackedRow) -> Tensor:
        """Logits [K, V] at the label positions."""
        logits_BKV: Tensor = model(**row.arguments).logits
        return _at_labels(logits_BKV, row)


def _at_labels(values_BKX: Tensor, row: PackedRow) -> Tensor:
    """[labels, ...]: the logits or hidden states of the row at its labels."""
    kept_BKX = keep_positions(values_BKX, row.inputs.get("logits_to_keep"))
    return kept_BKX.flatten(0, 1)[row.label_places]


def _find_targets(row: PackedRow) -> Tensor:
    """[labels]: their ids."""
    return row.targets_BK.flatten()[row.label_places]


@torch.no_grad()
def choose_loss(model: Any, row: PackedRow) -> HeadLoss | LogitsLoss:
    """HeadLoss if it gives the loss of the model's own logits (relative tolerance 1e-3 in float32, else 2e-2), and
    LogitsLoss if not. Compared on the row's first CHUNK labels, as the logits of all might not fit into memory. The
    model computes in the dtype of its head, as it does when it is healed."""
    head = model.get_output_embeddings()
    plain = LogitsLoss()
    if not isinstance(head, nn.Linear) or head.weight.requires_grad:
        return plain
    row = _cut_labels(row)
    with autocast(row.targets_BK.device, head.weight.dtype):
        expected = plain.compute(model, row)
        try:
            found = HeadLoss(head).compute(model, row)
        # What models raise that do something to their logits (Chameleon hides the pictures' words) when there are none.
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            return plain
    tolerance = 1e-3 if head.weight.dtype == torch.float32 else 2e-2
    is_same = found.shape == expected.shape and torch.allclose(found.float(), expected.float(), rtol=tolerance)
    return HeadLoss(head) if is_same else plain


def _cut_labels(row: PackedRow) -> PackedRow:
    positions_K = row.inputs["logits_to_keep"][:CHUNK]
    inputs = {**row.inputs, "logits_to_keep": positions_K}
    return replace(row, inputs=inputs, targets_BK=row.targets_BK[:, :CHUNK], labels_L=None)


def _compute_chunk(
    hidden_KH: Tensor,
    teacher_KH: Tensor | None,
    targets_K1: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    share: float,
    gradient_KH: Tensor | None,
) -> Tensor:
    """[total, CE] of a chunk of labels; the gradient of the hidden states is written to `gradient_KH`, if there is one.
    A function of its own, so that nothing of a chunk is alive when the next one is computed."""
    log_p = _predict(hidden_KH, weight_VH, bias_V)
    cross_entropy = -log_p.gather(1, targets_K1).sum()
    divergence = torch.zeros_like(cross_entropy)
    teacher_p = None
    if teacher_KH is not None:
        log_t = _predict(teacher_KH, weight_VH, bias_V)
        teacher_p = log_t.exp()
        divergence = (teacher_p * (log_t - log_p)).sum()
    if gradient_KH is not None:
        # d/dlogits: softmax minus the target distribution, mixed as the losses are.
        difference = log_p.exp_()
        difference.scatter_add_(1, targets_K1, torch.full_like(targets_K1, share - 1, dtype=torch.float32))
        if teacher_p is not None:
            difference.sub_(teacher_p, alpha=share)
        gradient_KH.copy_(difference.to(weight_VH.dtype) @ weight_VH)
    return torch.stack([(1 - share) * cross_entropy + share * divergence, cross_entropy])


def _predict(hidden_KH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    """Log-probabilities [K, V], in float32."""
    # In one expression: what the head gives in 16 bits is gone before the softmax, and not a third tensor of this size.
    return torch.log_softmax(nn.functional.linear(hidden_KH.to(weight_VH.dtype), weight_VH, bias_V).float(), -1)


class _ChunkedLoss(torch.autograd.Function):
    """`(hidden_KH, teacher_KH or None, targets_K, weight_VH, bias_V or None, weight of KL) -> [total, CE]`. Only the
    total has a gradient, and only for the hidden states."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_KH: Tensor,
        teacher_KH: Tensor | None,
        targets_K: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        share: float,
    ) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient_KH = torch.empty_like(hidden_KH) if wants_gradient else None
        sums = torch.zeros(2, dtype=torch.float32, device=hidden_KH.device)
        for start in range(0, len(hidden_KH), CHUNK):
            part = slice(start, start + CHUNK)
            teacher = None if teacher_KH is None else teacher_KH[part]
            made = None if gradient_KH is None else gradient_KH[part]
            sums += _compute_chunk(hidden_KH[part], teacher, targets_K[part, None], weight_VH, bias_V, share, made)
        if gradient_KH is not None:
            ctx.save_for_backward(gradient_KH)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The saved gradient [K, H] of the hidden states, times the incoming gradient of the total."""
        (gradient_KH,) = ctx.saved_tensors
        return (gradient_KH * gradients[0][0], None, None, None, None, None)
