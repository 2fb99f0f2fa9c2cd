"""Which of several processes this one is, as its launcher says it, and what they tell each other outside of training.
Loads no torch where there is but one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

from interlace_cli.errors import UsageError
from interlace_cli.runtime.launchers import find_launched

T = TypeVar("T")
LAUNCHER = "INTERLACE_LAUNCHER"
"""Name of the variable with the launcher's process id: its children end when it is gone."""
PATIENCE = 7 * 24 * 3600.0
"""Seconds that one process waits for the others outside of training, as long as the work of one of them may take. One
that is gone is seen at once, by its closed connection, and one that hangs by the launcher."""
_NAMES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
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
    """From the environment. What other launchers say is passed on in torchrun's names, which torch and accelerate read.
    Raises UsageError for what is no number there, and for a launcher that does not say enough."""
    os.environ.update(find_launched(os.environ))
    rank, size, local = (_read_number(name, default) for name, default in _NAMES.items())
    if not (0 <= rank < size and local >= 0):
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={size} do not belong together: ranks count from 0.",
            "The launcher sets both, and for one process neither is needed.",
        )
    return Processes(rank, size, local)


def _read_number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"the variable {name} is no number: {value!r}.", "The launcher sets it.") from None


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


_before_meeting: list[Callable[[], None]] = []


def call_before_meeting(call: Callable[[], None]) -> None:
    """Has `call` made in each process before it waits for all others: what these may still need of it."""
    if call not in _before_meeting:
        _before_meeting.append(call)


def prepare_to_meet() -> None:
    """Before anything for which this process waits until all others have come to it too."""
    for call in _before_meeting:
        call()


def gather(results: Sequence[T]) -> list[T]:
    """The results of what `shard` dealt out, of all processes, in the order of the items; all of them call it."""
    here = find_processes()
    if here.size == 1:
        return list(results)
    prepare_to_meet()
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
    shares: list[list[T]] = [[] for _ in range(here.size)]
    dist.all_gather_object(shares, list(results))
    return [shares[i % here.size][i // here.size] for i in range(sum(map(len, shares)))]


def in_turns(work: Callable[[], T]) -> T:
    """What `work` returns in each process: the first one does it, then one of each other machine, then the others. For
    work whose result stays on disk, where who comes later finds it."""
    here = find_processes()
    done: list[T] = []
    for is_its_turn in (here.rank == 0, here.local == 0, True):
        if is_its_turn and not done:
            done.append(work())
        gather([None])
    return done[0]


def has_open_group() -> bool:
    """Whether this process is still connected to the others. One that ends by an error does not reach
    `exchange.leave_processes`."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def end_at_once(code: int) -> NoReturn:
    """Ends this process with `code`, whatever threads torch has running. At an ordinary end it may wait for what is in
    flight between the processes, or abort: then the launcher sees a signal in place of the code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
