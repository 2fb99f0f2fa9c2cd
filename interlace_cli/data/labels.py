"""The loss that is measured: cross-entropy of the answers' tokens, with logits computed only where there is a label.
The loss that is trained is in `healing/loss.py`.

Shape legend: B samples, T tokens, K positions at which any row of the batch has a label, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from interlace_cli.data.batches import IGNORE, Inputs
from interlace_cli.runtime.wide import to_wide


def keep_label_positions(batch: Inputs) -> Inputs:
    """The batch with `labels` [B, K], the next token's at the K positions that have one in any row, and with
    `logits_to_keep` [K], those positions: transformers then computes no logits at the others."""
    next_labels_BT = functional.pad(batch["labels"], (0, 1), value=IGNORE)[:, 1:]
    positions_K = (next_labels_BT != IGNORE).any(0).nonzero()[:, 0]
    if not len(positions_K):
        positions_K = torch.tensor([next_labels_BT.shape[1] - 1])
    return {**batch, "labels": next_labels_BT[:, positions_K], "logits_to_keep": positions_K}


def keep_positions(values: Tensor, positions_K: Tensor | None) -> Tensor:
    """Logits or hidden states [B, K, ...] at the positions that were asked for. Some models know no `logits_to_keep`
    (Qwen-Omni, VideoLLaMA 3) and return those of all tokens."""
    if positions_K is None or values.shape[1] == len(positions_K):
        return values
    return values[:, positions_K.to(values.device)]


def answer_loss(outputs: Any, labels_BK: Tensor, positions_K: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the batch's answer tokens, in nats per token; 0 if there is none. `positions_K` is the
    batch's `logits_to_keep`."""
    logits_BKV = keep_positions(outputs.logits, positions_K)
    total = functional.cross_entropy(
        logits_BKV.flatten(0, 1).float(), labels_BK.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total / (labels_BK != IGNORE).sum().clamp(min=1)


def read_losses(losses: Sequence[Tensor]) -> list[list[float]]:
    """The values [B] of each batch; the device is waited for once."""
    if not losses:
        return []
    values, sizes = torch.cat(list(losses)).tolist(), [len(batch) for batch in losses]
    return [values[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]


def sum_losses(outputs: Any, labels_BK: Tensor, positions_K: Tensor | None = None) -> Tensor:
    """For each of the B samples the sum of the cross-entropies of its labels, in nats: [B] in float64, on the device.
    `positions_K` is the batch's `logits_to_keep`."""
    logits_BKV = keep_positions(outputs.logits, positions_K).float()
    losses_BK = functional.cross_entropy(logits_BKV.transpose(1, 2), labels_BK, ignore_index=IGNORE, reduction="none")
    return to_wide(losses_BK).double().sum(-1)
