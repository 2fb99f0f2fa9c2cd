"""`run` under a launcher (torchrun, srun): the first of its processes takes the steps one after another, and the others
wait. A step of several processes is started as a child of each, so that every step has processes of its own: what one
leaves behind, such as memory of a GPU or an open group, does not meet the next one.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.errors import InterlaceError
from interlace_cli.runtime.launch import (
    GRACE,
    Log,
    build_silence,
    choose_failed,
    end_processes,
    find_free_port,
    find_silent,
    refuse_end,
    show_log,
    start_process,
)
from interlace_cli.runtime.launchers import PLACE, list_names
from interlace_cli.runtime.processes import INTERRUPTED, LOST, Processes, find_processes

if TYPE_CHECKING:
    from interlace_cli.runtime.exchange import Exchange

NEXT, END = "the next step", "the end of a step"
PAUSE = 0.1
SILENT = 1000
"""In place of the exit code of one that hangs."""
_pools: list[WorkerPool] = []


@dataclass
class WorkerPool:
    """The processes that the launcher started, which stay for the whole command; `place` is this one's, in torchrun's
    names. All of them call `run`, with the same job."""

    here: Processes
    exchange: Exchange
    place: Mapping[str, str]
    jobs: int = field(default=0)

    def run_everywhere(self, command: str, config: str, stdout: int) -> int:
        """In the first process: runs `interlace COMMAND` with the options `config` as a child of each process. Returns
        0, or the code of the one that failed, whose words are shown. Raises as `run_processes` does."""
        job = {"command": command, "config": config, "port": find_free_port()}
        self.exchange.gather(NEXT, job)
        return self.run(job, stdout)

    def run(self, job: Mapping[str, Any], stdout: int | None = None) -> int:
        """This process's part of a job."""
        self.jobs += 1
        with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as said:
            config = Path(name) / "options.json"
            config.write_text(job["config"])
            words = [job["command"], "--config", os.fspath(config), "--json"]
            place = {**self.place, "MASTER_PORT": str(job["port"])}
            log: Log = None if self.here.is_main else said
            code = self._wait(words, place, subprocess.DEVNULL if stdout is None else stdout, log)
            codes = self.exchange.gather(END, code)
            failed = [rank for rank, code in enumerate(codes) if code]
            if not failed:
                return 0
            first = self._find_first()
            rank = choose_failed(
                [first, *(one for one in failed if one != first)] if first in failed else failed, codes
            )
            if rank == self.here.rank and codes[rank] > 0 and codes[rank] not in (INTERRUPTED, LOST):
                show_log(log)
            if codes[rank] == SILENT:
                codes[rank] = 1
                if self.here.is_main:
                    raise build_silence(rank, self.here.size)
            if self.here.is_main:
                refuse_end(rank, self.here.size, codes[rank])
            return int(codes[rank])

    def _wait(self, words: Sequence[str], place: Mapping[str, str], stdout: int, log: Log) -> int:
        """The exit code of this process's child. When that of another one has failed, it is given some time to end."""
        store, name = self.exchange.store, self._name_failure()
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        heard = [time.monotonic()]
        deadline: float | None = None
        child = start_process(words, place, self.here.on_machine, writer, stdout, log)
        os.close(writer)
        try:
            while child.poll() is None:
                if deadline is None and store.check([name]):
                    deadline = time.monotonic() + GRACE
                if deadline is not None and time.monotonic() > deadline:
                    end_processes([child])
                    return LOST
                if find_silent([reader], heard) is not None:
                    store.compare_set(name, "", str(self.here.rank))
                    end_processes([child])
                    return SILENT
                time.sleep(PAUSE)
        finally:
            end_processes([child])
            os.close(reader)
        if child.returncode not in (0, LOST):
            store.compare_set(name, "", str(self.here.rank))
        return child.returncode

    def _name_failure(self) -> str:
        return f"job/{self.jobs}/failed"

    def _find_first(self) -> int:
        """The rank whose child failed first; -1 if none has said so."""
        store, name = self.exchange.store, self._name_failure()
        return int(store.get(name)) if store.check([name]) else -1


def find_pool() -> WorkerPool | None:
    """The one whose first process this is."""
    return _pools[-1] if _pools else None


@contextmanager
def leading() -> Iterator[WorkerPool]:
    """In the first process. From now on it counts as one that nobody has launched: what it does by itself it does as
    one process. At the end it lets the others go, with its exit code."""
    pool = _open_pool()
    before = {name: os.environ.pop(name) for name in list_names(os.environ)}
    _pools.append(pool)
    code = 1
    try:
        yield pool
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
        raise
    except InterlaceError as error:
        code = error.exit_code
        raise
    finally:
        _pools.remove(pool)
        os.environ.update(before)
        with suppress(InterlaceError):
            pool.exchange.gather(NEXT, {"end": code})


def follow() -> int:
    """In the others: starts what the first one says, until it ends; returns its exit code."""
    pool = _open_pool()
    while True:
        job = pool.exchange.gather(NEXT, None)[0]
        if "end" in job:
            return int(job["end"])
        pool.run(job)


def _open_pool() -> WorkerPool:
    from interlace_cli.runtime.exchange import open_exchange

    here = find_processes()
    return WorkerPool(here, open_exchange(), {name: os.environ[name] for name in PLACE if name in os.environ})
