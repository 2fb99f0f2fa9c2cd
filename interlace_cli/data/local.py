"""A local JSON list, or JSONL, of conversations about images, in any of the layouts of `data/columns.py`.

Image paths are relative to the file's folder, or to `--image-root`, and may not lead out of it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from interlace_cli.data.columns import find_images
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit, divide
from interlace_cli.data.tables import read_conversation
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.file_records import IMAGES, SOURCE, FileRead, FileRecorder, Roots
from interlace_cli.io.files import parse_json


@dataclass(frozen=True)
class LocalSource:
    """`records`: `(where, data)` of each record of the file, data being an UnusableRecordError for a line that is not
    JSON. Images are read of the chosen records alone."""

    name: str
    roots: Roots
    records: Sequence[tuple[str, Any]]
    files_read: Sequence[FileRead]
    location: str | None = None
    revision: str | None = None

    def draw(self, selection: Selection) -> Draw:
        """The chosen records in the order of the file."""
        return Draw(divide("records", selection.choose(len(self.records))), files_read=self.files_read)

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The records whose indices are the unit's content."""
        chosen = (self.records[index] for index in unit.content)
        yield from iter_kept(chosen, partial(_build_record, selection, files), selection)


def open_local(path: Path, image_root: Path | None = None) -> LocalSource:
    """Reads the whole file. Raises DatasetError if it cannot be read or is a broken JSON list."""
    roots = {SOURCE: path.parent, IMAGES: image_root or path.parent}
    files = FileRecorder(roots)
    records = _parse_records(path, files.read_all(path.name))
    return LocalSource(path.name, roots, records, files.files)


def _build_record(selection: Selection, files: FileRecorder, where: str, data: Any) -> RawRecord:
    if isinstance(data, UnusableRecordError):
        raise data
    if not isinstance(data, dict):
        raise UnusableRecordError("not an object")
    check_ratings(data, selection)
    names = find_images(data)
    if not all(isinstance(name, str) for name in names):
        raise UnusableRecordError("field image is neither a path nor a list of paths")
    made = read_conversation(data, str(data.get("id", where)), ())[0]
    return made.with_images(tuple(files.read(IMAGES, name) for name in names))


def _parse_records(path: Path, raw: bytes) -> list[tuple[str, Any]]:
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if raw.lstrip()[:1] == b"[":
        data = parse_json(raw)
        if not isinstance(data, list):
            raise DatasetError(f"{path} begins like a JSON list and is broken: {data}.", "Correct the file.")
        return [(f"record {index}", item) for index, item in enumerate(data)]
    records: list[tuple[str, Any]] = []
    for number, line in enumerate(raw.splitlines(), start=1):
        if line.strip():
            data = parse_json(line)
            is_broken = isinstance(data, ValueError)
            records.append((f"line {number}", UnusableRecordError("line is not JSON") if is_broken else data))
    return records
