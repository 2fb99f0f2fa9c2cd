"""What an error says of the memory that was short: how much was asked for, where, and what was free there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from interlace_cli.domain.memory import describe_bytes

HOST = "this machine"
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB)"
_WANTED = re.compile(rf"[Tt]ried to allocate {_SIZE}")
_GPU = re.compile(rf"GPU (\d+) has a total capacity of {_SIZE} of which {_SIZE} is free")


@dataclass(frozen=True)
class Shortage:
    """`where`: "cuda:0", or HOST. Bytes; None where the error does not tell."""

    where: str
    wanted: int | None = None
    free: int | None = None
    total: int | None = None

    @property
    def is_on_host(self) -> bool:
        """Whether it is the machine's memory that was short, not a device's."""
        return self.where == HOST

    def __str__(self) -> str:
        wanted = "" if self.wanted is None else f"{describe_bytes(self.wanted, 2)} more were asked for, and "
        if self.free is None:
            return f"{wanted}the memory of {self.where} is used up"
        total = "" if self.total is None else f" of {describe_bytes(self.total, 2)}"
        return f"{wanted}{describe_bytes(self.free, 2)}{total} are free on {self.where}"


def read_shortage(error: BaseException, device: str = "") -> Shortage:
    """What an error says for which `is_out_of_memory` holds. `device` computed when it was raised; empty if it may be
    any. Sources: the messages of c10/cuda/CUDACachingAllocator.cpp and c10/core/impl/alloc_cpu.cpp."""
    from interlace_cli.runtime import accelerator
    from interlace_cli.runtime.memory import read_available

    text = str(error)
    wanted = _read(_WANTED.search(text), 1)
    if (found := _GPU.search(text)) is not None:
        return Shortage(f"cuda:{found[1]}", wanted, _read(found, 4), _read(found, 2))
    if "DefaultCPUAllocator" in text or isinstance(error, (MemoryError, OSError)) or accelerator.is_cpu(device):
        return Shortage(HOST, wanted, read_available())
    if accelerator.is_cuda(device):
        try:
            return Shortage(device, wanted, accelerator.read_free(device))
        # A driver that has just failed may fail again.
        except RuntimeError:
            return Shortage(device, wanted)
    return Shortage(device or "the device", wanted)


def _read(found: re.Match[str] | None, group: int) -> int | None:
    return None if found is None else int(float(found[group]) * UNITS[found[group + 1]])
