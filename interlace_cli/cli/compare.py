"""`interlace compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.compare import CompareOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.comparison import Comparison, GridState


def compare(options: CompareOptions) -> None:
    """Compare strategies, ratios and healing seeds on one model, beside the baselines, in one table. An interrupted
    comparison goes on where it stopped. Any number of calls may work in one workspace at once."""
    from rich.text import Text

    from interlace_cli.core.compare import compare as compare_methods
    from interlace_cli.domain.comparison import GridState, Submission
    from interlace_cli.report.comparison import describe_reading

    progress, space = BarProgress(), Workspace(options.workspace)
    found = compare_methods(options, progress, lambda step, state, seconds: _say(progress, step, state, seconds))
    if isinstance(found, Submission):
        hint = f"bash {found.script} hands it in, and so does --yes." if not found.jobs else ""
        output.result(found, *(Text(part) for part in (found.text, hint) if part))
        return
    if isinstance(found, GridState):
        output.result(found, *(Text(line) for line in _describe_state(found)))
        return
    files = ", ".join(f"compare.{kind}" for kind in ("json", "md", "csv", "svg"))
    output.result(found, _build_table(found), *describe_reading(found), f"{space.root}: {files}")


def _describe_state(state: GridState) -> list[str]:
    """What is there, and what lacks."""
    lacking = [f"{one} ({state.holders[one]} makes it)" if one in state.holders else one for one in state.lacking]
    return [
        f"{state.present} of {state.cells} cells and timings are there; these lack: {'; '.join(lacking)}",
        "Who makes the last of them writes the table; so does --collect.",
    ]


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
