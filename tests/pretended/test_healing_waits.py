"""Healing on a GPU: a row's loss and gradients wait for nothing of ours."""

from __future__ import annotations

import pytest
import torch
from packed_samples import split_inputs
from pretend import Pretend
from tiny import TINY

from interlace_cli.data.rows import build_rows
from interlace_cli.healing.loss import HeadLoss, LogitsLoss


@pytest.mark.parametrize("loss", ["head", "logits"])
def test_a_row_waits_for_nothing_of_ours(loss: str, gpu: Pretend) -> None:
    """Its labels are found on the host, before it is moved."""
    model = TINY["qwen3_vl"].build_model().to("cuda")
    (row,) = build_rows(split_inputs(model, TINY["qwen3_vl"].build_inputs()), True, 10_000, 4)
    there = row.to("cuda", torch.float32)
    head = model.get_output_embeddings().requires_grad_(False)
    way = HeadLoss(head) if loss == "head" else LogitsLoss()
    with torch.no_grad():
        wanted = way.teacher_targets(model, there)
    gpu.waits.clear()
    way.compute(model, there, wanted, 0.5)[0].backward()
    assert not [place for place in gpu.waits if "@ loss.py" in place]
    alone = TINY["qwen3_vl"].build_model()
    (row,) = build_rows(split_inputs(alone, TINY["qwen3_vl"].build_inputs()), True, 10_000, 4)
    masked = alone(**row.arguments).logits[row.is_label_BK]
    assert torch.equal(LogitsLoss().teacher_targets(alone, row), masked)
