"""`interlace status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import output
from interlace_cli.options.report import StatusOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.status import Status

STYLES = {"up to date": "green", "stale": "yellow", "damaged": "red", "incomplete": "yellow", "missing": "dim"}


def status(options: StatusOptions) -> None:
    """Say what the workspace holds, what each part was made from, what is stale and why, and what `run` would do."""
    from interlace_cli.core.status import describe_workspace

    found = describe_workspace(options)
    words = [*(f"{line}." for line in found.mismatches), *([found.note] if found.note else [])]
    output.result(found, _build_table(found), *words)


def _build_table(found: Status) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{found.workspace}: {found.model or 'no model'}"
    table = Table("step", "there", "what it is", "state", "`run` would", title=title, title_justify="left")
    for one in found.holdings:
        state = Text(one.condition, style=STYLES.get(one.condition, ""))
        if one.reasons:
            state.append(f"\n{'; '.join(one.reasons)}", style="dim")
        ahead = one.run_would + (f"\n{'; '.join(one.run_because)}" if one.run_because else "")
        table.add_row(one.step, one.path if one.condition != "missing" else "", one.what, state, ahead)
    return table
