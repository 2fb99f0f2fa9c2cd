"""`interlace prepare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    HELP_HOLDOUT,
    CalibrationOption,
    DebugOption,
    ForceOption,
    ImageRootOption,
    JsonOption,
    MaxSamplesOption,
    OutOption,
    PortionOption,
    QuietOption,
    SeedOption,
    WorkspaceOption,
)
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.dataset import Manifest


def prepare(
    source: Annotated[str, typer.Argument(help="`demo`, or a JSON or JSONL file in the released format.")] = "demo",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: OutOption = None,
    portion: PortionOption = 1.0,
    max_samples: MaxSamplesOption = None,
    holdout: Annotated[float, typer.Option("--holdout", min=0.0, max=0.9, help=HELP_HOLDOUT)] = 0.1,
    calibration: CalibrationOption = 0.1,
    image_root: ImageRootOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """A reproducible sample of conversations with images, in splits that share no image."""
    from interlace_cli.core.prepare import prepare_dataset
    from interlace_cli.data.source import Selection

    folder = out or Workspace(workspace).dataset
    selection = Selection(portion, max_samples, holdout, calibration, seed)
    manifest = prepare_dataset(source, folder, selection, BarProgress(), image_root, force)
    output.result(manifest, _build_table(manifest), f"{folder}")


def _build_table(manifest: Manifest) -> Table:
    from rich.table import Table

    table = Table("split", "samples", "images", title=f"dataset from {manifest.source}", title_justify="left")
    for name, facts in manifest.splits.items():
        table.add_row(name, f"{facts.samples:,}", f"{facts.images:,}")
    for reason, count in sorted(manifest.skipped.items()):
        table.add_row(f"skipped: {reason}", f"{count:,}", "", style="yellow")
    return table
