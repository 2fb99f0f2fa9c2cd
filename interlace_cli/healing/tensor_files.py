"""Files of tensors that several processes hold together: the first process writes and reads them, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from interlace_cli.healing.whole import tell
from interlace_cli.io.headers import TensorInfo, read_header
from interlace_cli.io.tensor_stream import TensorWriter
from interlace_cli.runtime.processes import find_processes

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
"""torch's dtypes in the words of safetensors."""
BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Held:
    """A tensor that is to be written: its name in the file, dtype and shape, and what fetches it (`whole.fetch`)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    fetch: Callable[[], Tensor | None]


@dataclass(frozen=True)
class Stored:
    """A tensor of a file; `read` returns it on the first process, and None on the others."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor | None]


def save_tensors(path: Path, tensors: Iterable[Held]) -> None:
    """Writes the file. All processes call it together. Raises OSError on the first if it cannot be written."""
    tensors = list(tensors)
    if not find_processes().is_main:
        for tensor in tensors:
            tensor.fetch()
        return
    with TensorWriter(path, {tensor.name: (DTYPES[tensor.dtype], tensor.shape) for tensor in tensors}) as file:
        for tensor in tensors:
            value = tensor.fetch()
            assert value is not None, tensor.name
            file.write(tensor.name, view_bytes(value.to(tensor.dtype)))


def list_tensors(path: Path) -> list[Stored]:
    """What the file has, in its order. All processes call it together; the first alone looks at the file. Raises
    CheckpointError for a file that is none."""
    found = None
    if find_processes().is_main:
        found = sorted(read_header(path)[0].values(), key=lambda info: info.start)
    return [
        Stored(info.name, BY_NAME[info.dtype], info.shape, lambda info=info: _read(info))  # type: ignore[misc]
        for info in tell(found)
    ]


def view_bytes(tensor: Tensor) -> memoryview:
    """The tensor's raw bytes, as safetensors stores them; without a copy if it lies on the host in one piece."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _read(info: TensorInfo) -> Tensor | None:
    return read_tensor(info) if find_processes().is_main else None


def read_tensor(info: TensorInfo) -> Tensor:
    """The tensor as it is stored. Raises OSError."""
    data = bytearray(info.bytes)
    with info.file.open("rb") as file:
        file.seek(info.start)
        file.readinto(data)
    dtype = BY_NAME[info.dtype]
    return torch.frombuffer(data, dtype=dtype).reshape(info.shape) if data else torch.empty(info.shape, dtype=dtype)
