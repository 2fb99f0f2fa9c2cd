"""Files of records (`data/record_files.py`): conversations about images, in any of the layouts of
`data/columns.py`.

Image paths are relative to the folder that the file lies in, or to that which is the source; or to `--image-root`
alone. They may not lead out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from interlace_cli.data.columns import find_images
from interlace_cli.data.conversations import read_record
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.local_files import LocalFiles
from interlace_cli.data.pictures import PictureReader, find_folder
from interlace_cli.data.record_files import parse_records
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit, divide
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.file_records import IMAGES, FileRead, FileRecorder, Roots


@dataclass(frozen=True)
class LocalSource:
    """`records`: `(where, (path, data))` of each record of the files, `path` being its file's, and data an
    UnusableRecordError for a line that cannot be read. Images are read of the chosen records alone."""

    name: str
    roots: Roots
    records: Sequence[tuple[str, tuple[str, Any]]]
    files_read: Sequence[FileRead]
    notes: Sequence[str] = ()
    location: str | None = None
    revision: str | None = None

    def draw(self, selection: Selection) -> Draw:
        """The chosen records in the order of the file."""
        units = divide("records", selection.choose(len(self.records)))
        return Draw(units, notes=self.notes, files_read=self.files_read)

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The records whose indices are the unit's content."""
        chosen = (self.records[index] for index in unit.content)
        yield from iter_kept(chosen, partial(_build_record, selection, files), selection)


def open_local(found: LocalFiles, name: str) -> LocalSource:
    """Reads the files whole. Raises DatasetError if one cannot be read or is broken as a whole."""
    files = FileRecorder(found.roots)
    records: list[tuple[str, tuple[str, Any]]] = []
    for path in found.sizes:
        file = "" if len(found.sizes) == 1 else f"{path}: "
        rows = parse_records(found.root / path, files.read_all(path))
        records += [(f"{file}{where}", (path, row)) for where, row in rows]
    return LocalSource(name, found.roots, records, files.files, found.notes)


def _build_record(selection: Selection, files: FileRecorder, where: str, found: tuple[str, Any]) -> RawRecord:
    path, data = found
    if isinstance(data, UnusableRecordError):
        raise data
    if not isinstance(data, dict):
        raise UnusableRecordError("not an object")
    check_ratings(data, selection)
    made = read_record(data, str(data.get("id", where)), tuple(find_images(data)))
    return made.read_images(PictureReader(files, IMAGES, selection.allow_download, find_folder(files, path)))
