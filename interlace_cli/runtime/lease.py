"""A lease: one holder at a time of a name in a folder that several hosts may share; no holder for long after its death.

The holder's file is made by O_EXCL, names who it is, and is touched now and then. A lease is taken over where its
process is known to be dead (same host), or where its file was not touched for `STALE` seconds by the file system's own
clock: those of hosts may differ. Only one can take over from a holder: its successor is a file with the holder's
token in its name, made by O_EXCL too, and the last of such a chain holds. So nobody removes what another has just made.

A holder that stood still for so long may wake up when another has taken over: `is_held` tells it. What is written
under a lease should be renamed into place, so that it is right whoever comes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

from interlace_cli.errors import InterlaceError
from interlace_cli.runtime.machine import find_start, is_alive, name_machine

BEAT, STALE = 10.0, 120.0
"""Seconds between two touches, and from the last one until a lease may be taken over."""
POLL = 0.5


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process, so that it is told from all others: `machine` is one start of a kernel, and the container in it;
    `started` the time at which the process began, as its kernel counts."""

    command: str
    host: str
    machine: str
    process: int
    started: float
    since: str
    token: str

    def describe(self) -> str:
        """For people."""
        where = "" if self.machine == name_machine() else f" on {self.host}"
        return f"`interlace {self.command}` (process {self.process}{where}, since {self.since})"

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be gone: of another host nothing is known."""
        return self.machine == name_machine() and not is_alive(self.process, self.started)


@dataclass(frozen=True)
class _Link:
    """A file of the chain, as it was read. `holder` is None for one that is being written."""

    path: Path
    holder: Holder | None
    key: str
    touched: float


@dataclass
class Lease:
    """What is held until `release`, by `file`, the last of the chain that begins at `path`."""

    path: Path
    file: Path
    token: str
    command: str
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def is_held(self) -> bool:
        """Whether nobody has taken it over. True also where the file system does not answer: nothing is known then."""
        try:
            chain = _read_chain(self.path)
        except OSError:
            return True
        return bool(chain) and chain[-1].key == self.token

    def release(self) -> None:
        """Others may have it now. Nothing happens to a lease that was taken over."""
        self._ended.set()
        with suppress(OSError):
            chain = _read_chain(self.path)
            if not chain or chain[-1].key != self.token:
                return
            # Its own successor, as fresh as can be: nobody else comes in between the look and the removal.
            end = _create(_name_successor(self.path, self.token), asdict(_describe_self(self.command)))
            if end is None:
                return
            # The first goes first: a chain without it is none, whatever else of it is there still.
            for path in (self.path, *(link.path for link in chain[1:]), end):
                path.unlink(missing_ok=True)

    def _keep_alive(self) -> None:
        while not self._ended.wait(BEAT):
            if not self.is_held:
                return
            with suppress(OSError):
                os.utime(self.file)


def try_acquire(path: Path, command: str) -> Lease | None:
    """The lease on `path`, whose folder is there, or None while another has it. Raises InterlaceError where no file can
    be made."""
    holder = _describe_self(command)
    while True:
        try:
            chain = _read_chain(path)
            if chain and not _is_over(chain[-1]):
                return None
            name = _name_successor(path, chain[-1].key) if chain else path
            file = _create(name, asdict(holder))
        except OSError as error:
            raise InterlaceError(
                f"cannot write {path}: {error.strerror or error}.", "Several processes that work there need it."
            ) from error
        if file is None:
            continue
        lease = Lease(path, file, holder.token, command)
        if chain and not lease.is_held:
            # The chain whose end was taken was another one meanwhile.
            file.unlink(missing_ok=True)
            continue
        threading.Thread(target=lease._keep_alive, name=f"lease {path.name}", daemon=True).start()
        return lease


def find_holder(path: Path) -> Holder | None:
    """Who has the lease on `path`; None for nobody, for one that may be taken over, and where nothing can be read."""
    try:
        chain = _read_chain(path)
        return None if not chain or _is_over(chain[-1]) else chain[-1].holder
    except OSError:
        return None


def list_neighbours(paths: Iterable[Path]) -> set[str]:
    """Other processes of this machine that hold one of these leases, in words."""
    holders = [holder for path in paths if (holder := find_holder(path)) is not None]
    return {one.describe() for one in holders if one.machine == name_machine() and one.process != os.getpid()}


def name_machine_lease(folder: Path, name: str) -> Path:
    """A lease of its own for each machine that works in `folder`."""
    return folder / f".{name}-{hashlib.sha256(name_machine().encode()).hexdigest()[:12]}.lease"


@contextmanager
def leased(path: Path, command: str, say: Callable[[str], None], doing: str = "at work there") -> Iterator[Lease]:
    """Holds the lease on `path`, whose folder is there, during the block. Waits for it, and says for whom."""
    is_told = False
    while (lease := try_acquire(path, command)) is None:
        holder = find_holder(path)
        if holder is not None and not is_told:
            say(f"waiting for {holder.describe()}, which is {doing}")
            is_told = True
        time.sleep(POLL)
    try:
        yield lease
    finally:
        lease.release()


def _is_over(link: _Link) -> bool:
    """Whether the end of a chain may be taken over."""
    if link.holder is not None and link.holder.is_dead:
        return True
    return abs(_read_clock(link.path.parent) - link.touched) > STALE


def _read_chain(path: Path) -> list[_Link]:
    """The first holder, who took over from it, and so on."""
    chain: list[_Link] = []
    name = path
    while (link := _read(name)) is not None:
        chain.append(link)
        name = _name_successor(path, link.key)
    return chain


def _name_successor(path: Path, key: str) -> Path:
    return path.with_name(f"{path.name}.{key}")


def _read(path: Path) -> _Link | None:
    # Opened, not only asked for: NFS looks at the server then, and not into what it has seen a minute ago.
    try:
        with path.open("rb") as file:
            data, found = file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    try:
        holder = Holder(**json.loads(data))
        return _Link(path, holder, holder.token, found.st_mtime)
    except (ValueError, TypeError):
        # It is being written, or its writer died over it.
        return _Link(path, None, f"{found.st_ino:x}-{found.st_mtime_ns:x}", found.st_mtime)


def _create(path: Path, words: dict[str, object]) -> Path | None:
    """The file, with these words; None where there is one already."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    except FileExistsError:
        return None
    try:
        os.write(file, json.dumps(words, sort_keys=True).encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return path


def _read_clock(folder: Path) -> float:
    """Seconds, as the file system counts them that the folder is on."""
    probe = folder / f".clock-{uuid4().hex}"
    try:
        with probe.open("wb") as file:
            os.utime(probe)
            return os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _describe_self(command: str) -> Holder:
    return Holder(
        command=command,
        host=platform.node() or "?",
        machine=name_machine(),
        process=os.getpid(),
        started=find_start(os.getpid()),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        token=uuid4().hex,
    )
