"""`interlace compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    HealAccumOption,
    HealBatchOption,
    HealEpochsOption,
    HealRateOption,
    HoldoutOption,
    ImageRootOption,
    JsonOption,
    MaxSamplesOption,
    ProtectOption,
    QuietOption,
    SeedOption,
    StackOption,
    WorkspaceOption,
    split_names,
)
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.core.compare import CompareOptions
    from interlace_cli.domain.comparison import Comparison

DEFAULTS = {"strategies": "interlace,sleb,shortgpt,random", "ratios": "0.25", "seeds": "0"}
BASELINES = "wanda,magnitude,dense-ft"


def compare(
    model: Annotated[str | None, typer.Argument(help="`demo` (the default), a checkpoint folder, or a Hub id.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A source as `prepare` takes it. Default for the demo model: demo.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    strategies: Annotated[
        str | None,
        typer.Option(
            "--strategies",
            help="With commas between; a strategy may carry its options, as interlace/optimal, interlace/loss,"
            f" sleb/paired. Default: {DEFAULTS['strategies']}.",
        ),
    ] = None,
    ratios: Annotated[str | None, typer.Option("--ratios", help="Such as 0.1,0.25. Default: 0.25.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Of healing, such as 0,1,2. Default: 0.")] = None,
    more_seeds_at: Annotated[
        float | None, typer.Option("--more-seeds-at", help="Heal with more than the first seed at this ratio alone.")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", help="Of healing, as `finetune` takes it; may be repeated. Default: ce."),
    ] = None,
    compensate: Annotated[
        list[str] | None,
        typer.Option("--compensate", help="Before healing: none or linear; may be repeated. Default: none."),
    ] = None,
    baselines: Annotated[
        str | None, typer.Option("--baselines", help=f"Beside them; an empty string for none. Default: {BASELINES}.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML or TOML with these options; the command line goes first.")
    ] = None,
    protect: ProtectOption = None,
    stack: StackOption = None,
    max_samples: MaxSamplesOption = None,
    holdout: HoldoutOption = None,
    image_root: ImageRootOption = None,
    epochs: HealEpochsOption = None,
    lr: HealRateOption = None,
    batch_size: HealBatchOption = None,
    grad_accum: HealAccumOption = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time them against the dense model.")] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the checkpoints, in compare/checkpoints.")] = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Strategies, ratios and healing seeds on one model, beside the baselines, in one table. An interrupted comparison
    goes on where it stopped."""
    from interlace_cli.core.compare import compare_methods
    from interlace_cli.report.comparison import describe_reading

    given = {name: value for name, value in locals().items() if name in _CONFIGURED}
    options = _build_options(
        _fill(given, config), dtype=dtype, device=device, speed=speed, seed=seed, keep=keep, force=force
    )
    space, progress = Workspace(workspace), BarProgress()
    found = compare_methods(space, options, progress, lambda step, state, seconds: _say(progress, step, state, seconds))
    places = ", ".join(f"compare.{kind}" for kind in ("json", "md", "csv", "svg"))
    output.result(found, _build_table(found), *describe_reading(found), f"{space.root}: {places}")


_CONFIGURED = frozenset(
    {
        *("model", "data", "strategies", "ratios", "seeds", "more_seeds_at", "objective", "compensate"),
        *("baselines", "protect", "stack"),
        *("max_samples", "holdout", "image_root", "epochs", "lr", "batch_size", "grad_accum"),
    }
)


_NUMBERS = {
    **dict.fromkeys(("more_seeds_at", "holdout", "epochs", "lr"), float),
    **dict.fromkeys(("max_samples", "batch_size", "grad_accum"), int),
}


def _say(progress: BarProgress, step: str, state: str, seconds: float) -> None:
    if state != "running":
        progress.say(f"{step}: {f'{seconds:.1f} s' if state == 'done' else 'up to date'}")


def _fill(given: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """What the command line leaves open, from the file."""
    if config is None:
        return given
    from interlace_cli.cli.config_file import load_config

    written = load_config(config, _CONFIGURED, _NUMBERS)
    return {name: written.get(name) if value is None else value for name, value in given.items()}


def _build_options(
    given: dict[str, Any], dtype: str, device: str, speed: bool, seed: int, keep: bool, force: bool
) -> CompareOptions:
    from interlace_cli.cli.plan import build_plan_options
    from interlace_cli.cli.run import build_run_options
    from interlace_cli.core.analyze import AnalyzeOptions
    from interlace_cli.core.compare import CompareOptions
    from interlace_cli.core.evaluate import EvaluateOptions
    from interlace_cli.data.sources import SourceLocation

    strategies, baselines = (_split(given[name] or DEFAULTS.get(name)) for name in ("strategies", "baselines"))
    ratios = _read_numbers("ratios", given["ratios"], float)
    run = build_run_options(
        given["model"] or "demo",
        given["data"],
        plan=build_plan_options(ratios[0], None, None, given["protect"], False, seed),
        selection={"max_samples": given["max_samples"], "holdout": given["holdout"], "seed": seed},
        recipe={name: given[name] for name in ("epochs", "lr", "batch_size", "grad_accum")},
        analysis=AnalyzeOptions(dtype=dtype, device=device, stack=given["stack"] or "language"),
        evaluation=EvaluateOptions(dtype=dtype, device=device, speed=speed, seed=seed),
        place=SourceLocation(None if given["image_root"] is None else Path(given["image_root"])),
        has_dataset=False,
        force=force,
    )
    return CompareOptions(
        run=run,
        strategies=strategies,
        ratios=ratios,
        seeds=_read_numbers("seeds", given["seeds"], int),
        more_seeds_at=given["more_seeds_at"],
        objectives=_listed(given["objective"]) or CompareOptions.objectives,
        compensations=_listed(given["compensate"]) or CompareOptions.compensations,
        baselines=_split(BASELINES) if given["baselines"] is None else baselines,
        keep=keep,
    )


def _split(value: Any) -> tuple[str, ...]:
    """A list from a file, or text with commas."""
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else split_names(value or "")


def _listed(value: Any) -> tuple[str, ...]:
    """A list, or a single word of a file."""
    return (value,) if isinstance(value, str) else tuple(map(str, value or ()))


def _read_numbers(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    from interlace_cli.errors import UsageError

    parts = _split(DEFAULTS[name] if value is None else [value] if isinstance(value, (int, float)) else value)
    try:
        return tuple(kind(part) for part in parts)
    except ValueError as error:
        raise UsageError(f"--{name} does not take {value!r}.", "Give numbers with commas between.") from error


def _build_table(comparison: Comparison) -> Table:
    from rich.table import Table

    from interlace_cli.report.comparison import build_cells, build_columns, describe_setting

    table = Table(title=f"{comparison.model}: {describe_setting(comparison)}", title_justify="left")
    for place, column in enumerate(build_columns(comparison)):
        table.add_column(column, justify="left" if place == 0 else "right")
    last: float | None = None
    for row in comparison.rows:
        if row.ratio != last:
            table.add_section()
        last = row.ratio
        table.add_row(*build_cells(row, comparison.num_layers), style=None if row.is_healed else "dim")
    return table
