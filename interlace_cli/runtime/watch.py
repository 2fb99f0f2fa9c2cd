"""What has become of the other processes of this command: which one failed or is gone, and how. `sentinel.py` finds it
out; here is what a process hears of its own sentinel and tells it."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from interlace_cli.errors import LostPeerError, first_line
from interlace_cli.runtime.agreement import name_process
from interlace_cli.runtime.processes import LOST, Processes, end_at_once, is_launched_by_us

GRACE = 20.0
"""Seconds for this process to end by itself when another one is gone: some collectives would wait for it for long."""
PAUSE = 8.0
"""Seconds in which the reason for a lost connection becomes known, on a busy machine too."""
SENTINEL = Path(__file__).with_name("sentinel.py")
_ends = threading.Event()
_open: list[Watch] = []
"""The one of this process, once it has met the others."""
AGAIN = "The same command goes on."


class Watch:
    """This process's sentinel."""

    def __init__(self, here: Processes, setup: Mapping[str, Any], listener: socket.socket | None) -> None:
        self.here, self.news = here, threading.Event()
        self.sentence: str | None = None
        keep = () if listener is None else (listener.fileno(),)
        self.sentinel = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SENTINEL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=keep,
            # What ends this process by its group does not end it.
            start_new_session=True,
        )
        self.tell(setup)
        threading.Thread(target=self._listen, daemon=True, name="watch").start()

    def tell(self, news: Mapping[str, Any]) -> None:
        """Says to the others how this process ends: {"failed": sentence} or {"done": True}. Never raises."""
        with suppress(OSError, ValueError):
            assert self.sentinel.stdin is not None
            self.sentinel.stdin.write(json.dumps(dict(news)).encode() + b"\n")
            self.sentinel.stdin.flush()

    def _listen(self) -> None:
        assert self.sentinel.stdout is not None
        for line in self.sentinel.stdout:
            if self.sentence is None:
                self.sentence = describe_end(json.loads(line), self.here.size)
                self.news.set()
                threading.Thread(target=self._end, daemon=True, name="watch end").start()

    def _end(self) -> None:
        time.sleep(GRACE)
        if not _ends.is_set():
            return
        if is_launched_by_us():
            end_at_once(LOST)
        os.write(2, f"Error: {self.sentence}\n".encode())
        end_at_once(1)


def describe_end(news: Mapping[str, Any], size: int) -> str:
    """One sentence on how another process has ended."""
    who = name_process(int(news["rank"]), size, str(news["host"]))
    if "failed" in news:
        return f"{who} failed: {news['failed']}"
    if "signal" in news:
        return f"{who} was killed ({_name_signal(int(news['signal']))}), and the others ended. {AGAIN}"
    if "code" in news:
        return f"{who} ended with exit code {news['code']}, and the others ended. {AGAIN}"
    return f"{who} is gone, it or its machine, and the others ended. {AGAIN}"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def listen() -> socket.socket:
    """A socket on a free port, for IPv4 and IPv6."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def open_hub() -> tuple[socket.socket, dict[str, Any]]:
    """On rank 0: the socket on which its sentinel will listen, and what the others have to know."""
    made = listen()
    addresses = [os.environ.get("MASTER_ADDR", "127.0.0.1"), socket.gethostname()]
    return made, {"addresses": addresses, "port": made.getsockname()[1], "token": secrets.token_hex(16)}


def watch(here: Processes, hub: Mapping[str, Any], listener: socket.socket | None) -> None:
    """Starts the sentinel of this process; `listener` on rank 0."""
    setup = {**hub, "rank": here.rank, "size": here.size, "host": socket.gethostname(), "pid": os.getpid()}
    setup["listen"] = None if listener is None else listener.fileno()
    _open.append(Watch(here, setup, listener))
    if listener is not None:
        listener.close()
    atexit.register(_say_goodbye)


def is_watching() -> bool:
    """Whether this process has a sentinel."""
    return bool(_open)


def tell_others(news: Mapping[str, Any]) -> None:
    """`Watch.tell`, if there is one."""
    for one in _open:
        one.tell(news)


def find_lost(wait: float = 0.0) -> str | None:
    """A sentence on the first of the other processes that failed or is gone, as far as it becomes known in `wait`
    seconds."""
    for one in _open:
        one.news.wait(wait)
        return one.sentence
    return None


def refuse_lost(wait: float = 0.0) -> None:
    """Raises LostPeerError if another process has failed or is gone."""
    lost = find_lost(wait)
    if lost is not None:
        raise LostPeerError(lost)


def end_when_lost() -> None:
    """This process may be ended, some seconds after another one is gone, if it has not by itself. Called by programs
    that are ours."""
    _ends.set()


def _say_goodbye() -> None:
    error = getattr(sys, "last_value", None)
    tell_others({"done": True} if error is None else {"failed": f"{type(error).__name__}: {first_line(error)}"})
