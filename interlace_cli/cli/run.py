"""`interlace run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    AssignOption,
    CalibrationOption,
    DataRevisionOption,
    DebugOption,
    DeviceOption,
    DropOption,
    DtypeOption,
    ForceOption,
    HealAccumOption,
    HealBatchOption,
    HealEpochsOption,
    HealObjectiveOption,
    HealRateOption,
    HoldoutOption,
    ImageRootOption,
    JsonOption,
    MaxSamplesOption,
    MirrorOption,
    PaperOption,
    PortionOption,
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
)
from interlace_cli.domain.scores import Assign, Rank
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from interlace_cli.core.analyze import AnalyzeOptions
    from interlace_cli.core.evaluate import EvaluateOptions
    from interlace_cli.core.run import RunOptions
    from interlace_cli.data.sources import SourceLocation


def run(
    model: Annotated[str, typer.Argument(help="`demo`, a checkpoint folder, or a Hub id.")] = "demo",
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="A source as `prepare` takes it. Default: the workspace's dataset; for the demo model, demo."
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    ratio: RatioOption = None,
    drop: DropOption = None,
    strategy: StrategyOption = None,
    stack: StackOption = None,
    protect: ProtectOption = None,
    paper: PaperOption = False,
    rank: RankOption = Rank.SIMILARITY,
    assign: AssignOption = Assign.GREEDY,
    tune: TuneOption = None,
    threshold: ThresholdOption = None,
    weight: WeightOption = None,
    portion: PortionOption = None,
    max_samples: MaxSamplesOption = None,
    holdout: HoldoutOption = None,
    calibration: CalibrationOption = 0.1,
    image_root: ImageRootOption = None,
    revision: DataRevisionOption = None,
    mirror: MirrorOption = None,
    epochs: HealEpochsOption = None,
    lr: HealRateOption = None,
    batch_size: HealBatchOption = None,
    grad_accum: HealAccumOption = None,
    objective: HealObjectiveOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time the checkpoints.")] = True,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The whole chain: prepare, analyze, plan, prune, finetune, eval, export. What is up to date is skipped."""
    from interlace_cli.cli.evaluate import build_evaluation_tables
    from interlace_cli.cli.layer_table import build_layer_table, describe_plan
    from interlace_cli.cli.plan import build_plan_options
    from interlace_cli.cli.run_view import RunView
    from interlace_cli.core.analyze import AnalyzeOptions
    from interlace_cli.core.evaluate import EvaluateOptions
    from interlace_cli.core.run import run_chain
    from interlace_cli.data.sources import SourceLocation
    from interlace_cli.domain.evaluation import Evaluation
    from interlace_cli.domain.plan import Plan
    from interlace_cli.io.artifacts import load_artifact
    from interlace_cli.io.datasets import MANIFEST

    space = Workspace(workspace)
    ratio = 0.25 if ratio is None and drop is None else ratio
    options = build_run_options(
        model,
        data,
        plan=build_plan_options(ratio, drop, strategy, protect, paper, seed, rank, assign, tune, threshold, weight),
        selection={
            "portion": portion,
            "max_samples": max_samples,
            "holdout": holdout,
            "calibration": calibration,
            "seed": seed,
        },
        recipe={
            "epochs": epochs,
            "lr": lr,
            "batch_size": batch_size,
            "grad_accum": grad_accum,
            "objective": objective,
            "seed": seed,
        },
        analysis=AnalyzeOptions(dtype=dtype, device=device, stack=stack or "language"),
        evaluation=EvaluateOptions(dtype=dtype, device=device, speed=speed, seed=seed),
        place=SourceLocation(image_root, revision, mirror),
        has_dataset=(space.dataset / MANIFEST).exists(),
        force=force,
    )
    with RunView(BarProgress()) as view:
        record = run_chain(space, options, view.progress, view.on_step)
    plan = load_artifact(space.plan, Plan)
    evaluation = load_artifact(space.evaluation, Evaluation)
    output.result(
        record,
        build_layer_table(plan),
        describe_plan(plan),
        *build_evaluation_tables(evaluation),
        _describe_recipe(record.recipe, is_demo=options.model == "demo"),
        f"workspace: {space.root}\nreport: {space.report}\nready to load or publish: {space.export}",
    )


def build_run_options(
    model: str,
    data: str | None,
    plan: Any,
    selection: dict[str, Any],
    recipe: dict[str, Any],
    analysis: AnalyzeOptions,
    evaluation: EvaluateOptions,
    place: SourceLocation,
    has_dataset: bool,
    force: bool,
) -> RunOptions:
    """`run`'s options, also `compare`'s. With no source the workspace's dataset is taken if it has one. Fills in what
    was not said: the demo has a recipe and a split of its own, any other model the paper's."""
    from dataclasses import replace

    from interlace_cli.core.run import DEMO_RECIPE, DEMO_SELECTION, RunOptions
    from interlace_cli.data.source import Selection
    from interlace_cli.errors import UsageError
    from interlace_cli.healing.recipe import Recipe

    is_demo = model == "demo"
    if data is None and not is_demo and not has_dataset:
        raise UsageError(
            f"run {model} needs --data.", "Give a source as `prepare` takes it, or run `interlace prepare` first."
        )
    base_recipe = DEMO_RECIPE if is_demo else Recipe()
    base_selection = DEMO_SELECTION if is_demo and data in (None, "demo") else Selection()
    return RunOptions(
        model=model,
        source=data or ("demo" if is_demo else None),
        place=place,
        selection=replace(base_selection, **_given(selection)),
        analyze=analysis,
        plan=plan,
        recipe=replace(base_recipe, **_given(recipe)),
        evaluate=evaluation,
        force=force,
    )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _describe_recipe(recipe: dict[str, Any], is_demo: bool) -> str:
    whose = "the demo's own, its model being so small" if is_demo else "the paper's unless said otherwise"
    names = ("objective", "lr", "epochs", "batch_size", "grad_accum", "precision", "seed")
    return f"healing recipe ({whose}): " + ", ".join(f"{name} {recipe[name]}" for name in names if name in recipe)
