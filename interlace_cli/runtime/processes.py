"""Which of several processes this one is, as torchrun, `accelerate launch` and Slurm say it, and what they tell each
other outside of training. Loads no torch where there is but one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, TypeVar

T = TypeVar("T")
LAUNCHER = "INTERLACE_LAUNCHER"
"""Name of the variable with the launcher's process id: its children end when it is gone."""
INTERRUPTED, LOST = 130, 75
"""What a process ends with, without a word to its launcher, that was interrupted, or that lost the others."""


@dataclass(frozen=True)
class Processes:
    """`rank` of `size` in all; `local` is the rank on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    @property
    def is_launched(self) -> bool:
        """Whether somebody has started this process as one of a number, if only of one."""
        return "WORLD_SIZE" in os.environ

    @property
    def on_machine(self) -> int:
        """How many of them share this machine, as far as the launcher tells; else all."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))


def find_processes() -> Processes:
    """From the environment. What Slurm says is passed on in torchrun's names, which torch and accelerate read."""
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    if "WORLD_SIZE" not in os.environ and "MASTER_ADDR" in os.environ and "SLURM_STEP_ID" in os.environ:
        os.environ.update({name: os.environ[slurm] for name, slurm in names.items() if slurm in os.environ})
    rank, size, local = (int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0), strict=True))
    return Processes(rank, size, local)


def is_launched_by_us() -> bool:
    """Whether a command of ours has started this process, and says itself what came of it."""
    return LAUNCHER in os.environ


def is_connection_lost(error: BaseException) -> bool:
    """Whether another process of this command is gone, or cannot be reached; torch says it in several ways."""
    if type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError"):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("gloo" in text or "Connection closed by peer" in text)


def shard(items: Sequence[T]) -> list[T]:
    """This process's share of work that can be done in any order."""
    here = find_processes()
    return list(items[here.rank :: here.size])


def gather(results: Sequence[T]) -> list[T]:
    """The results of what `shard` dealt out, of all processes, in the order of the items; all of them call it."""
    here = find_processes()
    if here.size == 1:
        return list(results)
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    shares: list[list[T]] = [[] for _ in range(here.size)]
    dist.all_gather_object(shares, list(results))
    return [shares[i % here.size][i // here.size] for i in range(sum(map(len, shares)))]


def leave_processes() -> None:
    """Waits for the other processes at the end and closes their group: without that, some have been seen to abort."""
    if find_processes().size == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def has_open_group() -> bool:
    """Whether this process is still connected to the others. One that ends by an error does not reach
    `leave_processes`."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def end_at_once(code: int) -> NoReturn:
    """Ends this process with `code`, whatever threads torch has running. At an ordinary end it may wait for what is in
    flight between the processes, or abort: then the launcher sees a signal in place of the code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
