"""`interlace compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.compare import CompareOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.comparison import Comparison


def compare(options: CompareOptions) -> None:
    """Compare strategies, ratios and healing seeds on one model, beside the baselines, in one table. An interrupted
    comparison goes on where it stopped."""
    from interlace_cli.core.compare import compare as compare_methods
    from interlace_cli.report.comparison import describe_reading

    progress, space = BarProgress(), Workspace(options.workspace)
    found = compare_methods(options, progress, lambda step, state, seconds: _say(progress, step, state, seconds))
    files = ", ".join(f"compare.{kind}" for kind in ("json", "md", "csv", "svg"))
    output.result(found, _build_table(found), *describe_reading(found), f"{space.root}: {files}")


def _say(progress: BarProgress, step: str, state: str, seconds: float) -> None:
    if state != "running":
        progress.say(f"{step}: {f'{seconds:.1f} s' if state == 'done' else 'up to date'}")


def _build_table(comparison: Comparison) -> Table:
    from rich.table import Table

    from interlace_cli.report.comparison import build_cells, build_columns, describe_setting

    table = Table(title=f"{comparison.model}: {describe_setting(comparison)}", title_justify="left")
    for number, column in enumerate(build_columns(comparison)):
        table.add_column(column, justify="left" if number == 0 else "right")
    last: float | None = None
    for row in comparison.rows:
        if row.ratio != last:
            table.add_section()
        last = row.ratio
        table.add_row(*build_cells(row, comparison.num_layers), style=None if row.is_healed else "dim")
    return table
