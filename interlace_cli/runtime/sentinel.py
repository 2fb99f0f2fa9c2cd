"""Says how a process of several has ended, when it cannot say so itself. A small program of its own (the standard
library alone), started by each of them; the one of rank 0 passes on to all what each of them reports.

A launcher knows the signal that ended a worker, but tells it to nobody; what the others see is a closed connection.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from contextlib import suppress
from typing import Any

BEAT = 0.2
"""Seconds between two looks at whether the own process lives, where the kernel does not tell."""
DYING = 2.0
"""Seconds for a process to end, when its children have another parent already."""
FAREWELL = 20.0
"""Seconds for the others to end, when the process of rank 0 has."""
GET_INFO, EXIT_INFO, INFO_BYTES, EXIT_CODE_AT = 0xC040FF0B, 1 << 3, 64, 60
"""Linux: PIDFD_GET_INFO, PIDFD_INFO_EXIT, and where its answer has the exit code (include/uapi/linux/pidfd.h)."""


class Connection:
    """Lines of JSON over a socket or a pair of pipes."""

    def __init__(self, reader: int, writer: int, owner: socket.socket | None = None) -> None:
        self.reader, self.writer, self.owner, self.rest = reader, writer, owner, b""
        self.member: dict[str, Any] = {}
        self.is_left = False

    def send(self, news: dict[str, Any]) -> None:
        """Writes a line; nothing happens if nobody reads any more."""
        with suppress(OSError):
            os.write(self.writer, json.dumps(news).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """The lines that have come; None at the end."""
        try:
            data = os.read(self.reader, 1 << 16)
        except OSError:
            return None
        if not data:
            return None
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Sentinel:
    """Of the process `setup["pid"]`, which is `setup["rank"]`. It listens for the others on the open socket
    `setup["listen"]`, or reports to who does, on `setup["port"]` of one of `setup["addresses"]`."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup, self.own = setup, Connection(0, 1)
        self.select = selectors.DefaultSelector()
        self.members: list[Connection] = []
        self.met: set[int] = set()
        self.news: list[dict[str, Any]] = []
        self.hub: Connection | None = None
        self.is_done, self.is_told = False, False
        self.listener: socket.socket | None = None
        self.select.register(0, selectors.EVENT_READ, self.own)
        self.process = _open_process(setup["pid"])
        if self.process is not None:
            self.select.register(self.process, selectors.EVENT_READ, "ended")
        if setup["listen"] is not None:
            self.listener = socket.socket(fileno=setup["listen"])
            self.select.register(self.listener, selectors.EVENT_READ, "listener")
        else:
            self._join()

    def run(self) -> None:
        """Until the process has ended, and of rank 0 until the others have come and left: one that is slower than the
        process was has to hear of its end."""
        ended: float | None = None
        while ended is None or (self._is_needed() and time.monotonic() < ended + FAREWELL):
            for key, _ in self.select.select(BEAT):
                self._handle(key.data)
            if ended is None and self._has_ended():
                ended = time.monotonic()
                self._report_end()
        for member in self.members:
            member.send({"over": True})

    def _is_needed(self) -> bool:
        return self.listener is not None and (bool(self.members) or len(self.met) < self.setup["size"] - 1)

    def _handle(self, source: Any) -> None:
        if source == "listener":
            self._accept()
        elif source == "ended":
            self.select.unregister(self.process)  # type: ignore[arg-type]
        elif source is self.own:
            self._hear_own()
        elif source is self.hub:
            self._hear_hub()
        else:
            self._hear_member(source)

    def _join(self) -> None:
        for address in self.setup["addresses"]:
            try:
                made = socket.create_connection((address, self.setup["port"]), timeout=10)
            except OSError:
                continue
            made.settimeout(None)
            self.hub = _connect(made)
            self.hub.send({name: self.setup[name] for name in ("rank", "host", "token")})
            self.select.register(made, selectors.EVENT_READ, self.hub)
            return

    def _accept(self) -> None:
        assert self.listener is not None
        with suppress(OSError):
            made, _ = self.listener.accept()
            member = _connect(made)
            self.members.append(member)
            self.select.register(made, selectors.EVENT_READ, member)

    def _hear_own(self) -> None:
        lines = self.own.receive()
        if lines is None:
            self.select.unregister(0)
        for line in lines or []:
            if "failed" in line:
                self.is_told = True
                self._tell({"failed": line["failed"]})
            self.is_done = self.is_done or "done" in line

    def _hear_hub(self) -> None:
        assert self.hub is not None
        lines = self.hub.receive()
        for line in lines or []:
            if "over" in line:
                self.is_told = True
            else:
                self.own.send(line)
        if lines is None:
            self.select.unregister(self.hub.reader)
            if not self.is_told:
                self.own.send({"rank": 0, "host": self.setup["addresses"][0], "gone": True})
            self.hub = None

    def _hear_member(self, member: Connection) -> None:
        lines = member.receive()
        for line in lines or []:
            if not member.member:
                if line.get("token") != self.setup["token"]:
                    lines = None
                    break
                member.member = {"rank": line["rank"], "host": line["host"]}
                self.met.add(line["rank"])
                for news in self.news:
                    member.send(news)
            elif "bye" in line:
                member.is_left = True
            else:
                member.is_left = member.is_left or "failed" not in line
                self._pass_on({**member.member, **line})
        if lines is None:
            assert member.owner is not None
            self.select.unregister(member.owner)
            member.owner.close()
            self.members.remove(member)
            if member.member and not member.is_left:
                self._pass_on({**member.member, "gone": True})

    def _tell(self, news: dict[str, Any]) -> None:
        if self.listener is not None:
            self._pass_on({"rank": self.setup["rank"], "host": self.setup["host"], **news})
        elif self.hub is not None:
            self.hub.send(news)

    def _pass_on(self, news: dict[str, Any]) -> None:
        self.news.append(news)
        for one in (self.own, *self.members):
            if one.member.get("rank") != news["rank"]:
                one.send(news)

    def _has_ended(self) -> bool:
        return os.getppid() != self.setup["pid"]

    def _report_end(self) -> None:
        code = _read_status(self.setup["pid"], self.process)
        # What it has written last.
        for key, _ in self.select.select(0):
            if key.data is self.own:
                self._hear_own()
        if self.is_done or self.is_told or code == 0:
            if self.hub is not None:
                self.hub.send({"bye": True})
        elif code is None:
            self._tell({"gone": True})
        else:
            self._tell({"signal": code & 0x7F} if code & 0x7F else {"code": code >> 8})


