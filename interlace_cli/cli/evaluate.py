"""`interlace eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    AttentionOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    OutOption,
    QuietOption,
    SeedOption,
    WorkspaceOption,
)
from interlace_cli.io.workspace import Workspace


def evaluate(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, the dense one first. Default: the workspace's dense, pruned and healed."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="A prepared dataset, instead of the workspace's.")
    ] = None,
    out: OutOption = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Evaluate at most this many.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 32,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 32,
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", min=1)] = None,
    max_pixels: Annotated[int | None, typer.Option("--max-pixels", min=1)] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time them, all loaded at once.")] = True,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed repeats.")] = 7,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    attention: AttentionOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Dense, pruned and healed side by side: quality, retention with an interval, size and speed."""
    from interlace_cli.cli.result_table import build_kind_table, build_result_table
    from interlace_cli.core.evaluate import EvaluateOptions, evaluate_checkpoints, find_checkpoints
    from interlace_cli.io.files import check_free
    from interlace_cli.io.workspace import require

    space = Workspace(workspace)
    path = out or space.evaluation
    check_free(path, force)
    options = EvaluateOptions(
        samples, batch_size, max_new_tokens, dtype, device, attention, min_pixels, max_pixels, speed, repeats, seed
    )
    named = find_checkpoints(checkpoints, space)
    found = evaluate_checkpoints(named, require(dataset or space.dataset), path, options, BarProgress())
    output.result(found, build_kind_table(found), build_result_table(found), f"{path}")
