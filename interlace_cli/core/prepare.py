"""`prepare`: a reproducible sample of conversations with images, split so that no image is in two splits.

Records are read unit by unit, several at a time, into a folder beside the dataset, which an interrupted call goes on
from (`data/staging.py`); when all are there, splits are decided and the dataset is written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from interlace_cli.core.step import INPUTS, Step, describe_differences
from interlace_cli.data.files_read import describe_source_changes, find_source_inputs, hash_files_read, save_files_read
from interlace_cli.data.joining import Joined, join_units
from interlace_cli.data.sampling import CLUSTERS
from interlace_cli.data.source import Draw, Selection, Source
from interlace_cli.data.sources import SourceLocation, has_files, locate, open_source
from interlace_cli.data.splitting import describe_small
from interlace_cli.data.staging import TABLE, Staged, Staging, gather_units, stage_units
from interlace_cli.data.tables import describe_key
from interlace_cli.domain.dataset import Manifest, SourceDraw, SplitFacts
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import DatasetError, UsageError
from interlace_cli.io.artifacts import build_origin, save_artifact, to_json_text
from interlace_cli.io.datasets import DATA, MANIFEST, to_line
from interlace_cli.io.files import check_free, folder_being_made, hash_bytes, parse_json
from interlace_cli.io.paths import expand_home
from interlace_cli.io.sample_tables import SampleStore, SampleWriter, count_rows
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.prepare import RATINGS, PrepareOptions

ORIGIN = "source.json"
"""The file in a dataset that says where its source lay on this machine."""


def prepare(options: PrepareOptions, progress: Progress) -> Manifest:
    """Draws the sample and writes the dataset. Raises ExistsError if one is there, DatasetError if no record can be
    used."""
    return build_step(options).run(progress, options.force)


def build_step(options: PrepareOptions) -> Step[Manifest]:
    """The dataset depends on the options and on the content of every file that is read for it."""
    out = options.out or Workspace(options.workspace).dataset
    location = find_location(options)

    def make(progress: Progress, may_replace: bool) -> Manifest:
        return _make_dataset(options, out, progress, may_replace)

    # What is read is known once it was read: what lies there says which files these are.
    inputs, broken = {}, ""
    if (out / MANIFEST).exists():
        try:
            inputs = find_source_inputs(options.source, location, out)
        except (DatasetError, UsageError) as error:
            broken = error.what.rstrip(".")

    def find_differences(manifest: Manifest, step: Step[Manifest]) -> list[str]:
        return [broken] if broken else _find_differences(manifest, step, options)

    return Step(
        name="prepare",
        settings=build_settings(options),
        inputs=inputs,
        out=out,
        file=MANIFEST,
        record=Manifest,
        make=make,
        find_differences=find_differences,
    )


def _find_differences(manifest: Manifest, step: Step[Manifest], options: PrepareOptions) -> list[str]:
    """Of files of the source that have changed, which ones."""
    reasons = describe_differences(manifest, step.settings, step.inputs)
    if manifest.inputs.get("source") == step.inputs.get("source") or not has_files(options.source):
        return reasons
    changes = describe_source_changes(options.source, find_location(options), step.out)
    return [reason for reason in reasons if not reason.startswith(INPUTS["source"])] + (changes or reasons[-1:])


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


def load_origin(dataset: Path) -> dict[str, Any] | None:
    """Where the source of a dataset lay when it was made: options of `prepare`; None where it does not say, or says
    what cannot be."""
    try:
        found = parse_json((dataset / ORIGIN).read_bytes())
    except OSError:
        return None
    if not isinstance(found, dict) or "source" not in found:
        return None
    paths = {name: found[name] for name in ("source", "image_root", "mirror") if name in found}
    return paths if all(isinstance(path, str) and path for path in paths.values()) else None


def _make_dataset(options: PrepareOptions, out: Path, progress: Progress, may_replace: bool) -> Manifest:
    check_free(out, may_replace)
    location, selection = find_location(options), build_selection(options)
    source = open_source(options.source, location)
    draw = source.draw(selection)
    for line in (describe_draw(source, draw), *draw.notes):
        if line:
            progress.say(line)
    settings = build_settings(options)
    key = hash_bytes(repr((Manifest.SCHEMA, settings, source.revision, describe_key(draw.units))).encode())[:16]
    staging = Staging(out, key)
    done = stage_units(source, draw, selection, staging, progress, options.threads)
    staged = gather_units(source, draw, staging, done, options.threads)
    assert staged is not None, "a unit that was just read is not there"
    if not staged.samples:
        reason = Counter(staged.skipped).most_common(1)
        why = f"the most frequent reason is: {reason[0][0]}" if reason else "it is empty"
        staging.clear()
        raise DatasetError(f"{options.source} has no record that can be used; {why}.", "See the format in the README.")
    joined = join_units(staged, selection)
    notes = [*draw.notes, *describe_small({split: len(samples) for split, samples in joined.splits.items()}, selection)]
    with folder_being_made(out, may_replace) as draft:
        facts = _write_splits(draft, staged, joined, progress)
        save_files_read(draft, staged.files_read)
        if staged.files_read:
            (draft / ORIGIN).write_text(to_json_text(_describe_origin(options)))
        manifest = Manifest(
            kind=Manifest.KIND,
            schema_version=Manifest.SCHEMA,
            created_by=build_origin("prepare", settings),
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
            notes=notes,
        )
        save_artifact(manifest, draft / MANIFEST)
    staging.clear()
    for note in notes[len(draw.notes) :]:
        progress.say(note)
    return manifest


def _describe_origin(options: PrepareOptions) -> dict[str, str]:
    """Of this machine, as `files.jsonl` is: for `interlace status`, which asks whether the source has changed."""
    named = {"source": options.source, "image_root": options.image_root, "mirror": options.mirror}
    found = {name: locate(path) for name, path in named.items() if path is not None}
    return found if has_files(options.source) else {**found, "source": options.source}


def draw_source(options: PrepareOptions) -> SourceDraw:
    """What would be read."""
    source = open_source(options.source, find_location(options))
    draw = source.draw(build_selection(options))
    return SourceDraw(
        source=source.name,
        revision=source.revision,
        selection=draw.method,
        records=draw.records,
        draws=list(draw.parts),
        description=" ".join(line for line in (describe_draw(source, draw), *draw.notes) if line),
    )


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


def _write_splits(draft: Path, staged: Staged, joined: Joined, progress: Progress) -> dict[str, SplitFacts]:
    """Each sample is read once more where it was staged, written, and forgotten."""
    import numpy as np

    facts, store = {}, SampleStore()
    tables = staged.find_files(TABLE)
    ends = np.cumsum([count_rows(path) for path in tables])
    numbers = dict(zip(joined.repeats.rows.tolist(), joined.repeats.numbers.tolist(), strict=True))
    with progress.task("write", sum(map(len, joined.splits.values())), "samples") as advance:
        for split, rows in joined.splits.items():
            writer, digest, names = SampleWriter(draft / DATA, split), hashlib.sha256(), set[str]()
            for row in rows.tolist():
                table = int(np.searchsorted(ends, row, "right"))
                sample, images = store.load(tables[table], row - int(ends[table - 1] if table else 0))
                if row in numbers:
                    sample = sample.model_copy(update={"id": f"{sample.id}#{numbers[row]}"})
                writer.add(sample, images)
                digest.update(to_line(sample))
                names.update(sample.image)
                advance()
            writer.close()
            facts[split] = SplitFacts(samples=len(rows), images=len(names), sha256=digest.hexdigest())
    return facts
