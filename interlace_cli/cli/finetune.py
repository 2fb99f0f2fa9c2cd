"""`interlace finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.progress_lines import describe_time
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.finetune import FinetuneOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from interlace_cli.domain.checkpoint import HealingEstimate


def finetune(options: FinetuneOptions) -> None:
    """Heal the tuned layers of a pruned checkpoint; nothing else moves. Interrupted, the same command goes on. The
    defaults are the paper's recipe."""
    from interlace_cli.core.finetune import estimate
    from interlace_cli.core.finetune import finetune as heal
    from interlace_cli.domain.layers import describe_layers

    if options.estimate:
        found = estimate(options, BarProgress())
        output.result(found, *_describe_estimate(found), lambda: _show_ways(found))
        return
    card = heal(options, BarProgress())
    healing, space = card.healing, Workspace(options.workspace)
    assert healing is not None
    before, after = healing.losses
    tuned = [card.dense_index[position] for position in card.tune]
    output.result(
        card,
        f"tuned layers {describe_layers(tuned)} ({healing.trained_parameters:,} parameters) for {healing.steps} steps;"
        f" loss {before:.4f} → {after:.4f}; every other tensor is unchanged to the bit",
        f"{options.out or (space.root / 'dense-ft' if options.dense else space.healed)}",
    )


def _show_ways(found: HealingEstimate) -> list[RenderableType]:
    from interlace_cli.cli.way_table import build_way_table

    return [build_way_table(found.ways, found.row_tokens)] if found.ways else []


def _describe_estimate(found: HealingEstimate) -> list[str]:
    steps = ", ".join(f"{seconds:.2f} s" for seconds in found.seconds_per_step)
    where = "of the device" if found.device != "cpu" else "of the process"
    return [
        f"{found.steps} steps of {found.tokens_per_step:,} tokens ({found.labels_per_step:,} with a label), {steps}"
        f" each; rows: {found.layout}",
        f"about {describe_time(found.seconds)} on this {found.device}, and {found.peak_memory_bytes / 2**30:.2f} GiB"
        f" {where}",
        f"{found.flops_per_step / 1e12:.3g} TFLOP a step without the vision tower; the released recipe's way takes"
        f" {found.released_flops_per_step / found.flops_per_step:.2f} times as many",
    ]
