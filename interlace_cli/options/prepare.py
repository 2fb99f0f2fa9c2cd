"""`prepare`: which sample of a source, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace_cli.options.option import Options, option
from interlace_cli.options.shard import parse_shard
from interlace_cli.options.shared import DATA, FORCE, OUT, SEED, WORKSPACE

RATINGS = ("relevance", "image_correspondence", "formatting", "visual_dependency")
"""FineVision's ratings of its records, 1 ... 5."""


def _rating(name: str) -> Any:
    return option(None, f"FineVision's rating of {name}, at least.", low=1, high=5, group="Ratings")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """What the sample depends on beside the content of the source."""

    source: str = option(
        "demo",
        "demo, finevision, textvqa, chartqa, scienceqa; a dataset of the Hub; a JSON, JSONL, CSV, TSV, Parquet or tar"
        " file, or a folder of such files, of save_to_disk, or of images, here or at s3://, gs://, hf://, https://.",
        is_argument=True,
        is_alone=True,
    )
    portion: float | None = option(
        None,
        "Share of the source to take.",
        low=0,
        high=1,
        shown_default="all; of finevision 0.01",
        group=DATA,
    )
    max_samples: int | None = option(None, "Take at most this many.", low=1, group=DATA)
    selection: str = option(
        "clusters",
        "How rows of Parquet files are chosen: clusters takes few row groups and rows inside them; uniform takes rows"
        " one by one, which reads more; head the first rows, as the released script does.",
        choices=("clusters", "uniform", "head"),
        run_name="data_selection",
        group=DATA,
    )
    subset: tuple[str, ...] = option((), "Only this subset; may be repeated.", group=DATA)
    exclude: tuple[str, ...] = option((), "Not this subset; may be repeated.", group=DATA)
    split: str | None = option(None, "Which split to read, of several.", shown_default="train", group=DATA)
    revision: str | None = option(
        None, "Commit, branch or tag of a Hub dataset.", shown_default="its newest commit", group=DATA
    )
    mirror: Path | None = option(
        None, "A local copy of the Hub dataset's repository, to read instead.", group=DATA, decides=False
    )
    image_root: str | None = option(
        None,
        "Folder or address that image paths are relative to.",
        shown_default="the file's",
        group=DATA,
        decides=False,
    )
    holdout: float = option(0.1, "Share of the samples to hold out for `eval`.", low=0, high=1, group=DATA)
    calibration: float = option(
        0.1, "Share of the other samples to calibrate on, for `analyze`.", low=0, high=0.9, group=DATA
    )
    min_relevance: int | None = _rating("relevance")
    min_image_correspondence: int | None = _rating("image correspondence")
    min_formatting: int | None = _rating("formatting")
    min_visual_dependency: int | None = _rating("visual dependency")
    max_images: int | None = option(
        None, "Leave out records with more images.", low=0, shown_default="of finevision 3", group=DATA
    )
    max_messages: int | None = option(
        None, "Cut conversations at so many turns.", low=2, shown_default="of finevision 5", group=DATA
    )
    allow_download: bool = option(
        False, "Fetch images that records name by a web address (64 MiB each, 2 minutes).", group=DATA
    )
    threads: int = option(8, "How many files to read at a time.", low=1, decides=False, group=DATA)
    processes: int = option(
        1, "How many processes to read in, each with so many threads.", low=1, is_alone=True, decides=False, group=DATA
    )
    shard: str | None = option(
        None,
        "Read only one of several shares, such as 2/8 for the second of eight, each in a job of its own, on any host"
        " that has the folder. The job that ends last writes the dataset.",
        metavar="I/N",
        is_alone=True,
        decides=False,
        group=DATA,
    )
    dry_run: bool = option(False, "Only say what would be read, from the files' footers.", is_alone=True, decides=False)
    seed: int = SEED.field()
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    force: bool = FORCE.field()

    @property
    def locks_workspace(self) -> bool:
        """Shares are read at the same time."""
        return self.shard is None

    def check(self) -> None:
        """Raises UsageError for a share that is none."""
        if self.shard is not None:
            parse_shard(self.shard)
