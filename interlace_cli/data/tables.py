"""Datasets whose records are rows of Parquet files, on the Hub, on disk or at an address. What a row means is the
table's own matter (`RowReader`); which rows are read is `data/sampling.py`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from interlace_cli.data.columns import find_images
from interlace_cli.data.conversations import read_record
from interlace_cli.data.filters import check_ratings, keep_record
from interlace_cli.data.pictures import PictureReader, find_folder
from interlace_cli.data.sampling import HEAD, allot_samples, draw_rows
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit
from interlace_cli.domain.dataset import PartDraw, Skipped
from interlace_cli.errors import DatasetError, UnusableRecordError, UsageError
from interlace_cli.io.file_records import IMAGES, SOURCE, FileRecorder, Root, Roots
from interlace_cli.io.repositories import Repository, find_splits, find_tables
from interlace_cli.io.split_names import describe_others
from interlace_cli.io.tables import FileFacts, TableError, read_facts, read_rows

SourceRow = dict[str, Any]
FOOTER_THREADS = 16
UNIT_BYTES, UNIT_ROWS = 256 << 20, 1 << 16
"""A file from which more is read (bytes of row groups as they are stored, rows) is several units, for each of which its
footer is read."""


class RowReader(Protocol):
    """Makes the records of a row: one, or one per distinct answer."""

    def __call__(self, row: SourceRow, record: str, images: tuple[Any, ...]) -> list[RawRecord]:
        """The records of `row`, whose images are not read yet; `record` is their id, `images` those of the image
        column. Raises UnusableRecordError if the row cannot be used."""


def read_one(row: SourceRow, record: str, images: tuple[Any, ...]) -> list[RawRecord]:
    """The one record of a row of any layout (`data/conversations.py`)."""
    return [read_record(row, record, images)]


@dataclass(frozen=True)
class TableDefaults:
    """What a source takes if the selection does not say. `last_subset`: subsets behind it are left out."""

    portion: float = 1.0
    split: str = "train"
    max_images: int | None = None
    max_messages: int | None = None
    last_subset: str | None = None


@dataclass(frozen=True)
class TableSource:
    """Records are of the kind that they name, else of their part's. `image_root`: the folder of images that are paths;
    None where they have to be in the rows."""

    repository: Repository
    name: str
    defaults: TableDefaults = TableDefaults()
    reader: RowReader = read_one
    image_root: Root | None = None
    notes: Sequence[str] = ()

    @property
    def location(self) -> str | None:
        """The Hub id."""
        return self.repository.location

    @property
    def revision(self) -> str | None:
        """The commit on the Hub."""
        return self.repository.revision

    @property
    def roots(self) -> Roots:
        """The folder of the tables, if they are local, and that of the images."""
        found = {SOURCE: self.repository.root, IMAGES: self.image_root}
        return {name: root for name, root in found.items() if root is not None}

    def draw(self, selection: Selection) -> Draw:
        """Reads the footers of the chosen subsets' files, and draws rows by them: one unit for each file, or several of
        its row groups for a large one."""
        parts = self._choose_parts(selection)
        files = [path for paths in parts.values() for path in paths]
        recorder = FileRecorder(self.roots, self.repository.files_read)
        recorder.note_opened(files)
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            facts = dict(zip(files, pool.map(partial(_read_facts, self.repository), files), strict=True))
        available = {part: sum(sum(facts[path].rows) for path in paths) for part, paths in parts.items()}
        portion = self.defaults.portion if selection.portion is None else selection.portion
        wanted = allot_samples(available, portion, selection.max_samples, selection.method == HEAD)
        units: list[Unit] = []
        drawn = []
        for part, paths in parts.items():
            own, draw = _draw_part(part, {path: facts[path] for path in paths}, wanted[part], selection)
            units += own
            drawn.append(draw)
        is_everything = sum(wanted.values()) == sum(available.values())
        method = None if is_everything else selection.method
        return Draw(units, method, drawn, self._describe_splits(selection), recorder.files)

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The records of the chosen rows of some row groups of one file."""
        part, path, groups = unit.content
        root = IMAGES if self.image_root else None
        pictures = PictureReader(files, root, selection.allow_download, find_folder(files, path))
        read = partial(self._read_row, pictures, selection, self._find_limits(selection), part)
        files.note_opened([path])
        with self.repository.open(path) as file:
            for group, rows in groups:
                where = f"{path} row group {group}"
                try:
                    for number, row in zip(rows, read_rows(file, group, rows), strict=True):
                        yield from read(f"{path}:{group}:{number}", row)
                except TableError:
                    yield Skipped(record=where, reason="row group cannot be read", count=len(rows))

    def _read_row(
        self,
        pictures: PictureReader,
        selection: Selection,
        limits: tuple[int | None, int | None],
        part: str,
        record: str,
        row: SourceRow,
    ) -> Iterator[RawRecord | Skipped]:
        try:
            check_ratings(row, selection)
            name = str(row["id"]) if row.get("id") is not None else record
            made = [one.read_images(pictures) for one in self.reader(row, name, tuple(find_images(row)))]
        except UnusableRecordError as error:
            yield Skipped(record=record, reason=str(error))
            return
        for one in made:
            kind = part if one.kind == "all" and part != "default" else one.kind
            named = self.name if part == "default" else part
            yield keep_record(replace(one, part=named, kind=kind), *limits)

    def _choose_parts(self, selection: Selection) -> dict[str, list[str]]:
        split = selection.hub_split or self.defaults.split
        parts = find_tables(self.repository, split)
        if not parts:
            others = ", ".join(find_splits(self.repository))
            if not others:
                fix = "Files of records, and images, are read where the folder itself is the source."
                raise DatasetError(f"{self.name} has no Parquet file.", fix)
            raise DatasetError(
                f"{self.name} has no Parquet file of the split {split}; it has {others}.", "Name another with --split."
            )
        unknown = [name for name in (*selection.subsets, *selection.exclude) if name not in parts]
        if unknown:
            raise UsageError(f"{self.name} has no subset {unknown[0]}.", f"It has {_describe(list(parts))}.")
        names = list(parts)
        if self.defaults.last_subset in names and not selection.subsets:
            names = names[: names.index(self.defaults.last_subset) + 1]
        chosen = [
            name
            for name in names
            if name not in selection.exclude and (not selection.subsets or name in selection.subsets)
        ]
        if not chosen:
            raise UsageError("--exclude leaves no subset.", "Exclude fewer.")
        return {name: parts[name] for name in chosen}

    def _describe_splits(self, selection: Selection) -> list[str]:
        splits = find_splits(self.repository) if selection.hub_split is None else []
        # The same files may stand under two names.
        own = find_tables(self.repository, self.defaults.split)
        others = [split for split in splits if find_tables(self.repository, split) != own]
        return [*self.notes, *describe_others(self.defaults.split, others)]

    def _find_limits(self, selection: Selection) -> tuple[int | None, int | None]:
        own = self.defaults
        images = own.max_images if selection.max_images is None else selection.max_images
        return images, own.max_messages if selection.max_messages is None else selection.max_messages


