"""The healing recipe: what decides the weights that come out. Its defaults are the paper's (method.md, "What is
trained"). How it is carried out (`Execution`) changes them by rounding at most."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from interlace_cli.healing.objective import Stage, parse_objective

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TORCH_ENGINES = ("auto", "ddp", "fsdp")
DEEPSPEED_ENGINES = ("zero2", "zero3", "zero3-offload")
SAVES = 20


@dataclass(frozen=True)
class Recipe:
    """Gradient norm cut at 1, no weight decay, cosine schedule.

    `batch_size` x `grad_accum` samples make an optimizer step, over all devices together; `warmup` is a share of the
    steps, and `local_share` the share of them that a first stage `local` takes; images are scaled to between
    `min_pixels` and `max_pixels`; `precision` is auto, fp32, bf16 or fp16 (tuned weights are fp32 in any case);
    `optim` is one of the Trainer's.
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
    objective: str = "ce"
    distill_weight: float = 0.5
    anchor_weight: float = 1.0
    local_share: float = 0.5
    optim: str = "adamw_torch"
    seed: int = 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Raises UsageError for an objective that is none."""
        return parse_objective(self.objective)

    @property
    def step_samples(self) -> int:
        """Samples in an optimizer step."""
        return self.batch_size * self.grad_accum

    def count_steps(self, samples: int) -> int:
        """Optimizer steps."""
        return max(math.ceil(self.epochs * math.ceil(samples / self.step_samples)), 1)

    def plan_steps(self, samples: int) -> list[list[int]]:
        """Indices of the samples of each optimizer step: in each epoch every sample once, in an order of its own."""
        steps: list[list[int]] = []
        epoch = 0
        while len(steps) < self.count_steps(samples):
            order = list(range(samples))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            steps += [order[i : i + self.step_samples] for i in range(0, samples, self.step_samples)]
            epoch += 1
        return steps[: self.count_steps(samples)]

    def divide_steps(self, steps: list[list[int]]) -> list[tuple[Stage, list[list[int]]]]:
        """The steps of each stage: all of them are done once, whatever the number of stages."""
        stages = self.stages
        if len(stages) == 1:
            return [(stages[0], steps)]
        first = min(max(round(self.local_share * len(steps)), 1), max(len(steps) - 1, 1))
        return [(stages[0], steps[:first]), (stages[1], steps[first:])]


@dataclass(frozen=True)
class Execution:
    """`save_every` steps the state is saved (0: about every twentieth of them); `engine` as `--engine` takes it."""

    device: str = "auto"
    engine: str = "auto"
    gradient_checkpointing: bool = False
    save_every: int = 0
    report_to: str = "none"

    @property
    def uses_deepspeed(self) -> bool:
        """Also where `engine` is a config file."""
        return self.engine not in TORCH_ENGINES

    def choose_save_every(self, steps: int) -> int:
        """Steps between two saves of a stage of `steps`."""
        return self.save_every or max(steps // SAVES, 1)

    def describe_state(self, processes: int) -> str:
        """What the saved state of unfinished healing can be read by: whole tensors, or one engine's own shards."""
        if self.engine in ("auto", "ddp"):
            return "whole"
        return f"{self.engine}/{processes}" if self.uses_deepspeed else self.engine
