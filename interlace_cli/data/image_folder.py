"""A folder of images with `metadata.jsonl` or `metadata.csv` (column `file_name`, and a conversation or a caption), as
`datasets` has it; or with a text file of the same name beside each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from interlace_cli.data.captions import read_captioned
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit, divide
from interlace_cli.data.webdataset import PICTURES
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.file_records import SOURCE, FileRead, FileRecorder, Roots
from interlace_cli.io.files import parse_json

METADATA = ("metadata.jsonl", "metadata.csv")
"""The first of them that is there is taken."""


@dataclass(frozen=True)
class ImageFolderSource:
    """`rows`: `(where, row)` of each record, a row being a ValueError for a line that is not JSON. Every row names its
    images by `file_name`, relative to the folder, and may not leave it."""

    name: str
    roots: Roots
    rows: Sequence[tuple[str, Any]]
    files_read: Sequence[FileRead]
    location: str | None = None
    revision: str | None = None

    def draw(self, selection: Selection) -> Draw:
        """The chosen rows in their order."""
        return Draw(divide("rows", selection.choose(len(self.rows))), files_read=self.files_read)

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The records of the rows whose indices are the unit's content."""
        chosen = (self.rows[index] for index in unit.content)
        yield from iter_kept(chosen, partial(_build_record, selection, files), selection)


def open_image_folder(folder: Path, sizes: dict[str, int]) -> ImageFolderSource:
    """Reads the metadata file, or all captions. `sizes`: the files of `find_image_files` -> bytes. Raises DatasetError
    for a file that cannot be read."""
    files = FileRecorder({SOURCE: folder})
    files.note_listed(sizes)
    metadata = next((name for name in METADATA if name in sizes), None)
    rows = list(_read_pairs(files, sizes) if metadata is None else _read_metadata(files, metadata))
    return ImageFolderSource(folder.resolve().name, files.roots, rows, files.files)


def find_image_files(names: Collection[str]) -> list[str]:
    """Of all files of a folder those that say which records there are: a metadata file, or each image that has a text
    file beside it, and that. In the order of `names`."""
    metadata = [name for name in METADATA if name in names][:1]
    if metadata:
        return metadata
    pairs = {name: _to_text_name(name) for name in names if _is_picture(name) and _to_text_name(name) in names}
    wanted = {*pairs, *pairs.values()}
    return [name for name in names if name in wanted]


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower().removeprefix(".") in PICTURES


def _to_text_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".txt"))


def _build_record(selection: Selection, files: FileRecorder, where: str, row: Any) -> RawRecord:
    if not isinstance(row, dict):
        raise UnusableRecordError("line is not JSON")
    check_ratings(row, selection)
    names = row.get("file_name", row.get("file_names"))
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnusableRecordError("field file_name is missing")
    return read_captioned(row, where, tuple(files.read(SOURCE, name) for name in names))


def _read_metadata(files: FileRecorder, name: str) -> Iterator[tuple[str, Any]]:
    data = files.read_all(name)
    if name.endswith(".jsonl"):
        for number, line in enumerate(data.splitlines(), start=1):
            if line.strip():
                yield f"line {number}", parse_json(line)
        return
    try:
        table = io.StringIO(data.decode("utf-8", "replace"), newline="")
        for number, row in enumerate(csv.DictReader(table), start=2):
            yield f"line {number}", row
    except csv.Error as error:
        path = files.roots[SOURCE] / name
        raise DatasetError(f"{path} is not CSV: {error}.", "Write it anew, or as metadata.jsonl.") from error


def _read_pairs(files: FileRecorder, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if _is_picture(name):
            try:
                caption = files.read(SOURCE, _to_text_name(name)).decode("utf-8", "replace")
            except UnusableRecordError:
                caption = ""
            yield name, {"file_name": name, "caption": caption}
