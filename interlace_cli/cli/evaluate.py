"""`interlace eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    parse_pairs,
)
from interlace_cli.errors import UsageError
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import RenderableType

    from interlace_cli.domain.evaluation import Evaluation
    from interlace_cli.evaluation.harness.runner import HarnessOptions
    from interlace_cli.evaluation.tasks import EvalTask

HARNESS_PANEL = "Outside harnesses"


def evaluate(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, the dense one first. Default: the workspace's dense, pruned and healed."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="A prepared dataset, instead of the workspace's.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            help="A YAML, TOML or JSON file of tasks, instead of the held-out split; with --harness: `paper`, or"
            " benchmarks with commas between.",
        ),
    ] = None,
    out: OutOption = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Evaluate at most this many.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Default: 32; of a harness 1.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 32,
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", min=1)] = None,
    max_pixels: Annotated[int | None, typer.Option("--max-pixels", min=1)] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time them, all loaded at once.")] = True,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed repeats.")] = 7,
    harness: Annotated[
        str | None,
        typer.Option("--harness", help="lmms-eval or vlmevalkit, beside what is there.", rich_help_panel=HARNESS_PANEL),
    ] = None,
    harness_model: Annotated[
        str | None,
        typer.Option("--harness-model", help="The harness's class for the model.", rich_help_panel=HARNESS_PANEL),
    ] = None,
    harness_arg: Annotated[
        list[str] | None,
        typer.Option("--harness-arg", help="name=value for that class; repeatable.", rich_help_panel=HARNESS_PANEL),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option("--include-path", help="A folder of lmms-eval tasks.", rich_help_panel=HARNESS_PANEL),
    ] = None,
    import_results: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            help="NAME=PATH: results of a harness that are there already, the dense model's first; repeatable.",
            rich_help_panel=HARNESS_PANEL,
        ),
    ] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    attention: AttentionOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Dense, pruned and healed side by side: quality, retention with an interval, size and speed; or the benchmarks of
    an outside harness."""
    from interlace_cli.core.evaluate import EvaluateOptions, evaluate_checkpoints, find_checkpoints
    from interlace_cli.core.report import write_report
    from interlace_cli.io.files import check_free

    space = Workspace(workspace)
    path = out or space.evaluation
    if import_results:
        found = _import(import_results, checkpoints, space, path, force)
    elif harness is not None:
        from interlace_cli.evaluation.harness.runner import HarnessOptions

        options = HarnessOptions(
            harness, harness_model, tuple(harness_arg or ()), batch_size or 1, samples, include_path
        )
        found = _run_harness(find_checkpoints(checkpoints, space), tasks or "paper", space, path, options, force)
    else:
        check_free(path, force)
        evaluate_options = EvaluateOptions(
            samples,
            batch_size or 32,
            max_new_tokens,
            dtype,
            device,
            attention,
            min_pixels,
            max_pixels,
            speed,
            repeats,
            seed,
        )
        named = find_checkpoints(checkpoints, space)
        asked = _find_tasks(tasks, dataset, space, samples)
        found = evaluate_checkpoints(named, asked, path, evaluate_options, BarProgress())
    write_report(space, path.with_name(space.report.name), path)
    output.result(found, *build_evaluation_tables(found), f"{path}")


def build_evaluation_tables(found: Evaluation) -> list[RenderableType]:
    """All that an evaluation has to show."""
    from interlace_cli.cli.result_table import build_benchmark_table, build_kind_table, build_result_table

    parts: list[RenderableType] = []
    if found.results:
        parts += [build_kind_table(found), build_result_table(found)]
    if found.benchmarks:
        parts.append(build_benchmark_table(found.benchmarks))
        parts += [f"not run: {name}: {why}" for name, why in found.benchmarks.not_run.items()]
    return parts


def _find_tasks(tasks: str | None, dataset: Path | None, space: Workspace, samples: int | None) -> list[EvalTask]:
    from interlace_cli.core.tasks import load_heldout, load_tasks
    from interlace_cli.io.workspace import require

    if tasks is None:
        return load_heldout(require(dataset or space.dataset), samples)
    path = Path(tasks).expanduser()
    if not path.is_file():
        raise UsageError(f"--tasks {tasks} is no file.", "Name benchmarks only together with --harness.")
    return load_tasks(path, space.root / "tasks", BarProgress())


def _run_harness(
    named: list[tuple[str, str]], tasks: str, space: Workspace, out: Path, options: HarnessOptions, force: bool
) -> Evaluation:
    from interlace_cli.evaluation.harness.benchmarks import choose_benchmarks
    from interlace_cli.evaluation.harness.runner import check_replaceable, run_harness, save_benchmarks
    from interlace_cli.families.model_files import open_model

    asked = choose_benchmarks(tasks)
    check_replaceable(out, {name: open_model(location).facts.fingerprint for name, location in named}, force)
    return save_benchmarks(run_harness(named, asked, space.root / "harness", options, BarProgress()), out)


def _import(given: list[str], checkpoints: list[str] | None, space: Workspace, out: Path, force: bool) -> Evaluation:
    from interlace_cli.core.evaluate import find_checkpoints
    from interlace_cli.evaluation.harness.runner import check_replaceable, import_results, save_benchmarks
    from interlace_cli.families.model_files import open_model

    pairs = [(name, Path(path).expanduser()) for name, path in parse_pairs(given, "--import")]
    known = find_checkpoints(checkpoints, space) if checkpoints or space.pruned.exists() else []
    wanted = {name for name, _ in pairs}
    fingerprints = {name: open_model(location).facts.fingerprint for name, location in known if name in wanted}
    found = import_results(pairs, fingerprints)
    check_replaceable(out, fingerprints, force)
    return save_benchmarks(found, out)
