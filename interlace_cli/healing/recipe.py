"""The healing recipe: what decides the weights that come out; and how it is carried out, which changes them by rounding
at most. The fields of both, with the paper's defaults, are in `options/finetune.py`; here is what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from interlace_cli.errors import UsageError
from interlace_cli.healing.objective import Stage, parse_objective
from interlace_cli.healing.step_plan import StepPlan, Steps
from interlace_cli.options.finetune import ExecutionOptions, FinetuneOptions, RecipeOptions

SAVES = 20
MOST_STEPS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeOptions):
    """Gradient norm cut at 1, no weight decay, cosine schedule. `batch_size` x `grad_accum` samples make an optimizer
    step, over all devices together; tuned weights are float32 whatever `dtype` says."""

    @classmethod
    def of(cls, options: FinetuneOptions) -> Recipe:
        """The recipe among the options of `finetune`."""
        return cls(**{item.name: getattr(options, item.name) for item in fields(RecipeOptions)})

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Raises UsageError for an objective that is none."""
        return parse_objective(self.objective)

    @property
    def step_samples(self) -> int:
        """Samples in an optimizer step."""
        return self.batch_size * self.grad_accum

    def count_steps(self, samples: int) -> int:
        """Optimizer steps. Raises UsageError for more than can be planned."""
        steps = self.epochs * math.ceil(samples / self.step_samples)
        if steps > MOST_STEPS:
            raise UsageError(f"--epochs {self.epochs:g} is {steps:.3g} steps, and there can be {MOST_STEPS:,}.")
        return max(math.ceil(steps), 1)

    def count_warmup(self, steps: int) -> int:
        """The steps of a stage of `steps` in which the learning rate rises. It is 0 at the first of them, as in
        transformers' schedules; so a single step has no warm-up, or it would change nothing."""
        return math.ceil(self.warmup * steps) if steps > 1 else 0

    def plan_steps(self, samples: int) -> StepPlan:
        """Indices of the samples of each optimizer step: in each epoch every sample once, in an order of its own."""
        return StepPlan(self.seed, samples, self.step_samples, range(self.count_steps(samples)))

    def divide_steps(self, steps: Steps) -> list[tuple[Stage, Steps]]:
        """The steps of each stage: all of them are done once, whatever the number of stages."""
        stages = self.stages
        if len(stages) == 1:
            return [(stages[0], steps)]
        first = min(max(round(self.local_share * len(steps)), 1), max(len(steps) - 1, 1))
        return [(stages[0], steps[:first]), (stages[1], steps[first:])]


@dataclass(frozen=True, kw_only=True)
class Execution(ExecutionOptions):
    """`save_every` steps the state is saved (0: about every twentieth of them); `engine` as `--engine` takes it."""

    @classmethod
    def of(cls, options: FinetuneOptions) -> Execution:
        """The part of the options of `finetune` that says how."""
        return cls(**{item.name: getattr(options, item.name) for item in fields(ExecutionOptions)})

    def choose_save_every(self, steps: int) -> int:
        """Steps between two saves of a stage of `steps`."""
        return self.save_every or max(steps // SAVES, 1)
