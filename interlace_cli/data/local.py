"""Files of records (`data/record_files.py`): conversations about images, in any of the layouts of
`data/columns.py`.

Image paths are relative to the folder that the file lies in, or to that which is the source; or to `--image-root`
alone. They may not lead out of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from interlace_cli.data.columns import find_images
from interlace_cli.data.conversations import read_record
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.json_lines import JsonLines, LineFinder, Row
from interlace_cli.data.local_files import LocalFiles
from interlace_cli.data.pictures import PictureReader, find_folder
from interlace_cli.data.record_files import HEAD, check_lines, may_be_lines, may_be_whole, parse_records
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit, divide
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.file_records import IMAGES, SOURCE, FileRead, FileRecorder, Roots, read_part


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
    rows = {path: _open_rows(files, path) for path in found.sizes}
    return LocalSource(name, found.roots, _Records(rows), files.files, found.notes)


class _Records(Sequence[tuple[str, tuple[str, Any]]]):
    """The rows of all files (path -> rows), one file after the other; a single file is not named."""

    def __init__(self, files: Mapping[str, Sequence[Row]]) -> None:
        self.paths, self.rows = list(files), list(files.values())
        self.ends = list(accumulate(map(len, self.rows)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        number = bisect_right(self.ends, index)
        path, rows = self.paths[number], self.rows[number]
        where, row = rows[index - self.ends[number] + len(rows)]
        return where if len(self.paths) == 1 else f"{path}: {where}", (path, row)


def _open_rows(files: FileRecorder, path: str) -> Sequence[Row]:
    """Of JSON lines on disk nothing but their places is kept."""
    file = files.roots[SOURCE] / path
    lines = _find_lines(files, path, file) if isinstance(file, Path) else None
    return parse_records(file, files.read_all(path)) if lines is None else lines


def _find_lines(files: FileRecorder, path: str, file: Path) -> JsonLines | None:
    """None for a file of any other form, or of none that is known."""
    try:
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError:
        return None
    if not may_be_lines(file, head):
        return None
    found = LineFinder()
    known = files.scan(path, found.add)
    found.close()
    rows = JsonLines(found, partial(read_part, file, known))
    if found.lone_returns or may_be_whole(rows, head):
        return None
    check_lines(file, rows, found.has_null)
    return rows


def _build_record(selection: Selection, files: FileRecorder, where: str, found: tuple[str, Any]) -> RawRecord:
    path, data = found
    if isinstance(data, UnusableRecordError):
        raise data
    if not isinstance(data, dict):
        raise UnusableRecordError("not an object")
    check_ratings(data, selection)
    made = read_record(data, str(data.get("id", where)), tuple(find_images(data)))
    return made.read_images(PictureReader(files, IMAGES, selection.allow_download, find_folder(files, path)))
