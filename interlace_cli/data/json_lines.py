"""JSON lines of which only places are kept: a line is read and parsed when it is asked for, so that of a file of
millions of records no record is in memory."""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, overload

from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.any_json import parse_any_json
from interlace_cli.io.text import NOT_UTF8, TextError, decode_text

Row = tuple[str, Any]


class LineFinder:
    """Takes a text part by part, and notes where its lines lie that are not blank: `starts` and `ends` in bytes, and
    `numbers` from 1. Lines end with `\\n`; `lone_returns` counts each `\\r` that is not before one, which ends a line
    too."""

    def __init__(self) -> None:
        self.starts, self.ends, self.numbers = array("q"), array("q"), array("q")
        self.lone_returns, self.has_null = 0, False
        self._position = self._start = self._count = 0
        self._has_text = self._ends_with_return = False

    def add(self, data: bytes) -> None:
        """The next part."""
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            self._has_text = self._has_text or bool(data[begin:end].strip())
            self._end(self._position + end)
            begin = end + 1
        self._has_text = self._has_text or bool(data[begin:].strip())
        self.lone_returns += data.count(b"\r") - data.count(b"\r\n")
        self.lone_returns -= self._ends_with_return and data.startswith(b"\n")
        self._ends_with_return = data.endswith(b"\r") if data else self._ends_with_return
        self.has_null = self.has_null or b"\0" in data
        self._position += len(data)

    def close(self) -> None:
        """There is no more. The last line need not have an end."""
        self._end(self._position)

    def _end(self, end: int) -> None:
        self._count += 1
        if self._has_text:
            self.starts.append(self._start)
            self.ends.append(end)
            self.numbers.append(self._count)
        self._start, self._has_text = end + 1, False


class JsonLines(Sequence[Row]):
    """The rows of the lines that were `found`; `read(start, end)` returns these bytes of the text."""

    def __init__(self, found: LineFinder, read: Callable[[int, int], bytes]) -> None:
        self.found, self.read = found, read

    def __len__(self) -> int:
        return len(self.found.starts)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        # Files that were joined have a mark at the start of each.
        line = self.read(self.found.starts[index], self.found.ends[index])
        return _parse_line(self.found.numbers[index], line.removesuffix(b"\r").removeprefix(codecs.BOM_UTF8))


def find_lines(data: bytes) -> JsonLines:
    """Of a text in memory."""
    if b"\r" in data:
        data = b"\n".join(data.splitlines())
    found = LineFinder()
    found.add(data)
    found.close()
    return JsonLines(found, lambda start, end: data[start:end])


def _parse_line(number: int, line: bytes) -> Row:
    where, found = f"line {number}", parse_any_json(line)
    if not isinstance(found, ValueError):
        return where, found
    try:
        decode_text(line)
    except TextError as error:
        return where, UnusableRecordError(NOT_UTF8, f"byte {error.offset}")
    return where, UnusableRecordError("line is not JSON")
