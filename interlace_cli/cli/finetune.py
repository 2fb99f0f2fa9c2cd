"""`interlace finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    DeviceOption,
    ForceOption,
    HealObjectiveOption,
    JsonOption,
    OutOption,
    ProcessesOption,
    QuietOption,
    SeedOption,
    WorkspaceOption,
    spread,
)
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from interlace_cli.core.finetune import Job
    from interlace_cli.domain.checkpoint import HealingEstimate


def finetune(
    checkpoint: Annotated[Path | None, typer.Argument(help="A pruned checkpoint. Default: the workspace's.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="A prepared dataset, instead of the workspace's.")
    ] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="A plan, instead of the workspace's.")] = None,
    tune_layers: Annotated[
        str | None, typer.Option("--tune-layers", help="Tune exactly these (dense indices), instead of the plan's.")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Train the plan's tuned layers in the dense model: the baseline Dense-FT.")
    ] = False,
    out: OutOption = None,
    epochs: Annotated[float, typer.Option("--epochs", min=0.0)] = 1.0,
    lr: Annotated[float, typer.Option("--lr", min=0.0, help="Peak learning rate.")] = 1e-5,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences on a device.")] = 16,
    grad_accum: Annotated[int, typer.Option("--grad-accum", min=1)] = 2,
    max_length: Annotated[
        int, typer.Option("--max-length", min=1, help="Tokens; a longer conversation loses its end.")
    ] = 8192,
    min_pixels: Annotated[int, typer.Option("--min-pixels", min=1)] = 784,
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1)] = 50176,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = "auto",
    objective: HealObjectiveOption = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's recipe to the letter, whatever the other options say of it.")
    ] = False,
    distill_weight: Annotated[
        float, typer.Option("--distill-weight", min=0.0, max=1.0, help="Share of the KL divergence in `distill`.")
    ] = 0.5,
    anchor_weight: Annotated[
        float, typer.Option("--anchor-weight", min=0.0, help="Of `anchor`, beside other terms.")
    ] = 1.0,
    local_share: Annotated[
        float,
        typer.Option("--local-share", min=0.0, max=1.0, help="Share of the steps in a first stage local."),
    ] = 0.5,
    optim: Annotated[
        str, typer.Option("--optim", help="An optimizer of the Trainer: adamw_torch, adamw_torch_fused, adamw_8bit ...")
    ] = "adamw_torch",
    save_every: Annotated[
        int, typer.Option("--save-every", min=0, help="Steps. Default: a twentieth of them all.")
    ] = 0,
    engine: Annotated[
        str,
        typer.Option("--engine", help="auto, ddp, fsdp, zero2, zero3, zero3-offload, or a DeepSpeed config file."),
    ] = "auto",
    processes: ProcessesOption = 1,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what time and memory it will take here, after a short trial.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    report_to: Annotated[
        str, typer.Option("--report-to", help="The Trainer's trackers: wandb, tensorboard (in runs/) ...")
    ] = "none",
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Heals the tuned layers of a pruned checkpoint; nothing else moves. Interrupted, the same command goes on. The
    defaults are the paper's recipe."""
    from interlace_cli.core.finetune import estimate_healing, heal
    from interlace_cli.domain.layers import describe_layers
    from interlace_cli.healing.recipe import Execution, Recipe
    from interlace_cli.io.workspace import require

    space = Workspace(workspace)
    folder = out or (space.root / "dense-ft" if dense else space.healed)
    recipe = Recipe(
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        grad_accum=grad_accum,
        max_length=max_length,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        precision=precision,
        objective=objective or "ce",
        distill_weight=distill_weight,
        anchor_weight=anchor_weight,
        local_share=local_share,
        optim=optim,
        seed=seed,
    )
    if paper:
        recipe = Recipe(precision=precision, seed=seed)
    how = Execution(device, engine, gradient_checkpointing, save_every, report_to)
    spread(processes, is_needed=how.uses_deepspeed)
    job = _choose_job(space, checkpoint, plan, tune_layers, dense, force)
    source = require(dataset or space.dataset)
    if estimate:
        found = estimate_healing(job, source, recipe, how)
        output.result(found, *_describe_estimate(found))
        return
    card = heal(job, source, folder, recipe, BarProgress(), how, force)
    healing = card.healing
    assert healing is not None
    tuned = [card.dense_index[position] for position in card.tune]
    output.result(
        card,
        f"tuned layers {describe_layers(tuned)} ({healing.trained_parameters:,} parameters) for {healing.steps} steps;"
        f" loss {healing.first_loss:.4f} → {healing.last_loss:.4f}; every other tensor is unchanged to the bit",
        f"{folder}",
    )


def _choose_job(
    space: Workspace, checkpoint: Path | None, plan: Path | None, tune_layers: str | None, dense: bool, force: bool
) -> Job:
    from interlace_cli.core.finetune import choose_dense, choose_pruned
    from interlace_cli.domain.layers import parse_layers
    from interlace_cli.domain.plan import Plan
    from interlace_cli.errors import UsageError
    from interlace_cli.io.artifacts import load_artifact
    from interlace_cli.io.workspace import require

    tuned = None if tune_layers is None else parse_layers(tune_layers, "--tune-layers")
    if dense:
        made = load_artifact(require(plan or space.plan), Plan)
        where = str(checkpoint) if checkpoint else made.model.location if made.model else None
        if where is None:
            raise UsageError("the plan names no model.", "Give the dense model.")
        return choose_dense(where, made.tune if tuned is None else tuned, made.stack)
    if plan is None and checkpoint is None and space.plan.exists():
        plan = space.plan
    return choose_pruned(require(checkpoint or space.pruned), plan, tuned, force)


def _describe_estimate(found: HealingEstimate) -> list[str]:
    steps = ", ".join(f"{seconds:.2f} s" for seconds in found.seconds_per_step)
    where = "of the device" if found.device != "cpu" else "of the process"
    return [
        f"{found.steps} steps of {found.tokens_per_step:,} tokens ({found.labels_per_step:,} with a label), {steps}"
        f" each; rows: {found.layout}",
        f"about {_describe_time(found.seconds)} on this {found.device}, and {found.peak_memory_bytes / 2**30:.2f} GiB"
        f" {where}",
        f"{found.flops_per_step / 1e12:.3g} TFLOP a step without the vision tower; the released recipe's way takes"
        f" {found.released_flops_per_step / found.flops_per_step:.2f} times as many",
    ]


def _describe_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
