"""Encoded samples of the tiny models, made of the inputs of `tiny.py` and `zoo.py`, without a processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.batches import IGNORE
from interlace_cli.data.rows import Encoded, PackedRow
from interlace_cli.families.packing import find_positions

LABELS = 5


def split_inputs(model: Any, inputs: dict[str, Tensor]) -> list[Encoded]:
    """The rows of a batch as samples of different lengths, with targets at the last LABELS tokens."""
    count, tokens = inputs["input_ids"].shape
    find, samples = find_positions(model), []
    for row in range(count):
        kept = tokens - 3 * row
        fields = {name: value[row, :kept] for name, value in inputs.items() if value.shape[:2] == (count, tokens)}
        whole = {name: value.chunk(count)[row] for name, value in inputs.items() if name not in fields}
        targets = torch.full((kept,), IGNORE)
        targets[-LABELS - 1 : -1] = fields["input_ids"][-LABELS:]
        alone = {name: value[None] for name, value in fields.items()} | whole
        samples.append(Encoded(fields, whole, targets, find(alone)[:, 0], 0))
    return samples


def take_gradients(model: Any, rows: list[PackedRow]) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits at the labels of all rows, and the gradients of a weighted sum of them."""
    model.zero_grad()
    logits = []
    for row in rows:
        made = model(**row.arguments).logits
        made = made if made.shape[1] == row.targets_BK.shape[1] else made[:, row.inputs["logits_to_keep"]]
        logits.append(made[row.is_label_BK])
    found = torch.cat(logits)
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found.detach(), gradients
