"""The loss that is measured: cross-entropy of the answers' tokens, with logits computed only where there is a label.
The loss that is trained is in `healing/loss.py`.

Shape legend: B samples, T tokens, K positions at which any row of the batch has a label, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from interlace_cli.data.batches import IGNORE, Inputs


def keep_label_positions(batch: Inputs) -> Inputs:
    """The batch with `labels` [B, K], the next token's at the K positions that have one in any row, and with
    `logits_to_keep` [K], those positions: transformers then computes no logits at the others."""
    next_labels_BT = functional.pad(batch["labels"], (0, 1), value=IGNORE)[:, 1:]
    positions_K = (next_labels_BT != IGNORE).any(0).nonzero()[:, 0]
    if not len(positions_K):
        positions_K = torch.tensor([next_labels_BT.shape[1] - 1])
    return {**batch, "labels": next_labels_BT[:, positions_K], "logits_to_keep": positions_K}


def answer_loss(outputs: Any, labels_BK: Tensor) -> Tensor:
    """Mean cross-entropy over the batch's answer tokens, in nats per token; 0 if there is none."""
    total = functional.cross_entropy(
        outputs.logits.flatten(0, 1).float(), labels_BK.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total / (labels_BK != IGNORE).sum().clamp(min=1)


def sum_losses(outputs: Any, labels_BK: Tensor) -> list[float]:
    """For each of the B samples the sum of the cross-entropies of its labels, in nats."""
    logits_BKV = outputs.logits.float()
    losses_BK = functional.cross_entropy(logits_BKV.transpose(1, 2), labels_BK, ignore_index=IGNORE, reduction="none")
    return [float(value) for value in losses_BK.double().sum(-1)]
