"""`interlace prepare`."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from interlace_cli.cli.console import BarProgress, output
from interlace_cli.cli.options import (
    DEFAULT_WORKSPACE,
    HELP_HOLDOUT,
    CalibrationOption,
    DataRevisionOption,
    DebugOption,
    ForceOption,
    ImageRootOption,
    JsonOption,
    MaxSamplesOption,
    MirrorOption,
    OutOption,
    PortionOption,
    QuietOption,
    SeedOption,
    WorkspaceOption,
)
from interlace_cli.io.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

    from interlace_cli.domain.dataset import Manifest, SourceDraw


class Method(str, Enum):
    """How rows of Parquet files are chosen."""

    CLUSTERS = "clusters"
    UNIFORM = "uniform"
    HEAD = "head"


def _rating(name: str) -> typer.models.OptionInfo:
    return typer.Option(f"--min-{name}", min=1, max=5, help="FineVision's rating, at least.", rich_help_panel="Ratings")


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="`demo`, finevision, textvqa, chartqa, scienceqa; a dataset of the Hub; a JSON, JSONL, Parquet or tar"
            " file, or a folder of such files or of images."
        ),
    ] = "demo",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: OutOption = None,
    portion: PortionOption = None,
    max_samples: MaxSamplesOption = None,
    selection: Annotated[
        Method,
        typer.Option(
            "--selection",
            help="Of Parquet files: few row groups and rows inside them; rows one by one, which reads more; or the"
            " first rows, as the released script does.",
        ),
    ] = Method.CLUSTERS,
    subset: Annotated[list[str] | None, typer.Option("--subset", help="Only this subset; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Not this subset; may be repeated.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of a Hub dataset. Default: train.")] = None,
    revision: DataRevisionOption = None,
    mirror: MirrorOption = None,
    min_relevance: Annotated[int | None, _rating("relevance")] = None,
    min_image_correspondence: Annotated[int | None, _rating("image-correspondence")] = None,
    min_formatting: Annotated[int | None, _rating("formatting")] = None,
    min_visual_dependency: Annotated[int | None, _rating("visual-dependency")] = None,
    max_images: Annotated[
        int | None, typer.Option("--max-images", min=0, help="Leave out records with more. Default for finevision: 3.")
    ] = None,
    max_messages: Annotated[
        int | None,
        typer.Option("--max-messages", min=2, help="Cut conversations at so many. Default for finevision: 5."),
    ] = None,
    holdout: Annotated[float, typer.Option("--holdout", min=0.0, max=1.0, help=HELP_HOLDOUT)] = 0.1,
    calibration: CalibrationOption = 0.1,
    image_root: ImageRootOption = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="How many files to read at a time.")] = 8,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be read, from the files' footers.")
    ] = False,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """A reproducible sample of conversations with images, in splits that share no image. An interrupted call goes on
    where it stopped."""
    from interlace_cli.core.prepare import draw_source, prepare_dataset
    from interlace_cli.data.filters import RATINGS
    from interlace_cli.data.source import Selection
    from interlace_cli.data.sources import SourceLocation

    folder = out or Workspace(workspace).dataset
    lowest = (min_relevance, min_image_correspondence, min_formatting, min_visual_dependency)
    chosen = Selection(
        portion,
        max_samples,
        holdout,
        calibration,
        seed,
        selection.value,
        tuple(subset or ()),
        tuple(exclude or ()),
        tuple((name, bar) for name, bar in zip(RATINGS, lowest, strict=True) if bar is not None),
        max_images,
        max_messages,
        split,
    )
    place = SourceLocation(image_root, revision, mirror)
    if dry_run:
        drawn = draw_source(source, chosen, place)
        output.result(drawn, _build_draw_table(drawn), *([drawn.description] if drawn.description else []))
        return
    manifest = prepare_dataset(source, folder, chosen, BarProgress(), place, force, threads)
    output.result(manifest, _build_table(manifest), f"{folder}")


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
