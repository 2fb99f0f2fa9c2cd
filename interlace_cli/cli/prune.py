"""`interlace prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    ForceOption,
    JsonOption,
    OutOption,
    QuietOption,
    WorkspaceOption,
)
from interlace_cli.io.workspace import Workspace


def prune(
    model: Annotated[
        str | None, typer.Argument(help="`demo`, a checkpoint folder, or a Hub id. Default: the plan's model.")
    ] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="A plan, instead of the workspace's.")] = None,
    drop_layers: Annotated[
        str | None, typer.Option("--drop-layers", help="Drop exactly these, such as 3,6, with no plan.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: OutOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """A new checkpoint without the dropped layers, by surgery on disk: the model is never built."""
    from interlace_cli.core.prune import prune_by_plan, prune_layers
    from interlace_cli.domain.layers import describe_layers, parse_layers
    from interlace_cli.errors import UsageError

    space = Workspace(workspace)
    folder = out or space.pruned
    if drop_layers is not None:
        if plan is not None:
            raise UsageError("--plan and --drop-layers both say what to drop.", "Give one of them.")
        if model is None:
            raise UsageError("--drop-layers needs a MODEL.", "Such as `interlace prune demo --drop-layers 3,6`.")
        card = prune_layers(model, parse_layers(drop_layers, "--drop-layers"), folder, BarProgress(), force)
    else:
        card = prune_by_plan(model, plan or space.plan, folder, BarProgress(), force)
    left = len(card.dense_index)
    output.result(
        card,
        f"{card.base.name}: dropped {describe_layers(card.dropped)}; {left} of {card.base.num_layers} layers stay, now"
        f" 0-{left - 1}",
        f"{folder}",
    )