def _connect(made: socket.socket) -> Connection:
    """A machine that is gone is found out within a minute or so."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return Connection(made.fileno(), made.fileno(), made)


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _read_status(pid: int, process: int | None) -> int | None:
    """How a process has ended, as `wait` would say it; None if that cannot be known any more."""
    deadline = time.monotonic() + DYING
    with suppress(OSError, IndexError, ValueError):
        while time.monotonic() < deadline:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            if fields[0] in "ZX":
                return int(fields[-1])
            # Its children have another parent a moment before it counts as ended.
            time.sleep(0.01)
    if process is None:
        return None
    with suppress(OSError, ImportError):
        import fcntl

        # Since Linux 6.15; also once its parent has taken the status.
        info = bytearray(INFO_BYTES)
        info[:8] = EXIT_INFO.to_bytes(8, sys.byteorder)
        fcntl.ioctl(process, GET_INFO, info)
        if int.from_bytes(info[:8], sys.byteorder) & EXIT_INFO:
            return int.from_bytes(info[EXIT_CODE_AT : EXIT_CODE_AT + 4], sys.byteorder)
    return None


def _read_line() -> bytes:
    """The first line of stdin, and nothing of the next."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(0)
        line += byte
    return line


if __name__ == "__main__":
    # Not an argument, which everybody on the machine can read.
    Sentinel(json.loads(_read_line())).run()
