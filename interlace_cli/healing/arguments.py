"""The Trainer's arguments, on the device that was asked for."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import patch_environment

from interlace_cli.errors import UsageError, first_line
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.io.models import import_transformers

transformers = import_transformers()


class Arguments(transformers.TrainingArguments):  # type: ignore[misc, name-defined]
    """One process trains on its current GPU (`runtime/device.py`). transformers takes the first one, and spreads over
    all that it sees by DataParallel; it has no option to avoid either. `tests/pretended/test_placement.py` fails when
    this is no longer needed."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        if self.use_cpu or "LOCAL_RANK" in os.environ or not torch.cuda.is_available():
            usual: torch.device = super()._setup_devices
            return usual
        device = torch.device("cuda", torch.cuda.current_device())
        AcceleratorState._reset_state(reset_partial_state=True)
        with patch_environment(ACCELERATE_TORCH_DEVICE=str(device)):
            self.distributed_state = PartialState()
        self._n_gpu = 1
        return device


def build_arguments(
    recipe: Recipe, how: Execution, steps: int, folder: Path, device: str, deepspeed: Any = None
) -> Arguments:
    """The Trainer's arguments for a stage of `steps` optimizer steps; `folder` is that of its checkpoints."""
    return Arguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.count_warmup(steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=recipe.optim,
        bf16=recipe.dtype == "bfloat16",
        fp16=recipe.dtype == "float16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=how.choose_save_every(steps),
        # While the newest is being written, the one before it is complete.
        save_total_limit=2,
        # The dataset itself leaves out the finished steps.
        ignore_data_skip=True,
        report_to=how.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        seed=recipe.seed,
        deepspeed=deepspeed,
        ddp_find_unused_parameters=False,
    )


def check_arguments(recipe: Recipe, how: Execution, folder: Path, device: str) -> None:
    """Raises UsageError for an `--optim` or `--report-to` that the Trainer does not know or that is not installed, and
    for float16 on a CPU."""
    if device == "cpu" and recipe.dtype == "float16":
        raise UsageError(
            "healing in float16 needs a GPU: the Trainer scales its losses there alone.",
            "Give --dtype bfloat16 or float32.",
        )
    try:
        arguments = build_arguments(recipe, how, 1, folder, device)
        transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ValueError, ImportError) as error:
        raise UsageError(f"--optim {recipe.optim} cannot be used here: {error}") from error
    try:
        # That one is known is not to say that it is installed: its constructor does.
        for callback in transformers.integrations.get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"--report-to: {first_line(error)}") from error
