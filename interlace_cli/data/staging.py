"""The records that `prepare` has read so far: one file for each unit of the source, which is there when it is whole.

Units are read by several threads; what comes of them does not depend on how many, or on where a call was interrupted.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from interlace_cli.data.files_read import hash_files_read
from interlace_cli.data.samples import build_sample, to_text
from interlace_cli.data.source import Draw, RawRecord, Selection, Source
from interlace_cli.domain.dataset import Skipped
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Record
from interlace_cli.errors import ArtifactError
from interlace_cli.io.artifacts import load_record, to_json
from interlace_cli.io.file_records import (
    FileRead,
    FileRecorder,
    Roots,
    decode_records,
    encode_records,
    has_changed,
    look_again,
)
from interlace_cli.io.files import explained, hash_bytes, write_atomically
from interlace_cli.io.integrity import digest_files
from interlace_cli.io.sample_keys import list_keys
from interlace_cli.io.sample_tables import SampleWriter, read_outline


class StagedUnit(Record):
    """What a unit came to, beside its samples, which are in `files` (name -> checksum); `splits` are those of sources
    that have their own, `unasked` the indices of samples that `eval` leaves out, `texts` the index of each sample
    without images and the key of what it says. `files_read`: sha256 of the list of local files that it was read from,
    which lies beside it; `draw`: the hash of those that the draw was made from."""

    records: int
    samples: int
    files: dict[str, str]
    files_read: str
    draw: str
    skipped: list[Skipped]
    splits: list[str] = []
    unasked: list[int] = []
    texts: list[tuple[int, str]] = []


class StagedSample(NamedTuple):
    """Where a sample lies (`row` of `file`), and the fields that decide its split. A million of these fit into
    memory."""

    id: str
    image: tuple[str, ...]
    file: Path
    row: int


@dataclass(frozen=True)
class Staged:
    """All units together, ids made unique. `splits`: sample id -> split, of sources that have their own; `unasked`: ids
    of samples that `eval` leaves out; `texts`: id of a sample without images -> key of what it says; `files_read`: all
    local files that anything was read from, by name."""

    samples: list[StagedSample]
    skipped: list[Skipped]
    splits: dict[str, str]
    unasked: set[str]
    texts: dict[str, str]
    files_read: list[FileRead]


class Staging:
    """The folder beside `out`; `key` stands for everything that decides the records."""

    def __init__(self, out: Path, key: str) -> None:
        self.out, self.folder = out, out.parent / f".{out.name}.preparing-{key}"

    def find(self, number: int) -> StagedUnit | None:
        """A unit that is whole and as it was written; None for any other."""
        try:
            unit = load_record(self._mark(number), StagedUnit)
            found = digest_files([self.folder / name for name in unit.files])
            lines = self._list(number).read_bytes()
        except (ArtifactError, OSError):
            return None
        is_same = all(found[self.folder / name] == digest for name, digest in unit.files.items())
        return unit if is_same and hash_bytes(lines) == unit.files_read else None

    def load_files_read(self, number: int) -> list[FileRead]:
        """The local files that a unit that is whole was read from, as they were then."""
        return decode_records(self._list(number).read_bytes())

    def outline(self, unit: StagedUnit) -> Iterator[StagedSample]:
        """The samples of a unit that is whole, in the order in which they were read."""
        for name in unit.files:
            path = self.folder / name
            yield from (StagedSample(*sample, path, row) for row, sample in enumerate(read_outline(path)))

    def open_writer(self, number: int) -> SampleWriter:
        """The writer for the samples of unit `number`."""
        return SampleWriter(self.folder, f"unit-{number:06d}")

    def finish(self, number: int, writer: SampleWriter, unit: StagedUnit, files_read: Sequence[FileRead]) -> StagedUnit:
        """Closes the writer and says that the unit is whole. Returns it with its files."""
        files = {path.name: digest for path, digest in digest_files(writer.close()).items()}
        lines = encode_records(files_read)
        write_atomically(self._list(number), lines)
        whole = unit.model_copy(update={"files": files, "files_read": hash_bytes(lines)})
        write_atomically(self._mark(number), to_json(whole))
        return whole

    def clear(self) -> None:
        """Removes this folder, and those that calls with other keys have left for the same dataset."""
        for folder in self.out.parent.glob(f".{self.out.name}.preparing-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _mark(self, number: int) -> Path:
        return self.folder / f"unit-{number:06d}.json"

    def _list(self, number: int) -> Path:
        return self.folder / f"unit-{number:06d}.files.jsonl"


def stage_units(
    source: Source, draw: Draw, selection: Selection, staging: Staging, progress: Progress, threads: int
) -> Staged:
    """Reads every unit that is not there yet, or was read from files that have changed since, and returns them all in
    the order of the draw."""
    drawn_from = hash_files_read(draw.files_read)
    found = {number: _find_current(staging, number, drawn_from, source.roots) for number in range(len(draw.units))}
    done = {number: unit for number, unit in found.items() if unit is not None}
    if done:
        progress.say(f"Going on from {len(done)} of {len(draw.units)} pieces that an earlier call has read.")
    missing = [number for number in range(len(draw.units)) if number not in done]
    reader = _UnitReader(source, draw, selection, staging, drawn_from)
    with progress.task("prepare", draw.records, "records") as advance:
        advance(sum(draw.units[number].records for number in done))
        for number, read in _read_in_threads(reader, missing, threads):
            done[number] = read
            advance(draw.units[number].records)
    ordered = [done[number] for number in range(len(draw.units))]
    recorder = FileRecorder(source.roots, draw.files_read)
    for _, files in ordered:
        recorder.add(files)
    recorder.digest_small(threads)
    return _join(staging, [unit for unit, _ in ordered], recorder.files)


def _find_current(
    staging: Staging, number: int, drawn_from: str, roots: Roots
) -> tuple[StagedUnit, list[FileRead]] | None:
    """A unit that is whole and was read from files that are still the same; with these, as they are now."""
    unit = staging.find(number)
    if unit is None or unit.draw != drawn_from:
        return None
    recorded = staging.load_files_read(number)
    now = look_again(recorded, roots)
    return None if any(map(has_changed, recorded, now)) else (unit, now)


@dataclass(frozen=True)
class _UnitReader:
    """Reads units of one draw into one staging folder."""

    source: Source
    draw: Draw
    selection: Selection
    staging: Staging
    drawn_from: str

    def read(self, number: int) -> tuple[StagedUnit, list[FileRead]]:
        """Writes samples as they come: a unit may be larger than the memory. Returns the unit and the local files that
        it was read from."""
        count, skipped = 0, list[Skipped]()
        splits, unasked, texts = list[str](), list[int](), list[tuple[int, str]]()
        unit, staging = self.draw.units[number], self.staging
        writer, files = staging.open_writer(number), FileRecorder(self.source.roots)
        for record in self.source.iter_records(unit, self.selection, files):
            made = record if isinstance(record, Skipped) else build_sample(record, self.source.name)
            if isinstance(made, Skipped):
                skipped.append(made.model_copy(update={"record": to_text(made.record)}))
                continue
            if isinstance(record, RawRecord):
                splits += [record.split] if record.split else []
                unasked += [] if record.is_asked else [count]
            texts += [] if made[0].image else [(count, f"{list_keys(made[0])[0]:016x}")]
            with explained(staging.out):
                writer.add(*made)
            count += 1
        read = StagedUnit(
            records=unit.records,
            samples=count,
            files={},
            files_read="",
            draw=self.drawn_from,
            skipped=skipped,
            splits=splits,
            unasked=unasked,
            texts=texts,
        )
        with explained(staging.out):
            return staging.finish(number, writer, read, files.files), files.files


def _read_in_threads(
    reader: _UnitReader, numbers: list[int], threads: int
) -> Iterator[tuple[int, tuple[StagedUnit, list[FileRead]]]]:
    """As they become ready. No more are begun than there are threads: an interruption waits for these alone."""
    waiting = iter(numbers)
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(reader.read, number): number for _, number in zip(range(threads), waiting, strict=False)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                yield number, future.result()
                running |= {pool.submit(reader.read, following): following for following in islice(waiting, 1)}


def _join(staging: Staging, units: list[StagedUnit], files_read: list[FileRead]) -> Staged:
    used: Counter[str] = Counter()
    joined = Staged([], [], {}, set(), {}, files_read)
    for unit in units:
        joined.skipped.extend(unit.skipped)
        unasked, texts = set(unit.unasked), dict(unit.texts)
        for index, sample in enumerate(staging.outline(unit)):
            name = _make_unique(sample.id, used)
            joined.samples.append(sample._replace(id=name))
            if unit.splits:
                joined.splits[name] = unit.splits[index]
            if index in unasked:
                joined.unasked.add(name)
            if index in texts:
                joined.texts[name] = texts[index]
    return joined


def _make_unique(name: str, used: Counter[str]) -> str:
    """Ids are the source's own, and nothing keeps a source from using one twice: the second `x` becomes `x#2`."""
    unique = name
    while used[unique]:
        used[name] += 1
        unique = f"{name}#{used[name]}"
    used[unique] += 1
    return unique
