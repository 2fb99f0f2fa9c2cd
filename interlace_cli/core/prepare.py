"""`prepare`: a reproducible sample of conversations with images, split so that no image is in two splits.

Records are read unit by unit, several at a time, into a folder beside the dataset, which an interrupted call goes on
from (`data/staging.py`); when all are there, splits are decided and the dataset is written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from interlace_cli.data.sampling import CLUSTERS
from interlace_cli.data.source import Draw, Selection, Source
from interlace_cli.data.sources import SourceLocation, open_source
from interlace_cli.data.splitting import assign_splits, order_by_image
from interlace_cli.data.staging import Staged, StagedSample, Staging, stage_units
from interlace_cli.data.tables import describe_key
from interlace_cli.domain.dataset import SPLITS, Manifest, Skipped, SourceDraw, SplitFacts
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import DatasetError
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.io.datasets import DATA, MANIFEST, to_line
from interlace_cli.io.files import check_free, folder_being_made, hash_bytes, hash_file
from interlace_cli.io.sample_tables import SampleStore, SampleWriter

THREADS = 8


def build_settings(source: str, selection: Selection, place: SourceLocation = SourceLocation()) -> Settings:  # noqa: B008
    """Everything the sample depends on beside the source; the source by its name, not its path."""
    own = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(selection).items()}
    own["ratings"] = dict(selection.ratings)
    return {"source": Path(source).name, "revision": place.revision, **own}


def hash_source(source: str) -> dict[str, str]:
    """What a dataset is made from: a local file's sha256, of a folder that of its files' names and sizes; what is on
    the Hub is known by its commit."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "\n".join(f"{file.relative_to(path)} {file.stat().st_size}" for file in files)
        return {"source": hash_bytes(listing.encode())}
    return {"source": hash_file(path)} if path.is_file() else {}


def prepare_dataset(
    source_name: str,
    out: Path,
    selection: Selection,
    progress: Progress,
    place: SourceLocation = SourceLocation(),  # noqa: B008
    force: bool = False,
    threads: int = THREADS,
) -> Manifest:
    """Reads `selection` of the source and writes the dataset folder `out`.

    Records that cannot be used are counted in the manifest with the reason. Raises DatasetError if none can be used.
    """
    check_free(out, force)
    source = open_source(source_name, place)
    draw = source.draw(selection)
    for line in (describe_draw(source, draw), *draw.notes):
        if line:
            progress.say(line)
    settings, inputs = build_settings(source_name, selection, place), hash_source(source_name)
    # Where a copy and the images lie decides what is read, though it is no part of what the sample is called.
    where = [None if path is None else str(path.resolve()) for path in (place.image_root, place.mirror)]
    key = hash_bytes(repr((settings, inputs, source.revision, where, describe_key(draw.units))).encode())[:16]
    staging = Staging(out, key)
    staged = stage_units(source, draw, selection, staging, progress, threads)
    if not staged.samples:
        reason = Counter({item.reason: item.count for item in staged.skipped}).most_common(1)
        why = f"the most frequent reason is: {reason[0][0]}" if reason else "it is empty"
        staging.clear()
        raise DatasetError(f"{source_name} has no record that can be used; {why}.", "See the format in the README.")
    with folder_being_made(out, force) as draft:
        splits = _decide_splits(staged, selection)
        kinds: Counter[str] = Counter()
        facts = _write_splits(draft, splits, kinds, progress)
        manifest = Manifest(
            kind=Manifest.KIND,
            schema_version=Manifest.SCHEMA,
            created_by=build_origin("prepare", settings),
            inputs=inputs,
            source=source.name,
            location=source.location,
            revision=source.revision,
            selection=draw.method,
            draws=list(draw.parts),
            splits=facts,
            kinds=dict(kinds),
            skipped=_count(staged.skipped),
            skipped_records=staged.skipped[: Manifest.LISTED],
        )
        save_artifact(manifest, draft / MANIFEST)
    staging.clear()
    return manifest


def draw_source(source_name: str, selection: Selection, place: SourceLocation) -> SourceDraw:
    """What would be read."""
    source = open_source(source_name, place)
    draw = source.draw(selection)
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


def _decide_splits(staged: Staged, selection: Selection) -> dict[str, list[StagedSample]]:
    """Split -> samples, those that share images next to each other."""
    own = staged.splits
    splits = own or assign_splits(staged.samples, selection)
    result: dict[str, list[StagedSample]] = {}
    for split in SPLITS:
        members = [sample for sample in staged.samples if splits[sample.id] == split]
        if split == "heldout":
            members = [sample for sample in members if sample.id not in staged.unasked]
        result[split] = order_by_image(members)
    return result


def _write_splits(
    draft: Path, splits: dict[str, list[StagedSample]], kinds: Counter[str], progress: Progress
) -> dict[str, SplitFacts]:
    """Each sample is read once more where it was staged, counted among its kind, written, and forgotten."""
    facts, store = {}, SampleStore()
    with progress.task("write", sum(map(len, splits.values())), "samples") as advance:
        for split, samples in splits.items():
            writer, digest = SampleWriter(draft / DATA, split), hashlib.sha256()
            for staged in samples:
                sample, images = store.load(staged.file, staged.row)
                sample = sample.model_copy(update={"id": staged.id})
                writer.add(sample, images)
                digest.update(to_line(sample))
                kinds[sample.kind] += 1
                advance()
            writer.close()
            count = len({name for sample in samples for name in sample.image})
            facts[split] = SplitFacts(samples=len(samples), images=count, sha256=digest.hexdigest())
    return facts


def _count(skipped: list[Skipped]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for item in skipped:
        counts[item.reason] += item.count
    return dict(counts)
