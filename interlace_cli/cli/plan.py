"""`interlace plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interlace_cli.cli.console import output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    DropOption,
    ForceOption,
    JsonOption,
    OutOption,
    PaperOption,
    ProtectOption,
    QuietOption,
    RatioOption,
    SeedOption,
    StrategyOption,
    WorkspaceOption,
)
from interlace_cli.io.workspace import Workspace


def plan(
    ratio: RatioOption = None,
    drop: DropOption = None,
    strategy: StrategyOption = "interlace",
    protect: ProtectOption = None,
    paper: PaperOption = False,
    scores: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option("--scores", help="Plan from the three released score files, with no model at hand."),
    ] = None,
    analysis: Annotated[
        Path | None, typer.Option("--analysis", help="An analysis, instead of the workspace's.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: OutOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Which layers go, which are tuned, which are anchors, and why."""
    from interlace_cli.cli.layer_table import build_layer_table, describe_plan
    from interlace_cli.core.plan import check_replaceable, plan_from_analysis, plan_from_scores
    from interlace_cli.io.artifacts import save_artifact

    space = Workspace(workspace)
    path = out or space.plan
    options = build_plan_options(ratio, drop, strategy, protect, paper, seed)
    made = plan_from_scores(scores, options) if scores else plan_from_analysis(analysis or space.analysis, options)
    check_replaceable(path, force)
    save_artifact(made, path)
    output.result(made, build_layer_table(made), describe_plan(made), f"{path}")


def build_plan_options(  # type: ignore[no-untyped-def]
    ratio: float | None, drop: int | None, strategy: str, protect: str | None, paper: bool, seed: int
):
    """The options as `core.plan` takes them; also `run`'s."""
    from interlace_cli.core.plan import PlanOptions
    from interlace_cli.domain.layers import parse_layers

    layers = None if protect is None else tuple(parse_layers(protect, "--protect"))
    return PlanOptions(ratio, drop, strategy, layers, paper, seed)
