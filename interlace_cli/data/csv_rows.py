"""CSV, as spreadsheets and pandas write it -> rows by column. Pure.

The separator is the one of `SEPARATORS` that divides the header into the most columns, or that of a first line
`sep=;`, as Excel writes it. An empty cell is null. A row whose cells are not those of the header is left out: a caption
with a comma and without quotes would lose what stands behind the comma.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.remote import RemoteFile

SEPARATORS = (",", ";", "\t", "|")
MOST_CELL = 256 << 20
"""Characters: a picture in base64 is one cell."""


def parse_csv(path: PurePath | RemoteFile, text: str) -> Iterator[tuple[str, Any]]:
    """`(where, row)` of each row. Raises DatasetError for quotes that do not match, and for columns without a name, or
    of one name."""
    skip, separator = _find_separator(text)
    # The bound is one for the whole process.
    bound = csv.field_size_limit(MOST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for _ in range(skip):
            next(reader)
        header = _check_header(path, next(reader, []))
        for cells in reader:
            if any(cells):
                yield f"line {reader.line_num}", _build_row(header, cells)
    except csv.Error as error:
        raise DatasetError(
            f"{path} is not CSV: {error} (line {reader.line_num}).", "Write it anew, or as JSONL."
        ) from error
    finally:
        csv.field_size_limit(bound)


def _find_separator(text: str) -> tuple[int, str]:
    """How many lines stand before the header, and the separator."""
    named = re.match(r'"?sep=(.)"?\r?\n', text)
    if named:
        return 1, named[1]
    header = re.match(r"[^\r\n]*", text)
    line = header[0] if header else ""
    return 0, max(SEPARATORS, key=lambda separator: len(_split(line, separator)))


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _check_header(path: PurePath | RemoteFile, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    # The first column of pandas' own files is the index, and has no name.
    named = names[1:] if names[:1] == [""] else names
    if len(set(named)) < len(named) or "" in named:
        wrong = next(name for name in named if not name or named.count(name) > 1)
        what = f"two columns called {wrong}" if wrong else "a column without a name"
        raise DatasetError(f"{path} has {what}.", "Give each column a name of its own.")
    return names


def _build_row(header: list[str], cells: list[str]) -> Any:
    more = cells[len(header) :]
    if len(cells) < len(header) or any(more):
        return UnusableRecordError("row has another number of cells than the header")
    return {name: cell or None for name, cell in zip(header, cells, strict=False) if name}
