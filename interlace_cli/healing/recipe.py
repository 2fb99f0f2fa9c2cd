"""The healing recipe. Its defaults are the paper's (method.md, "What is trained")."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """AdamW without weight decay, gradient norm cut at 1, cosine schedule.

    `warmup` is a share of the steps; `batch_size` is in sequences a device; images are scaled to between `min_pixels`
    and `max_pixels`; `precision` is auto, fp32, bf16 or fp16 (tuned weights are fp32 in any case).
    """

    lr: float = 1e-5
    epochs: float = 1.0
    batch_size: int = 16
    grad_accum: int = 2
    warmup: float = 0.03
    max_length: int = 8192
    min_pixels: int = 784
    max_pixels: int = 50176
    precision: str = "auto"
    gradient_checkpointing: bool = False
    report_to: str = "none"
    seed: int = 0

    def count_steps(self, samples: int) -> int:
        """Optimizer steps on one device."""
        batches = math.ceil(samples / self.batch_size)
        return max(math.ceil(self.epochs * math.ceil(batches / self.grad_accum)), 1)


PRECISIONS = ("auto", "fp32", "bf16", "fp16")
