"""`interlace eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.evaluate import EvaluateOptions
from interlace_cli.runtime.processes import find_processes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from interlace_cli.domain.evaluation import Evaluation


def evaluate(options: EvaluateOptions) -> None:
    """Put dense, pruned and healed side by side: quality, retention with an interval, size and speed; or the benchmarks
    of an outside harness. The workspace's report is written too, unless --out names another place."""
    from interlace_cli.core.evaluate import evaluate as measure
    from interlace_cli.core.report import write_report

    is_main = find_processes().is_main
    if (options.harness or options.import_results) and not is_main:
        # One process does these by itself.
        return
    found, space = measure(options, BarProgress()), Workspace(options.workspace)
    if options.out is None and is_main:
        write_report(space, space.report)
    output.result(found, *build_evaluation_tables(found), f"{options.out or space.evaluation}")


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
