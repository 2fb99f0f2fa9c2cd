"""Records that are appended to a file as they come, a JSON line each, so that a kill loses the last one alone.

The first line holds a key: what the records belong to. Records behind a line that is not whole do not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from interlace_cli.domain.record import Record
from interlace_cli.io.files import explained

R = TypeVar("R", bound=Record)


class AppendLog:
    """The file of one writer. What lies there of the same key stays; anything else is replaced at the first record."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._file: int | None = None

    def append(self, record: Record) -> None:
        """Adds a line. Raises InterlaceError where it cannot be written."""
        with explained(self.path):
            if self._file is None:
                self._file = self._open()
            _write(self._file, record.model_dump(mode="json"))

    def close(self) -> None:
        """Call it when no record follows."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        whole = sum(len(line) for line in _iter_whole_lines(self.path, self.key))
        os.ftruncate(file, whole)
        if not whole:
            _write(file, {"key": self.key})
        return file


def read_log(path: Path, key: str, record: type[R]) -> list[R]:
    """The whole records that were appended under this key; none where the file is missing or cannot be read."""
    found: list[R] = []
    try:
        for number, line in enumerate(_iter_whole_lines(path, key)):
            if number:
                found.append(record.model_validate_json(line))
    except (OSError, ValidationError):
        pass
    return found


def _write(file: int, data: dict[str, Any]) -> None:
    line = orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE)
    while line:
        line = line[os.write(file, line) :]


def _iter_whole_lines(path: Path, key: str) -> Iterator[bytes]:
    """Up to the first that is no JSON or has no end; none of another key."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                data = orjson.loads(line)
            except orjson.JSONDecodeError:
                return
            if not line.endswith(b"\n") or not isinstance(data, dict) or (number == 0 and data != {"key": key}):
                return
            yield line
