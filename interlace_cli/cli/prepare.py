"""`interlace prepare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.prepare import PrepareOptions

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.dataset import Manifest, SourceDraw


def prepare(options: PrepareOptions) -> None:
    """Draw a reproducible sample of conversations with images, in splits that share no image. An interrupted call goes
    on where it stopped."""
    from interlace_cli.core.prepare import draw_source
    from interlace_cli.core.prepare import prepare as make_dataset
    from interlace_cli.domain.dataset import StagedShare

    if options.dry_run:
        drawn = draw_source(options)
        output.result(drawn, _build_draw_table(drawn), *([drawn.description] if drawn.description else []))
        return
    made = make_dataset(options, BarProgress())
    if isinstance(made, StagedShare):
        output.result(made, f"share {made.share}: {made.units} pieces are read")
        return
    output.result(made, _build_table(made), f"{options.out or Workspace(options.workspace).dataset}")


def _build_table(manifest: Manifest) -> Table:
    from rich.table import Table

    at = f" at {manifest.revision[:12]}" if manifest.revision else ""
    table = Table("split", "samples", "images", title=f"dataset from {manifest.source}{at}", title_justify="left")
    for name, facts in manifest.splits.items():
        table.add_row(name, f"{facts.samples:,}", f"{facts.images:,}")
    for reason, count in sorted(manifest.skipped.items()):
        table.add_row(f"skipped: {reason}", f"{count:,}", "", style="yellow")
    return table


def _build_draw_table(drawn: SourceDraw) -> Table:
    from rich.table import Table

    table = Table("part", title=f"what would be read of {drawn.source}", title_justify="left")
    for column in ("records", "of", "row groups", "files", "MB"):
        table.add_column(column, justify="right")
    for part in drawn.draws:
        size = f"{part.bytes / 1e6:,.1f}"
        table.add_row(part.part, f"{part.taken:,}", f"{part.available:,}", f"{part.groups:,}", f"{part.files:,}", size)
    if not drawn.draws:
        table.add_row("all", f"{drawn.records:,}", "", "", "", "")
    return table
