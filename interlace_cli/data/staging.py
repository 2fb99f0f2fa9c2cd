"""The records that `prepare` has read so far: one file for each unit of the source, which is there when it is whole.

Units are read by several threads; what comes of them does not depend on how many, or on where a call was interrupted.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from interlace_cli.data.source import Draw, RawRecord, Selection, Source, Unit
from interlace_cli.domain.dataset import Sample, Skipped
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Record
from interlace_cli.errors import ArtifactError
from interlace_cli.io.artifacts import load_record, to_json
from interlace_cli.io.files import explained, hash_bytes, write_atomically
from interlace_cli.io.images import inspect_image
from interlace_cli.io.integrity import digest_files
from interlace_cli.io.sample_tables import NAME_DIGITS, SampleWriter, read_outline

IMAGE_MARK = "<image>"
MOST_IMAGES, MOST_TURNS, MOST_TEXT = 64, 400, 100_000
"""Of a record; a template is rendered anew for every answer, so that turns cost their square."""


class StagedUnit(Record):
    """What a unit came to, beside its samples, which are in `files` (name -> checksum); `splits` are those of sources
    that have their own, `unasked` the places of samples that `eval` leaves out."""

    records: int
    samples: int
    files: dict[str, str]
    skipped: list[Skipped]
    splits: list[str] = []
    unasked: list[int] = []


class StagedSample(NamedTuple):
    """Where a sample lies, and all that decides its split: a million of them are to fit into memory."""

    id: str
    image: tuple[str, ...]
    file: Path
    row: int


@dataclass(frozen=True)
class Staged:
    """All units together, ids made unique; `splits` and `unasked` by id."""

    samples: list[StagedSample]
    skipped: list[Skipped]
    splits: dict[str, str]
    unasked: set[str]


class Staging:
    """The folder beside `out`; `key` stands for everything that decides the records."""

    def __init__(self, out: Path, key: str) -> None:
        self.out, self.folder = out, out.parent / f".{out.name}.preparing-{key}"

    def find(self, number: int) -> StagedUnit | None:
        """A unit that is whole, and as it was written; any other is read again."""
        try:
            unit = load_record(self._mark(number), StagedUnit)
            found = digest_files([self.folder / name for name in unit.files])
        except (ArtifactError, OSError):
            return None
        is_same = all(found[self.folder / name] == digest for name, digest in unit.files.items())
        return unit if is_same else None

    def outline(self, unit: StagedUnit) -> Iterator[StagedSample]:
        """The samples of a unit that is whole."""
        for name in unit.files:
            path = self.folder / name
            yield from (StagedSample(*sample, path, row) for row, sample in enumerate(read_outline(path)))

    def open_writer(self, number: int) -> SampleWriter:
        """For the samples of a unit."""
        return SampleWriter(self.folder, f"unit-{number:06d}")

    def finish(self, number: int, writer: SampleWriter, unit: StagedUnit) -> StagedUnit:
        """Closes the writer and says that the unit is whole. Returns it with its files."""
        files = {path.name: digest for path, digest in digest_files(writer.close()).items()}
        whole = unit.model_copy(update={"files": files})
        write_atomically(self._mark(number), to_json(whole))
        return whole

    def clear(self) -> None:
        """Nothing here is of use any more, nor what another selection left for the same dataset."""
        for folder in self.out.parent.glob(f".{self.out.name}.preparing-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _mark(self, number: int) -> Path:
        return self.folder / f"unit-{number:06d}.json"


def stage_units(
    source: Source, draw: Draw, selection: Selection, staging: Staging, progress: Progress, threads: int
) -> Staged:
    """Reads every unit that is not there yet, and returns them all in the order of the draw."""
    done = {number: found for number in range(len(draw.units)) if (found := staging.find(number)) is not None}
    if done:
        progress.say(f"Going on from {len(done)} of {len(draw.units)} pieces that an earlier call has read.")
    missing = [number for number in range(len(draw.units)) if number not in done]
    with progress.task("prepare", draw.records, "records") as advance:
        advance(sum(draw.units[number].records for number in done))
        for number, unit in _read_in_threads(source, draw, selection, staging, missing, threads):
            done[number] = unit
            advance(draw.units[number].records)
    return _join(staging, [done[number] for number in range(len(draw.units))])


def _read_in_threads(
    source: Source, draw: Draw, selection: Selection, staging: Staging, numbers: list[int], threads: int
) -> Iterator[tuple[int, StagedUnit]]:
    """As they become ready. No more are begun than there are threads: an interruption waits for these alone."""
    waiting = iter(numbers)
    with ThreadPoolExecutor(threads) as pool:

        def begin(number: int) -> tuple[Future[StagedUnit], int]:
            return pool.submit(_read_unit, source, draw.units[number], selection, staging, number), number

        running = dict(begin(number) for _, number in zip(range(threads), waiting, strict=False))
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                yield number, future.result()
                running |= dict(begin(number) for number in [next(waiting, None)] if number is not None)


def _read_unit(source: Source, unit: Unit, selection: Selection, staging: Staging, number: int) -> StagedUnit:
    """Writes samples as they come: a unit may be larger than the memory."""
    count, skipped = 0, list[Skipped]()
    splits, unasked = list[str](), list[int]()
    writer = staging.open_writer(number)
    for record in source.iter_records(unit, selection):
        made = record if isinstance(record, Skipped) else _build_sample(record, source.name)
        if isinstance(made, Skipped):
            skipped.append(made.model_copy(update={"record": _to_text(made.record)}))
            continue
        if isinstance(record, RawRecord):
            splits += [record.split] if record.split else []
            unasked += [] if record.is_asked else [count]
        with explained(staging.out):
            writer.add(*made)
        count += 1
    found = StagedUnit(records=unit.records, samples=count, files={}, skipped=skipped, splits=splits, unasked=unasked)
    with explained(staging.out):
        return staging.finish(number, writer, found)


def _build_sample(record: RawRecord, source: str) -> tuple[Sample, dict[str, bytes]] | Skipped:
    """The record as a sample, and its images named by content; or why it cannot be used."""
    # Names of files, whose bytes need not be a text.
    record = replace(record, id=_to_text(record.id), part=record.part and _to_text(record.part))
    if len(record.images) > MOST_IMAGES:
        return Skipped(record=record.id, reason=f"more than {MOST_IMAGES} images")
    if len(record.conversations) > MOST_TURNS:
        return Skipped(record=record.id, reason=f"more than {MOST_TURNS} turns")
    if sum(len(turn.value) for turn in record.conversations) > MOST_TEXT:
        return Skipped(record=record.id, reason=f"more than {MOST_TEXT:,} characters of text")
    images: dict[str, bytes] = {}
    names = []
    for data in record.images:
        suffix, reason = inspect_image(data)
        if suffix is None:
            return Skipped(record=record.id, reason=reason)
        names.append(f"{hash_bytes(data)[:NAME_DIGITS]}.{suffix}")
        images[names[-1]] = data
    turns = [
        turn.model_copy(update={"value": turn.value.replace(IMAGE_MARK, "").strip()}) for turn in record.conversations
    ]
    if any(not turn.value for turn in turns):
        return Skipped(record=record.id, reason="a turn has no text beside the image")
    sample = Sample(
        id=record.id,
        image=names,
        conversations=turns,
        source=record.part or source,
        kind=record.kind,
        metric=record.metric,
        answers=list(record.answers),
        choices=list(record.choices),
    )
    return sample, images


def _to_text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _join(staging: Staging, units: list[StagedUnit]) -> Staged:
    used: Counter[str] = Counter()
    joined = Staged([], [], {}, set())
    for unit in units:
        joined.skipped.extend(unit.skipped)
        for place, sample in enumerate(staging.outline(unit)):
            name = _make_unique(sample.id, used)
            joined.samples.append(sample._replace(id=name))
            if unit.splits:
                joined.splits[name] = unit.splits[place]
            if place in unit.unasked:
                joined.unasked.add(name)
    return joined


def _make_unique(name: str, used: Counter[str]) -> str:
    """Ids are the source's own, and nothing keeps a source from using one twice: the second `x` becomes `x#2`."""
    unique = name
    while used[unique]:
        used[name] += 1
        unique = f"{name}#{used[name]}"
    used[unique] += 1
    return unique
