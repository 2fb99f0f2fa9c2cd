"""`interlace export`."""

from __future__ import annotations

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.options.export import ExportOptions


def export(options: ExportOptions) -> None:
    """Write a folder for the Hub: weights, config, processor, generation config and model card; and upload it."""
    from interlace_cli.core.export import export as write_folder
    from interlace_cli.io.workspace import Workspace

    card = write_folder(options, BarProgress())
    output.result(card, f"{options.out or Workspace(options.workspace).export}")
