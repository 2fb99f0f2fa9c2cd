"""A folder of images with `metadata.jsonl`, `metadata.csv` or `metadata.parquet` (column `file_name`, and a
conversation or a caption), as `datasets` has it; or with a text file of the same name beside each image.

Metadata may lie in any folder, and names images from there. Where folders are named after splits (`train/`, `test/`),
one split is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from interlace_cli.data.conversations import read_beside
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.image_names import choose_metadata, find_captions, is_metadata
from interlace_cli.data.local_files import LocalFiles
from interlace_cli.data.pictures import PictureReader
from interlace_cli.data.record_files import parse_records, read_words
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit, divide
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.file_records import SOURCE, FileRead, FileRecorder, Roots
from interlace_cli.io.split_names import TRAIN, describe_others, find_split_folder, to_split
from interlace_cli.io.tables import TableError, read_table

NAMES = ("file_name", "file_names")
"""Columns with the names of a row's images."""


@dataclass(frozen=True)
class ImageFolderSource:
    """`rows`: `(where, row)` of each record, a row being an UnusableRecordError for a line that cannot be read. Every
    row names its images by `file_name`, relative to the root, and may not leave it."""

    name: str
    roots: Roots
    rows: Sequence[tuple[str, Any]]
    files_read: Sequence[FileRead]
    notes: Sequence[str] = ()
    location: str | None = None
    revision: str | None = None

    def draw(self, selection: Selection) -> Draw:
        """The chosen rows in their order."""
        return Draw(divide("rows", selection.choose(len(self.rows))), notes=self.notes, files_read=self.files_read)

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The records of the rows whose indices are the unit's content."""
        chosen = (self.rows[index] for index in unit.content)
        yield from iter_kept(chosen, partial(_build_record, selection, files), selection)


def open_image_folder(found: LocalFiles, split: str | None) -> ImageFolderSource:
    """Reads the metadata files, or all captions. Raises DatasetError for a file that cannot be read, or a split that is
    not there."""
    files = FileRecorder({SOURCE: found.root})
    files.note_listed(found.sizes)
    has_metadata = any(map(is_metadata, found.sizes))
    rows = list(_read_metadata(files, found.sizes) if has_metadata else _read_captions(files, found.sizes))
    splits = {find_split_folder(path) or TRAIN for _, path, _ in rows}
    wanted = to_split(split or TRAIN)
    if rows and wanted not in splits:
        folders = ", ".join(sorted(splits))
        raise DatasetError(f"{found.root} has no split {wanted}; it has {folders}.", "Name another with --split.")
    chosen = [(where, row) for where, path, row in rows if (find_split_folder(path) or TRAIN) == wanted]
    notes = [*found.notes, *(describe_others(wanted, splits) if split is None else [])]
    unnamed = _count_unnamed(found.pictures, wanted, rows)
    if unnamed:
        by = "that no metadata names" if has_metadata else "without a text file of that name"
        notes.append(f"Not read: {unnamed:,} picture{'' if unnamed == 1 else 's'} {by}.")
    return ImageFolderSource(found.name, files.roots, chosen, files.files, notes)


def _count_unnamed(pictures: Sequence[str], split: str, rows: Sequence[tuple[str, str, Any]]) -> int:
    """How many pictures of the split no row names."""
    named = {name for _, _, row in rows if isinstance(row, dict) for name in _find_names(row) or ()}
    return sum((find_split_folder(name) or TRAIN) == split and name not in named for name in pictures)


def _build_record(selection: Selection, files: FileRecorder, where: str, row: Any) -> RawRecord:
    if isinstance(row, UnusableRecordError):
        raise row
    if not isinstance(row, dict):
        raise UnusableRecordError("not an object")
    check_ratings(row, selection)
    names = _find_names(row)
    if names is None:
        raise UnusableRecordError("field file_name is missing")
    said = {column: value for column, value in row.items() if column not in NAMES}
    return read_beside(said, where, tuple(names)).read_images(PictureReader(files, SOURCE, selection.allow_download))


def _find_names(row: dict[str, Any]) -> list[str] | None:
    """The names of the row's images; None where there is none, or something else."""
    names = next((row[column] for column in NAMES if column in row), None)
    names = [names] if isinstance(names, str) else names
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _read_metadata(files: FileRecorder, sizes: dict[str, int]) -> Iterator[tuple[str, str, Any]]:
    """`(where, path, row)` of each row, images being named from the root; the path is that of its first image, or of
    the metadata file itself, and says the split."""
    for name in choose_metadata(sizes):
        folder, path = PurePosixPath(name).parent, files.roots[SOURCE] / name
        data = files.read_all(name)
        try:
            found = _number(read_table(data)) if name.endswith(".parquet") else parse_records(path, data)
        except TableError as error:
            raise DatasetError(f"{path} is not a Parquet file: {error}.", "Write it anew, or as JSONL.") from error
        for line, row in found:
            where = line if folder == PurePosixPath() else f"{name}: {line}"
            names = _find_names(row) if isinstance(row, dict) else None
            if names:
                names = [str(folder / one) for one in names]
                row = {**row, "file_name": names}
            yield where, names[0] if names else name, row


def _number(rows: Sequence[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(f"row {number}", row) for number, row in enumerate(rows)]


def _read_captions(files: FileRecorder, sizes: dict[str, int]) -> Iterator[tuple[str, str, Any]]:
    for name, text in find_captions(sizes).items():
        row: Any = {"file_name": name}
        try:
            row["caption"] = read_words(files.read(SOURCE, text))
        except UnusableRecordError as error:
            row = error
        yield name, name, row
