"""A folder of images with `metadata.jsonl` or `metadata.csv` (column `file_name`, and a conversation or a caption), as
`datasets` has it; or with a text file of the same name beside each image."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from interlace_cli.data.captions import read_captioned
from interlace_cli.data.filters import check_ratings, iter_kept
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit, divide
from interlace_cli.data.webdataset import PICTURES
from interlace_cli.domain.dataset import Skipped
from interlace_cli.errors import DatasetError, MissingInputError, UnusableRecordError
from interlace_cli.io.files import parse_json
from interlace_cli.io.paths import read_inside


class ImageFolderSource:
    """Every record names its images by `file_name`, relative to the folder, and may not leave it."""

    location: str | None = None
    revision: str | None = None

    def __init__(self, folder: Path) -> None:
        self.name, self.root = folder.resolve().name, folder.resolve()
        self.rows = list(_read_metadata(self.root)) or list(_read_pairs(self.root))
        if not self.rows:
            raise MissingInputError(
                f"{folder} has no Parquet, tar or metadata file, and no image with a text file beside it.",
                "Give a dataset's folder.",
            )

    def draw(self, selection: Selection) -> Draw:
        """The chosen rows in their order."""
        return Draw(divide("rows", selection.choose(len(self.rows))))

    def iter_records(self, unit: Unit, selection: Selection) -> Iterator[RawRecord | Skipped]:
        """Some of the chosen rows."""
        chosen = (self.rows[index] for index in unit.content)
        yield from iter_kept(chosen, partial(self._build_record, selection), selection)

    def _build_record(self, selection: Selection, where: str, row: Any) -> RawRecord:
        if not isinstance(row, dict):
            raise UnusableRecordError("line is not JSON")
        check_ratings(row, selection)
        names = row.get("file_name", row.get("file_names"))
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UnusableRecordError("field file_name is missing")
        return read_captioned(row, where, tuple(read_inside(self.root, name) for name in names))


def _read_metadata(root: Path) -> Iterator[tuple[str, Any]]:
    lines, table = root / "metadata.jsonl", root / "metadata.csv"
    if lines.is_file():
        for number, line in enumerate(lines.read_bytes().splitlines(), start=1):
            if line.strip():
                yield f"line {number}", parse_json(line)
    elif table.is_file():
        with table.open(encoding="utf-8", errors="replace", newline="") as file:
            try:
                for number, row in enumerate(csv.DictReader(file), start=2):
                    yield f"line {number}", row
            except csv.Error as error:
                raise DatasetError(f"{table} is not CSV: {error}.", "Write it anew, or as metadata.jsonl.") from error


def _read_pairs(root: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(root.rglob("*")):
        text = path.with_suffix(".txt")
        if path.suffix.lower().removeprefix(".") in PICTURES and text.is_file():
            name = str(path.relative_to(root))
            try:
                caption = read_inside(root, str(text.relative_to(root))).decode("utf-8", "replace")
            except UnusableRecordError:
                caption = ""
            yield name, {"file_name": name, "caption": caption}
