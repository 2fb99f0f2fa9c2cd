"""`interlace report`."""

from __future__ import annotations

import typer

from interlace_cli.cli.console import output
from interlace_cli.options.report import ReportOptions


def report(options: ReportOptions) -> None:
    """Write one page of what the workspace holds: similarities, roles, scores, losses, speed and provenance."""
    from interlace_cli.core.report import report as write_page

    path = write_page(options)
    output.say(f"{path}")
    if options.open:
        typer.launch(str(path))
