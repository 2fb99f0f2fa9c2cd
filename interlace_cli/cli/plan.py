"""`interlace plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    AssignOption,
    DebugOption,
    DropOption,
    FigureOption,
    ForceOption,
    JsonOption,
    OutOption,
    PaperOption,
    ProtectOption,
    QuietOption,
    RankOption,
    RatioOption,
    SeedOption,
    StackOption,
    StrategyOption,
    ThresholdOption,
    TuneOption,
    WeightOption,
    WorkspaceOption,
    parse_weights,
)
from interlace_cli.domain.scores import Assign, Rank, Tune
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import RenderableType

    from interlace_cli.core.plan import PlanOptions
    from interlace_cli.domain.plan import Plan


def plan(
    ratio: RatioOption = None,
    drop: DropOption = None,
    strategy: StrategyOption = None,
    protect: ProtectOption = None,
    paper: PaperOption = False,
    rank: RankOption = Rank.SIMILARITY,
    assign: AssignOption = Assign.GREEDY,
    tune: TuneOption = None,
    threshold: ThresholdOption = None,
    weight: WeightOption = None,
    scores: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option("--scores", help="Plan from the three released score files, with no model at hand."),
    ] = None,
    analysis: Annotated[
        Path | None, typer.Option("--analysis", help="An analysis, instead of the workspace's.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="`demo`, a folder or a Hub id whose constraints hold; its config is enough."),
    ] = None,
    stack: StackOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: OutOption = None,
    figure: FigureOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Which layers go, which are tuned, which are anchors, and why."""
    from interlace_cli.core.plan import check_replaceable
    from interlace_cli.io.artifacts import save_artifact

    space = Workspace(workspace)
    path = out or space.plan
    if figure is not None:
        from interlace_cli.core.figure import check_figure

        check_figure(figure)
    made = _make_plan(
        build_plan_options(ratio, drop, strategy, protect, paper, seed, rank, assign, tune, threshold, weight),
        strategy,
        scores,
        model,
        stack,
        analysis,
        space.analysis,
    )
    check_replaceable(path, force)
    save_artifact(made, path)
    if figure is not None:
        from interlace_cli.core.figure import save_figure
        from interlace_cli.report.strip import build_strip

        save_figure(build_strip(made), figure)
    output.result(made, lambda: _show(made), f"{path}")


def _show(plan: Plan) -> list[RenderableType]:
    from interlace_cli.cli.heat_strip import build_heat_strip
    from interlace_cli.cli.layer_table import build_layer_table, describe_plan
    from interlace_cli.report.heatmap import find_plan_rows

    rows = find_plan_rows(plan)
    strip = [build_heat_strip(rows, plan.num_layers)] if rows else []
    return [build_layer_table(plan), *strip, describe_plan(plan)]


def _make_plan(
    options: PlanOptions,
    strategy: str | None,
    scores: tuple[Path, Path, Path] | None,
    model: str | None,
    stack: str | None,
    analysis: Path | None,
    default: Path,
) -> Plan:
    """From score files, or an analysis, or a model's config alone: what was named, else what is there."""
    from dataclasses import replace

    from interlace_cli.core.plan import (
        check_options,
        has_analysis_of,
        load_constraints,
        plan_from_analysis,
        plan_from_scores,
        plan_without_scores,
    )

    check_options(options)
    if scores:
        return plan_from_scores(scores, options, load_constraints(model, stack) if model else None)
    if model is None or analysis is not None:
        return plan_from_analysis(analysis or default, options, stack)
    known = load_constraints(model, stack)
    if has_analysis_of(default, known):
        return plan_from_analysis(default, options, stack)
    if strategy is None:
        output.say(f"There are no scores for {model}: the layers are drawn at random. `interlace analyze` measures.")
        options = replace(options, strategy="random")
    return plan_without_scores(options, known)


def build_plan_options(
    ratio: float | None,
    drop: int | None,
    strategy: str | None,
    protect: str | None,
    paper: bool,
    seed: int,
    rank: Rank = Rank.SIMILARITY,
    assign: Assign = Assign.GREEDY,
    tune: Tune | None = None,
    threshold: float | None = None,
    weight: str | None = None,
) -> PlanOptions:
    """The options as `core.plan` takes them; also `run`'s."""
    from interlace_cli.core.plan import PlanOptions
    from interlace_cli.domain.layers import parse_layers

    layers = None if protect is None else tuple(parse_layers(protect, "--protect"))
    weights = parse_weights(weight)
    return PlanOptions(
        ratio, drop, strategy or "interlace", layers, paper, seed, rank, assign, tune, threshold, weights
    )
