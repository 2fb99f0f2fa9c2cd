"""The records that `prepare` has read so far: a few files for each unit of the source, which count when it is whole.

Units are read by several threads, processes or hosts; what comes of them does not depend on how many, or on where a
call was interrupted. What a unit has written is not written again: its tables become those of the dataset
(`data/joining.py`).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from interlace_cli.data.files_read import hash_files_read
from interlace_cli.data.outline import OutlineBuilder
from interlace_cli.data.samples import build_sample, to_text
from interlace_cli.data.source import Draw, RawRecord, Selection, Source
from interlace_cli.domain.dataset import Manifest, Skipped
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
from interlace_cli.io.files import explained, hash_bytes, name_scratch, write_atomically
from interlace_cli.io.integrity import digest_files
from interlace_cli.io.sample_tables import SampleWriter

TABLE, INDEXED, OUTLINE = ".parquet", ".index.npz", ".outline.npz"
"""What a unit's files end in: samples; where they lie in each table; and what decides their splits."""


class StagedUnit(Record):
    """What a unit came to, beside what is in `files` (name -> checksum). `kinds`: names of the kinds of its samples;
    `skipped`: reason -> records; `skipped_records`: the first of them. `files_read`: sha256 of the list of local files
    that it was read from, which lies beside it; `draw`: the hash of those that the draw was made from."""

    records: int
    samples: int
    files: dict[str, str]
    files_read: str
    draw: str
    kinds: list[str]
    skipped: dict[str, int]
    skipped_records: list[Skipped]


ReadUnit = tuple[StagedUnit, list[FileRead]]
"""With the local files that it was read from."""


@dataclass(frozen=True)
class Staged:
    """All units in the order of the draw, and all local files that anything was read from, by name."""

    folder: Path
    units: list[StagedUnit]
    files_read: list[FileRead]

    @property
    def samples(self) -> int:
        """Of all units."""
        return sum(unit.samples for unit in self.units)

    @property
    def skipped(self) -> dict[str, int]:
        """Reason -> records that could not be used."""
        counts: Counter[str] = Counter()
        for unit in self.units:
            counts.update(unit.skipped)
        return dict(counts)

    @property
    def skipped_records(self) -> list[Skipped]:
        """The first `Manifest.LISTED` of them."""
        return list(islice((record for unit in self.units for record in unit.skipped_records), Manifest.LISTED))

    def find_files(self, suffix: str) -> list[Path]:
        """The files of all units of one kind (TABLE, INDEXED, OUTLINE), in the order of their samples."""
        return [self.folder / name for unit in self.units for name in sorted(unit.files) if name.endswith(suffix)]


