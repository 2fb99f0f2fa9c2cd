"""The parts of `prepare`: a draw is opened, its units are read, and all of them together become the dataset."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.data.files_read import hash_files_read, save_files_read
from interlace_cli.data.joining import Joined, join_units
from interlace_cli.data.sampling import CLUSTERS
from interlace_cli.data.source import Draw, Selection, Source
from interlace_cli.data.sources import SourceLocation, has_files, locate, open_source
from interlace_cli.data.splitting import describe_small
from interlace_cli.data.staging import INDEXED, TABLE, ReadUnit, Staged, Staging, gather_units, stage_units
from interlace_cli.data.tables import describe_key
from interlace_cli.domain.dataset import Manifest, SplitFacts
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import DatasetError
from interlace_cli.io.artifacts import build_origin, save_artifact, to_json_text
from interlace_cli.io.datasets import DATA, MANIFEST, PART
from interlace_cli.io.file_index import load_file_index
from interlace_cli.io.files import folder_being_made, hash_bytes
from interlace_cli.io.paths import expand_home
from interlace_cli.io.sample_index import INDEX, write_index
from interlace_cli.options.prepare import RATINGS, PrepareOptions

ORIGIN = "source.json"
"""The file in a dataset that says where its source lay on this machine."""


@dataclass(frozen=True)
class Preparation:
    """What is drawn of a source, and the folder that it is read into. It is the same in every process that is given the
    same options."""

    options: PrepareOptions
    source: Source
    selection: Selection
    draw: Draw
    staging: Staging

    def find_missing(self) -> list[int]:
        """Units that nobody has read yet."""
        return [number for number in range(len(self.draw.units)) if not self.staging.has(number)]

    def stage(self, progress: Progress, numbers: list[int] | None = None) -> dict[int, ReadUnit]:
        """Reads those units (all, or `numbers`) that are not there yet."""
        threads = self.options.threads
        return stage_units(self.source, self.draw, self.selection, self.staging, progress, threads, numbers)

    def gather(self, done: dict[int, ReadUnit]) -> Staged | None:
        """All units, `done` here or by others; None while one is missing."""
        return gather_units(self.source, self.draw, self.staging, done, self.options.threads)


def open_preparation(options: PrepareOptions, out: Path, progress: Progress) -> Preparation:
    """Draws, and says what will be read. Raises an InterlaceError for a source that cannot be read."""
    selection, source = build_selection(options), open_source(options.source, find_location(options))
    draw = source.draw(selection)
    for line in (describe_draw(source, draw), *draw.notes):
        if line:
            progress.say(line)
    known = Manifest.SCHEMA, build_settings(options), source.revision, describe_key(draw.units)
    return Preparation(options, source, selection, draw, Staging(out, hash_bytes(repr(known).encode())[:16]))


def write_dataset(made: Preparation, staged: Staged, progress: Progress, may_replace: bool) -> Manifest:
    """Decides the splits and writes the dataset. Raises DatasetError if no record can be used."""
    source, draw = made.source, made.draw
    if not staged.samples:
        reason = Counter(staged.skipped).most_common(1)
        why = f"the most frequent reason is: {reason[0][0]}" if reason else "it is empty"
        made.staging.clear()
        what = f"{made.options.source} has no record that can be used; {why}."
        raise DatasetError(what, "See the format in the README.")
    joined = join_units(staged, made.selection)
    small = describe_small({split: len(rows) for split, rows in joined.splits.items()}, made.selection)
    with folder_being_made(made.staging.out, may_replace) as draft:
        facts = _place_tables(draft, staged, joined)
        save_files_read(draft, staged.files_read)
        if staged.files_read:
            (draft / ORIGIN).write_text(to_json_text(_describe_origin(made.options)))
        manifest = Manifest(
            kind=Manifest.KIND,
            schema_version=Manifest.SCHEMA,
            created_by=build_origin("prepare", build_settings(made.options)),
            inputs={"source": hash_files_read(staged.files_read)} if staged.files_read else {},
            source=source.name,
            location=source.location,
            revision=source.revision,
            selection=draw.method,
            draws=list(draw.parts),
            splits=facts,
            kinds=joined.kinds,
            skipped=staged.skipped,
            skipped_records=staged.skipped_records,
            notes=[*draw.notes, *small],
        )
        save_artifact(manifest, draft / MANIFEST)
    made.staging.clear()
    for note in small:
        progress.say(note)
    return manifest


def _place_tables(draft: Path, staged: Staged, joined: Joined) -> dict[str, SplitFacts]:
    """The tables of the units become those of the dataset as they are; the splits are rows of them, in its index."""
    tables, indexes = staged.find_files(TABLE), staged.find_files(INDEXED)
    (draft / DATA).mkdir()
    names = [f"{PART}-{number:05d}-of-{len(tables):05d}.parquet" for number in range(len(tables))]
    for path, name in zip(tables, names, strict=True):
        try:
            os.link(path, draft / DATA / name)
        except OSError:
            # Not every file system has links. A call that is killed from here on reads the units once more.
            os.replace(path, draft / DATA / name)
    files = ((name, load_file_index(path)) for name, path in zip(names, indexes, strict=True))
    return dict(write_index(draft / INDEX, files, joined.splits, joined.repeats).splits)


def build_settings(options: PrepareOptions) -> Settings:
    """Everything the sample depends on beside the content of the source; a local source by its name, not its path."""
    is_local = expand_home(options.source).exists()
    source = Path(options.source).name if is_local else options.source
    return {**options.build_settings(), "source": source}


def build_selection(options: PrepareOptions) -> Selection:
    """The part of the options that sources read."""
    bars = ((name, getattr(options, f"min_{name}")) for name in RATINGS)
    return Selection(
        portion=options.portion,
        max_samples=options.max_samples,
        holdout=options.holdout,
        calibration=options.calibration,
        seed=options.seed,
        method=options.selection,
        subsets=options.subset,
        exclude=options.exclude,
        ratings=tuple((name, bar) for name, bar in bars if bar is not None),
        max_images=options.max_images,
        max_messages=options.max_messages,
        hub_split=options.split,
        allow_download=options.allow_download,
    )


def find_location(options: PrepareOptions) -> SourceLocation:
    """Where the source's data is looked for."""
    return SourceLocation(options.image_root, options.revision, options.mirror, options.split)


def describe_draw(source: Source, draw: Draw) -> str:
    """How much will be read, and what kind of sample that is; nothing for sources that are read whole."""
    if not draw.parts:
        return ""
    total = sum(part.bytes for part in draw.parts)
    files, groups = sum(part.files for part in draw.parts), sum(part.groups for part in draw.parts)
    available = sum(part.available for part in draw.parts)
    size = f"{total / 1e9:,.1f} GB" if total >= 1e9 else f"{total / 1e6:,.1f} MB"
    kind = (
        " This is a cluster sample: every record is equally likely, but records come in runs from few row groups, so"
        " that they are more alike than as many drawn one by one (--selection uniform, which reads more)."
        if draw.method == CLUSTERS
        else ""
    )
    return (
        f"{source.name}: {draw.records:,} of {available:,} records, from {groups:,} row groups of {files:,} files;"
        f" {size} to read.{kind}"
    )


def _describe_origin(options: PrepareOptions) -> dict[str, str]:
    """Of this machine, as `files.jsonl` is: for `interlace status`, which asks whether the source has changed."""
    named = {"source": options.source, "image_root": options.image_root, "mirror": options.mirror}
    found = {name: locate(path) for name, path in named.items() if path is not None}
    return found if has_files(options.source) else {**found, "source": options.source}
