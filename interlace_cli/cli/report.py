"""`interlace report`."""

from __future__ import annotations

from typing import Annotated

import typer

from interlace_cli.cli.console import output
from interlace_cli.cli.options import DEFAULT_WORKSPACE, DebugOption, OutOption, QuietOption, WorkspaceOption
from interlace_cli.io.workspace import Workspace


def report(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: OutOption = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """One page of what the workspace holds: similarities, roles, scores, losses, speed, and where each is from."""
    from interlace_cli.core.report import write_report

    space = Workspace(workspace)
    path = out or space.report
    write_report(space, path)
    output.say(f"{path}")
    if open_page:
        typer.launch(str(path))
