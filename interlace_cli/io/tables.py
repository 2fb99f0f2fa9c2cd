"""Parquet files: their footers, and chosen rows of one row group. Arrow files, as `datasets` keeps them, are one row
group each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from interlace_cli.io.any_json import parse_any_json

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 64
_ARROW_FILE = b"ARROW1"


class TableError(Exception):
    """A file or a row group of it is broken."""


@dataclass(frozen=True)
class FileFacts:
    """For each row group its number of rows and its stored (compressed) bytes."""

    rows: tuple[int, ...]
    group_bytes: tuple[int, ...]


def read_facts(file: BinaryIO) -> FileFacts:
    """Reads the footer. Raises TableError if it is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if _is_arrow(file):
        table = _open_arrow(file)
        return FileFacts((table.num_rows,), (table.get_total_buffer_size(),))
    try:
        metadata = pq.read_metadata(file)
    except pa.ArrowException as error:
        raise TableError(str(error)) from error
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    stored = tuple(sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups)
    return FileFacts(tuple(group.num_rows for group in groups), stored)


def _is_arrow(file: BinaryIO) -> bool:
    name = getattr(file, "name", None)
    return isinstance(name, str | Path) and str(name).endswith(".arrow")


def _open_arrow(file: BinaryIO) -> pa.Table:
    """A local file in Arrow's stream or file format, mapped into memory and not read. Raises TableError."""
    import pyarrow as pa

    try:
        mapped = pa.memory_map(str(file.name))
        is_file = file.read(len(_ARROW_FILE)) == _ARROW_FILE
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise TableError(str(error)) from error


def read_rows(file: BinaryIO, group: int, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows with the indices `rows` of row group `group`, as dictionaries. They are converted BATCH at a time, so
    that few images are in memory as Python objects. Raises TableError if the group is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if _is_arrow(file):
        mapped = _open_arrow(file)
        # One by one: a file is hundreds of MB, of which a row is a few.
        yield from (row for index in rows for row in _to_rows(mapped.slice(index, 1)))
        return
    try:
        # The ranges of a group are joined and fetched together.
        table = pq.ParquetFile(file, pre_buffer=True).read_row_group(group)
        for start in range(0, len(rows), BATCH):
            yield from _to_rows(table.take(list(rows[start : start + BATCH])))
    # Arrow raises OSError for broken pages; one of a connection is told apart by its errno or its own class.
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
            raise
        raise TableError(str(error)) from error


def read_table(data: bytes) -> list[dict[str, Any]]:
    """All rows of a small Parquet file. Raises TableError if it is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _to_rows(pq.read_table(pa.BufferReader(data)))
    except (pa.ArrowException, OSError) as error:
        raise TableError(str(error)) from error


def _to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as dictionaries; a class of `datasets` (`ClassLabel`), stored as a number, as its name."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for column, names in _find_classes(table.schema.metadata or {}).items():
        for row in rows:
            value = row.get(column)
            if isinstance(value, int) and 0 <= value < len(names):
                row[column] = names[value]
    return rows


def _find_classes(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> the names of its classes, as `datasets` writes them into the schema."""
    found: Any = parse_any_json(metadata.get(b"huggingface", b"{}"))
    for name in ("info", "features"):
        found = found.get(name) if isinstance(found, dict) else None
    features = found if isinstance(found, dict) else {}
    classes = {
        str(column): feature.get("names")
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    return {column: names for column, names in classes.items() if isinstance(names, list)}
