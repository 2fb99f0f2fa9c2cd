"""A local JSON list, or JSONL, of conversations about images, in any of the layouts of `data/columns.py`.

Image paths are relative to the file's folder, or to `--image-root`, and may not lead out of it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from interlace_cli.data.columns import find_images
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit, divide
from interlace_cli.data.tables import read_conversation
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.files import parse_json
from interlace_cli.io.paths import read_inside


class LocalSource:
    """Reads the whole file once; images only of the records that are wanted."""

    location: str | None = None
    revision: str | None = None

    def __init__(self, path: Path, image_root: Path | None = None) -> None:
        self.name = path.name
        self.root = (image_root or path.parent).resolve()
        self.lines = _read_records(path)

    def draw(self, selection: Selection) -> Draw:
        """The chosen records in the order of the file."""
        return Draw(divide("records", selection.choose(len(self.lines))))

    def iter_records(self, unit: Unit, selection: Selection) -> Iterator[RawRecord | Skipped]:
        """Some of the chosen records."""
        chosen = (self.lines[index] for index in unit.content)
        yield from iter_kept(chosen, partial(self._build_record, selection), selection)

    def _build_record(self, selection: Selection, where: str, data: Any) -> RawRecord:
        if isinstance(data, UnusableRecordError):
            raise data
        if not isinstance(data, dict):
            raise UnusableRecordError("not an object")
        check_ratings(data, selection)
        names = find_images(data)
        if not all(isinstance(name, str) for name in names):
            raise UnusableRecordError("field image is neither a path nor a list of paths")
        made = read_conversation(data, str(data.get("id", where)), ())[0]
        return made.with_images(tuple(read_inside(self.root, name) for name in names))


def _read_records(path: Path) -> list[tuple[str, Any]]:
    """`(where, data)` for each record; data is an UnusableRecordError for a line that is not JSON."""
    try:
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}.") from error
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
