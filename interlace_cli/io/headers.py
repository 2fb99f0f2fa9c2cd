"""Headers of safetensors files, read without loading a tensor, and trusted in nothing.

https://github.com/safetensors/safetensors#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace_cli.errors import CheckpointError
from interlace_cli.io.files import parse_json

MOST_HEADER = 100_000_000
"""Bytes; the limit of safetensors itself."""
MOST_AXES = 32
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Of the dtypes that safetensors has today; sizes of others are not checked."""
_FETCH = "Fetch the file again."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's header entry; `start` and `end` are byte offsets in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self.end - self.start


def read_bytes(tensor: TensorInfo) -> bytes:
    """The tensor's bytes on disk."""
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        return file.read(tensor.bytes)


def read_header(shard: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors and the metadata of a file. Raises CheckpointError for whatever safetensors' own rules forbid: the
    tensors' bytes lie end to end, each as many as its shape and dtype take, from the header to the end of the file."""
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8 or length > MOST_HEADER:
                raise CheckpointError(f"{shard} is not a whole safetensors file.", _FETCH)
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {shard}: {error.strerror or error}.", _FETCH) from error
    header = parse_json(raw)
    if not isinstance(header, dict):
        raise CheckpointError(f"the header of {shard} is not a JSON object.", _FETCH)
    if raw.count(b'"data_offsets"') != len(header) - ("__metadata__" in header) and (twice := _find_twice(raw)):
        raise CheckpointError(f"{shard} has two entries {twice}.", _FETCH)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"the metadata in {shard} are not texts.", _FETCH)
    tensors = {}
    data = 8 + length
    # Emptied as it is read: some models have hundreds of thousands of tensors.
    while header:
        name, entry = header.popitem()
        fault = _find_fault(entry)
        if fault:
            raise CheckpointError(f"{shard}: tensor {name} has {fault}.", _FETCH)
        start, end = entry["data_offsets"]
        tensors[name] = TensorInfo(name, entry["dtype"], tuple(entry["shape"]), shard, data + start, data + end)
    offset = data
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != offset:
            what = "overlaps another" if tensor.start < offset else "leaves bytes in front of it that are no tensor's"
            raise CheckpointError(f"{shard}: tensor {tensor.name} {what}.", _FETCH)
        offset = tensor.end
    if offset != size:
        raise CheckpointError(f"{shard} is cut off or has bytes too many.", _FETCH)
    return tensors, metadata


def _find_twice(raw: bytes) -> str:
    """A name that stands twice in an object, of which parsers take the last without a word."""
    found: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            found.append(next(name for name in names if names.count(name) > 1))
        return made

    json.loads(raw, object_pairs_hook=look)
    return found[0] if found else ""


def _find_fault(entry: Any) -> str:
    """What is wrong with a tensor's entry in a header."""
    if not isinstance(entry, dict):
        return "an entry that is no object"
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str):
        return "no dtype"
    if not _are_counts(shape) or len(shape) > MOST_AXES:
        return "an impossible shape"
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return "impossible data_offsets"
    bits = DTYPE_BITS.get(dtype)
    if bits is not None and math.prod(shape) * bits != 8 * (offsets[1] - offsets[0]):
        return f"{offsets[1] - offsets[0]} bytes, which do not fit shape {shape} of {dtype}"
    return ""


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