def _draw_part(
    part: str, facts: dict[str, FileFacts], wanted: int, selection: Selection
) -> tuple[list[Unit], PartDraw]:
    """The units of one part, one per file, and the sums over them."""
    groups = [(path, group) for path, own in facts.items() for group in range(len(own.rows))]
    sizes = [facts[path].rows[group] for path, group in groups]
    drawn = draw_rows(sizes, wanted, selection.method, f"{selection.seed}/{part}")
    by_file: dict[str, list[tuple[int, Sequence[int]]]] = {}
    for index, rows in drawn.items():
        path, group = groups[index]
        by_file.setdefault(path, []).append((group, rows))
    size = sum(facts[path].group_bytes[group] for path, chosen in by_file.items() for group, _ in chosen)
    units = [
        Unit(path, sum(len(rows) for _, rows in piece), (part, path, tuple(piece)))
        for path, chosen in by_file.items()
        for piece in _cut(chosen, facts[path].group_bytes)
    ]
    taken = sum(map(len, drawn.values()))
    return units, PartDraw(
        part=part, available=sum(sizes), taken=taken, groups=len(drawn), files=len(by_file), bytes=size
    )


def _cut(
    chosen: Sequence[tuple[int, Sequence[int]]], group_bytes: Sequence[int]
) -> Iterator[list[tuple[int, Sequence[int]]]]:
    """The `chosen` row groups of a file (number, rows) in their order, in pieces of UNIT_ROWS and UNIT_BYTES at most,
    or of one row group that is larger."""
    piece: list[tuple[int, Sequence[int]]] = []
    held = count = 0
    for group, rows in chosen:
        if piece and (held + group_bytes[group] > UNIT_BYTES or count + len(rows) > UNIT_ROWS):
            yield piece
            piece, held, count = [], 0, 0
        piece.append((group, rows))
        held += group_bytes[group]
        count += len(rows)
    yield piece


def _read_facts(repository: Repository, path: str) -> FileFacts:
    try:
        with repository.open(path) as file:
            return read_facts(file)
    except TableError as error:
        raise DatasetError(f"{path} of {repository.name} is not a Parquet file: {error}.", "Leave it out.") from error


def _describe(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


def describe_key(units: Sequence[Unit]) -> str:
    """sha256 over the units: an interrupted call with the same draw has the same key."""
    digest = hashlib.sha256()
    for unit in units:
        digest.update(repr((unit.name, unit.records, unit.content)).encode())
    return digest.hexdigest()
