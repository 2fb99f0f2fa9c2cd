"""`finetune`: the healing recipe, which decides the weights, and how it is carried out, which does not.

`RecipeOptions` and `ExecutionOptions` are the whole of both; `healing/recipe.py` adds what follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError
from interlace_cli.options.option import Options, describe, option
from interlace_cli.options.shared import (
    ALLOW_MISMATCH,
    DATASET,
    DEVICE,
    DTYPE,
    FORCE,
    HEALING,
    LOCAL_WORKSPACES,
    MACHINE,
    MAX_PIXELS,
    MIN_PIXELS,
    OUT,
    PAPER,
    PLACES,
    PROCESSES,
    SEED,
    STACK,
    WORKSPACE,
    check_pixels,
    check_processes,
    parse_layers,
)

TORCH_ENGINES = ("auto", "ddp", "fsdp", "offload")
DEEPSPEED_ENGINES = ("zero2", "zero3", "zero3-offload")
HOST_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
"""What `--engine offload` takes as `--optim`: it runs torch's AdamW on the host."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Options):
    """The defaults are the paper's (INTERLACE, arXiv 2511.19676, its released training script)."""

    lr: float = option(1e-5, "Peak learning rate.", low=0, group=HEALING)
    epochs: float = option(1.0, "Passes over the training split.", low=0, group=HEALING)
    batch_size: int = option(
        16,
        "Samples in a micro-batch, summed over all devices.",
        low=1,
        run_name="heal_batch_size",
        group=HEALING,
    )
    grad_accum: int = option(2, "Micro-batches in an optimizer step.", low=1, group=HEALING)
    warmup: float = option(0.03, "Share of the steps in which the learning rate rises.", low=0, high=1, group=HEALING)
    max_length: int = option(8192, "Tokens; a longer conversation loses its end.", low=1, group=HEALING)
    min_pixels: int = MIN_PIXELS.field()
    max_pixels: int = MAX_PIXELS.field()
    objective: str = option(
        "ce",
        "ce, distill, anchor or local; terms are joined by +, and a first stage local by a comma, as in"
        " local,distill+anchor.",
        group=HEALING,
    )
    distill_weight: float = option(
        0.5, "Share of the KL divergence in the term distill; the rest is cross-entropy.", low=0, high=1, group=HEALING
    )
    anchor_weight: float = option(1.0, "Weight of the anchor (hidden-state) loss.", low=0, group=HEALING)
    local_share: float = option(0.5, "Share of the steps that a first stage local takes.", low=0, high=1, group=HEALING)
    optim: str = option(
        "adamw_torch",
        "An optimizer of the Trainer: adamw_torch (fused on a GPU), adamw_8bit ...",
        group=HEALING,
    )
    dtype: str = DTYPE.field()
    seed: int = SEED.field()


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Options):
    """These change the weights by rounding at most."""

    device: str = DEVICE.field()
    engine: str = option(
        "auto",
        "auto, ddp, fsdp, offload, zero2, zero3, zero3-offload, or a DeepSpeed config file.",
        decides=False,
        group=MACHINE,
    )
    gradient_checkpointing: bool = option(
        False, "Compute layers again in the backward pass: less memory, more time.", decides=False, group=MACHINE
    )
    save_every: int = option(
        0,
        "Steps between two saves of the state.",
        low=0,
        shown_default="a twentieth of them all",
        decides=False,
        group=HEALING,
    )
    report_to: str = option(
        "none", "The Trainer's trackers: wandb, tensorboard (in runs/) ...", decides=False, group=HEALING
    )

    @property
    def uses_deepspeed(self) -> bool:
        """Whether the engine is one of DeepSpeed's, or a config file of it."""
        return self.engine not in TORCH_ENGINES


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RecipeOptions, ExecutionOptions):
    """`checkpoint` None: the workspace's pruned one."""

    checkpoint: Path | None = option(
        None,
        "A pruned checkpoint; with --dense the dense one.",
        is_argument=True,
        is_alone=True,
        shown_default="the workspace's",
        decides=False,
    )
    plan: Path | None = option(None, "A plan, instead of the workspace's.", is_alone=True, decides=False, group=PLACES)
    tune_layers: tuple[int, ...] | None = option(
        None,
        "Tune exactly these (dense indices), instead of the plan's.",
        parse=parse_layers,
        metavar="LAYERS",
        is_alone=True,
        decides=False,
    )
    dense: bool = option(
        False, "Train the plan's tuned layers in the dense model: the baseline Dense-FT.", is_alone=True, decides=False
    )
    stack: str | None = option(
        None, f"{STACK.help} For --dense.", choices=STACK.choices, shown_default="the plan's", is_alone=True
    )
    estimate: bool = option(
        False, "Only say what time and memory it will take here, after a short trial.", is_alone=True, decides=False
    )
    paper: bool = PAPER.field()
    processes: int = PROCESSES.field()
    local_workspaces: bool = LOCAL_WORKSPACES.field()
    dataset: Path | None = DATASET.field()
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    allow_mismatch: bool = ALLOW_MISMATCH.field()
    force: bool = FORCE.field()

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        check_pixels(self.min_pixels, self.max_pixels)
        check_processes(self.processes, self.device)
        if self.stack is not None and not self.dense:
            raise UsageError("--stack belongs to --dense; a pruned checkpoint says its stack itself.", "Leave it out.")
        self._check_offload()
        if not self.paper:
            return
        for slot in describe(RecipeOptions):
            is_free = slot.name in ("dtype", "seed")
            if not is_free and getattr(self, slot.name) != slot.option.default:
                raise UsageError(f"--paper is the paper's recipe, and {slot.flag} changes it.", "Leave one out.")

    def _check_offload(self) -> None:
        if self.engine != "offload":
            return
        if self.processes > 1:
            raise UsageError(
                f"--engine offload is for one process, and --processes is {self.processes}.",
                "Take --engine zero3-offload for several.",
            )
        if self.optim not in HOST_OPTIMIZERS:
            raise UsageError(
                f"--engine offload runs torch's AdamW on the host, and --optim {self.optim} is another optimizer.",
                "Leave one of them out.",
            )

    def build_recipe_settings(self) -> dict[str, Any]:
        """The recipe as it was asked for, `auto` left as it is."""
        return self.build_settings(*(item.name for item in fields(RecipeOptions)))
