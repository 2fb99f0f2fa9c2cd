"""`interlace bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.options.bench import BenchOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.benchmark import Benchmark


def bench(options: BenchOptions) -> None:
    """Time two ways to do the same in turns, in one run, on this machine."""
    from interlace_cli.core.bench import append_benchmark, run_benchmark
    from interlace_cli.report.benchmark import describe_notes

    found = run_benchmark(options, BarProgress())
    if options.append is not None:
        append_benchmark(found, options.append)
    notes = [f"{case.name}: {line}" for case in found.cases for line in describe_notes(case)]
    output.result(found, _build_table(found), *notes)


def _build_table(found: Benchmark) -> Table:
    from rich.table import Table

    from interlace_cli.report.benchmark import COLUMNS, build_cells

    versions = ", ".join(f"{name} {value}" for name, value in found.versions.items())
    table = Table(*COLUMNS, title=f"{found.part} {found.shape}; {found.machine}; {versions}", title_justify="left")
    for case in found.cases:
        table.add_row(*build_cells(case), style="red" if case.is_reached is False else None)
    return table
