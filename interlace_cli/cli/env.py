"""`interlace env`."""

from __future__ import annotations

from interlace_cli.cli.console import output
from interlace_cli.options.report import EnvOptions


def env(options: EnvOptions) -> None:
    """Print versions, devices, engines and optional parts: what a bug report needs."""
    from rich.table import Table

    from interlace_cli.core.env import describe_environment

    del options
    found = describe_environment()
    table = Table("", "", show_header=False, box=None)
    for group in (found.programs, found.machine, found.optional):
        for name, value in group.items():
            table.add_row(name, value)
        table.add_section()
    output.result(found, table)
