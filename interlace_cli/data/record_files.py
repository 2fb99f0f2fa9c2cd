"""A file of records, as bytes -> its rows: a JSON list, JSON lines, an object of records or of columns, CSV, TSV; each
also compressed (gz, bz2, zst). Pure.

A row is `(where, data)`, data being an UnusableRecordError for a line that cannot be read: it costs one record.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from interlace_cli.data.columns import TURN_COLUMNS, has_conversation
from interlace_cli.data.csv_rows import parse_csv
from interlace_cli.data.json_lines import Row, find_lines
from interlace_cli.errors import DatasetError, UnusableRecordError
from interlace_cli.io.any_json import parse_any_json
from interlace_cli.io.remote import RemoteFile
from interlace_cli.io.text import NOT_UTF8, TextError, decode_text, has_other_mark, to_utf8

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
MOST_UNPACKED = 16 << 30
"""Bytes. What is compressed may claim any size, and all of it is held in memory."""
HEAD = 1 << 16
"""Bytes of a file by which its form is guessed at first."""
FORMS = "Give a JSON, JSONL, CSV, TSV, Parquet or tar file, or a folder of such files or of images."


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that a small file holds, which says one record. Raises UnusableRecordError."""
    found = parse_any_json(raw)
    if isinstance(found, ValueError):
        found = parse_any_json(read_words(raw).encode())
    if not isinstance(found, dict):
        raise UnusableRecordError("the JSON is not an object")
    return found


def read_words(raw: bytes) -> str:
    """The text that a small file holds. Raises UnusableRecordError for one in another encoding."""
    try:
        return decode_text(raw)
    except TextError as error:
        raise UnusableRecordError(NOT_UTF8, f"byte {error.offset}") from error


def is_record_file(name: str) -> bool:
    """Whether `name` is that of a file of records."""
    return find_suffix(name) in (*JSON_SUFFIXES, *TABLE_SUFFIXES)


def find_suffix(name: str) -> str:
    """The suffix in small letters, without that of a compression: `.jsonl` of `a.jsonl.gz`."""
    path = PurePath(name.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSIONS else path).suffix


def parse_records(path: PurePath | RemoteFile, raw: bytes) -> Sequence[Row]:
    """The rows of the file `path` with the content `raw`. Raises DatasetError where not even its rows can be told
    apart: a broken JSON list, a broken CSV, a file that is no text."""
    raw = _unpack(path, raw)
    suffix = find_suffix(path.name)
    try:
        if suffix in TABLE_SUFFIXES:
            return list(parse_csv(path, decode_text(raw)))
        data = to_utf8(raw)
        return _parse_list(path, data) if data.lstrip()[:1] == b"[" else _parse_lines(path, data)
    except TextError as error:
        raise _not_text(path, error) from error


def _parse_list(path: PurePath | RemoteFile, data: bytes) -> list[Row]:
    found = parse_any_json(data)
    if isinstance(found, list):
        return _number(found)
    spared = parse_any_json(data, "surrogateescape")
    rows = [_refuse_bytes(item) for item in spared] if isinstance(spared, list) else []
    if not all(isinstance(row, UnusableRecordError) for row in rows):
        return _number(rows)
    decode_text(data)
    raise DatasetError(f"{path} begins like a JSON list and is broken: {found}.", "Correct the file.")


def _refuse_bytes(item: Any) -> Any:
    """The record; an UnusableRecordError if bytes that are no text, which now are halves of characters, are in it."""
    is_broken = re.search("[\\udc80-\\udcff]", json.dumps(item, ensure_ascii=False))
    return UnusableRecordError(NOT_UTF8) if is_broken else item


def _parse_lines(path: PurePath | RemoteFile, data: bytes) -> Sequence[Row]:
    rows = find_lines(data)
    if may_be_whole(rows, data[:HEAD]):
        whole = parse_any_json(data)
        if isinstance(whole, dict):
            return _number(_open_object(whole))
    check_lines(path, rows, b"\0" in data)
    return rows


def may_be_lines(path: PurePath | RemoteFile, head: bytes) -> bool:
    """Whether the file `path`, which begins with `head`, may be JSON lines in UTF-8, not compressed."""
    if path.suffix.lower() in COMPRESSIONS or find_suffix(path.name) in TABLE_SUFFIXES or has_other_mark(head):
        return False
    return _find_first(head) not in (b"", b"[")


def may_be_whole(rows: Sequence[Row], head: bytes) -> bool:
    """Whether lines of a text that begins with `head` may be a single object: there is but one line, or the first is no
    JSON."""
    return len(rows) == 1 or (_find_first(head) == b"{" and isinstance(rows[0][1], UnusableRecordError))


def _find_first(head: bytes) -> bytes:
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]


def check_lines(path: PurePath | RemoteFile, rows: Sequence[Row], has_null: bool) -> None:
    """Raises DatasetError if none of the lines is JSON and there are null bytes."""
    if rows and has_null and all(isinstance(row, UnusableRecordError) for _, row in rows):
        raise DatasetError(f"{path} is not a text file.", FORMS)


def _open_object(whole: dict[str, Any]) -> list[Any]:
    """The records in an object that is a whole file: those of its only list of objects (`{"data": [...]}`), the objects
    by their ids (`{"7": {...}, "8": {...}}`), the rows of its columns (`{"image": [...], "question": [...]}`), or the
    object itself."""
    talks = [whole[name] for name in TURN_COLUMNS if name in whole]
    if any(isinstance(talk, list) and talk and isinstance(talk[0], dict) for talk in talks):
        return [whole]
    if len(whole) > 1 and all(isinstance(value, dict) for value in whole.values()):
        return [{"id": key, **value} for key, value in whole.items()]
    lists = [value for value in whole.values() if isinstance(value, list)]
    if len(lists) == len(whole) > 1 and len({len(value) for value in lists}) == 1:
        return [dict(zip(whole, values, strict=True)) for values in zip(*lists, strict=True)]
    inner = [value for value in lists if value and all(isinstance(item, dict) for item in value)]
    return list(inner[0]) if len(inner) == 1 and not has_conversation(whole) else [whole]


def _number(items: Sequence[Any]) -> list[Row]:
    return [(f"record {index}", item) for index, item in enumerate(items)]


def _unpack(path: PurePath | RemoteFile, raw: bytes) -> bytes:
    codec = COMPRESSIONS.get(path.suffix.lower())
    if codec is None:
        return raw
    import pyarrow as pa

    try:
        parts = list(_read_unpacked(raw, codec))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}.", "Unpack it yourself, or write it anew.") from error
    if sum(map(len, parts)) > MOST_UNPACKED:
        raise DatasetError(f"{path} unpacks to more than {MOST_UNPACKED >> 30} GiB.", "Write it as Parquet.")
    return b"".join(parts)


def _read_unpacked(raw: bytes, codec: str) -> Iterator[bytes]:
    import pyarrow as pa

    left = MOST_UNPACKED
    with pa.CompressedInputStream(pa.BufferReader(raw), codec) as stream:
        while left >= 0 and (part := stream.read(1 << 24)):
            left -= len(part)
            yield part


def _not_text(path: PurePath | RemoteFile, error: TextError) -> DatasetError:
    return DatasetError(
        f"{path} is not UTF-8: {error.detail}.",
        "Save it as UTF-8 (in Excel: CSV UTF-8), or give a file of another form.",
    )
