"""A safetensors file of ours that is written and read tensor by tensor: nothing but one tensor is in memory.

https://github.com/safetensors/safetensors#format
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import orjson

from interlace_cli.io.headers import DTYPE_BITS

Entry = tuple[str, tuple[int, ...]]
"""A tensor's dtype, as safetensors names it, and its shape."""


class TensorWriter(AbstractContextManager["TensorWriter"]):
    """Writes the file `path` with the tensors `entries`; `write` gives it each of them, in any order. Leaving the
    context raises ValueError if one was not written."""

    def __init__(self, path: Path, entries: Mapping[str, Entry]) -> None:
        header: dict[str, object] = {}
        self._ranges: dict[str, tuple[int, int]] = {}
        offset = 0
        for name, (dtype, shape) in entries.items():
            end = offset + _count_bytes(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
            self._ranges[name] = (offset, end)
            offset = end
        encoded = orjson.dumps(header)
        encoded += b" " * (-len(encoded) % 8)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._begin = self._write(len(encoded).to_bytes(8, "little") + encoded, 0)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Writes the tensor `name`; once."""
        start, end = self._ranges.pop(name)
        if len(data) != end - start:
            raise ValueError(f"{name}: {len(data)} bytes for {end - start}")
        self._write(data, self._begin + start)

    def _write(self, data: bytes | memoryview, offset: int) -> int:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written
        return offset

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)
        if error is None and self._ranges:
            raise ValueError(f"{next(iter(self._ranges))} was not written")


def _count_bytes(dtype: str, shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count * DTYPE_BITS[dtype] // 8