class Staging:
    """The folder beside `out`; `key` stands for everything that decides the records."""

    def __init__(self, out: Path, key: str) -> None:
        self.out, self.folder = out, out.parent / f".{out.name}.preparing-{key}"

    def find(self, number: int, is_read: bool = True) -> StagedUnit | None:
        """A unit that is whole and as it was written; None for any other. Not `is_read`: a file counts as whole if it
        is there: one that says so was written by another process that runs, or ran, without fault."""
        try:
            unit = load_record(self._mark(number), StagedUnit)
            paths = {name: self.folder / name for name in unit.files}
            if is_read:
                found = digest_files(list(paths.values()))
                is_same = all(found[paths[name]] == digest for name, digest in unit.files.items())
            else:
                is_same = all(path.is_file() for path in paths.values())
            lines = self._list(number).read_bytes()
        except (ArtifactError, OSError):
            return None
        return unit if is_same and hash_bytes(lines) == unit.files_read else None

    def has(self, number: int) -> bool:
        """Whether the unit says that it is whole."""
        return self._mark(number).exists()

    def load_files_read(self, number: int) -> list[FileRead]:
        """The local files that a unit that is whole was read from, as they were then."""
        return decode_records(self._list(number).read_bytes())

    def name_scratch(self, number: int) -> Path:
        """A new folder for what is read of a unit: two processes may read the same one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return name_scratch(self.folder / f"unit-{number:06d}")

    def finish(self, number: int, scratch: Path, unit: StagedUnit, files_read: Sequence[FileRead]) -> StagedUnit:
        """Takes the files in `scratch` and says that the unit is whole. Returns it with its files."""
        digests = digest_files(sorted(scratch.iterdir()))
        for path in digests:
            os.replace(path, self.folder / path.name)
        scratch.rmdir()
        lines = encode_records(files_read)
        write_atomically(self._list(number), lines)
        files = {path.name: digest for path, digest in digests.items()}
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
    source: Source,
    draw: Draw,
    selection: Selection,
    staging: Staging,
    progress: Progress,
    threads: int,
    numbers: Sequence[int] | None = None,
) -> dict[int, ReadUnit]:
    """Reads those units (all, or `numbers`) that are not there yet, or were read from files that have changed since.
    Returns all of them."""
    numbers = range(len(draw.units)) if numbers is None else numbers
    drawn_from = hash_files_read(draw.files_read)
    found = {number: find_current(staging, number, drawn_from, source.roots) for number in numbers}
    done = {number: unit for number, unit in found.items() if unit is not None}
    if done:
        progress.say(f"Going on from {len(done)} of {len(numbers)} pieces that an earlier call has read.")
    missing = [number for number in numbers if number not in done]
    reader = _UnitReader(source, draw, selection, staging, drawn_from)
    with progress.task("prepare", sum(draw.units[number].records for number in numbers), "records") as advance:
        advance(sum(draw.units[number].records for number in done))
        for number, read in _read_in_threads(reader, missing, threads):
            done[number] = read
            advance(draw.units[number].records)
    return done


def gather_units(
    source: Source, draw: Draw, staging: Staging, done: Mapping[int, ReadUnit], threads: int
) -> Staged | None:
    """All units, those that are `done` here and those that other processes have read; None if one is not there yet, or
    was read from files that have changed since."""
    numbers = range(len(draw.units))
    if not all(number in done or staging.has(number) for number in numbers):
        return None
    drawn_from = hash_files_read(draw.files_read)
    recorder = FileRecorder(source.roots, draw.files_read)
    units = []
    for number in numbers:
        read = done.get(number) or find_current(staging, number, drawn_from, source.roots, is_read=False)
        if read is None:
            return None
        units.append(read[0])
        recorder.add(read[1])
    recorder.digest_small(threads)
    return Staged(staging.folder, units, recorder.files)


def find_current(staging: Staging, number: int, drawn_from: str, roots: Roots, is_read: bool = True) -> ReadUnit | None:
    """A unit that is whole and was read from files that are still the same; with these, as they are now."""
    unit = staging.find(number, is_read)
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

    def read(self, number: int) -> ReadUnit:
        """Writes samples as they come: a unit may be larger than the memory. Returns the unit and the local files that
        it was read from."""
        staging, files = self.staging, FileRecorder(self.source.roots)
        with explained(staging.out):
            scratch = staging.name_scratch(number)
            scratch.mkdir()
        try:
            unit = self._write(number, scratch, files)
            with explained(staging.out):
                return staging.finish(number, scratch, unit, files.files), files.files
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def _write(self, number: int, scratch: Path, files: FileRecorder) -> StagedUnit:
        unit, name = self.draw.units[number], f"unit-{number:06d}"
        writer, outline = SampleWriter(scratch, name), OutlineBuilder(self.selection.seed)
        counts: Counter[str] = Counter()
        listed: list[Skipped] = []
        for record in self.source.iter_records(unit, self.selection, files):
            made = record if isinstance(record, Skipped) else build_sample(record, self.source.name)
            if isinstance(made, Skipped):
                counts[made.reason] += made.count
                if len(listed) < Manifest.LISTED:
                    listed.append(made.model_copy(update={"record": to_text(made.record)}))
                continue
            split, is_asked = (record.split, record.is_asked) if isinstance(record, RawRecord) else (None, True)
            outline.add(made[0].id, made[0].kind, split, is_asked)
            with explained(self.staging.out):
                writer.add(*made)
        with explained(self.staging.out):
            for path, index in zip(writer.close(), writer.indexes, strict=True):
                index.save(path.with_suffix(INDEXED))
            outline.save(scratch / f"{name}{OUTLINE}")
        return StagedUnit(
            records=unit.records,
            samples=len(outline),
            files={},
            files_read="",
            draw=self.drawn_from,
            kinds=list(outline.kinds),
            skipped=dict(counts),
            skipped_records=listed,
        )


def _read_in_threads(reader: _UnitReader, numbers: list[int], threads: int) -> Iterator[tuple[int, ReadUnit]]:
    """As they become ready. No more are begun than there are threads: an interruption waits for these alone."""
    waiting = iter(numbers)
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(reader.read, number): number for _, number in zip(range(threads), waiting, strict=False)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                yield number, future.result()
                running |= {pool.submit(reader.read, following): following for following in islice(waiting, 1)}
