"""Parquet files: their footers, and chosen rows of one row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

BATCH = 64


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

    try:
        metadata = pq.read_metadata(file)
    except pa.ArrowException as error:
        raise TableError(str(error)) from error
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    stored = tuple(sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups)
    return FileFacts(tuple(group.num_rows for group in groups), stored)


def read_rows(file: BinaryIO, group: int, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows with the indices `rows` of row group `group`, as dictionaries. They are converted BATCH at a time, so
    that few images are in memory as Python objects. Raises TableError if the group is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # The ranges of a group are joined and fetched together.
        table = pq.ParquetFile(file, pre_buffer=True).read_row_group(group)
        for start in range(0, len(rows), BATCH):
            yield from table.take(list(rows[start : start + BATCH])).to_pylist()
    # Arrow raises OSError for broken pages; one of a connection is told apart by its errno or its own class.
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
            raise
        raise TableError(str(error)) from error
