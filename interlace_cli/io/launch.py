"""Running a command of ours in several processes of this machine, as torchrun would, and without its stack traces."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

LAUNCHER = "INTERLACE_LAUNCHER"
"""Name of the variable with the launcher's process id: its children end when it is gone."""
Log = IO[bytes] | None
GRACE = 20.0
"""Seconds for the others to end by themselves when one has failed."""


def run_processes(words: Sequence[str], count: int, stdout: int | None = None) -> int:
    """Runs `interlace WORDS` in `count` processes; the first one speaks, on the open file `stdout` if that is given.
    Returns 0, or the code of the first that failed, whose words are then shown."""
    port = _find_free_port()
    started: list[tuple[subprocess.Popen[bytes], Log]] = []
    try:
        for rank in range(count):
            # Closed below, with the process that writes to it.
            log: Log = None if rank == 0 else tempfile.TemporaryFile()  # noqa: SIM115
            environment = {
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                # Each would say the same, most of it about libraries' own libraries.
                "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
                LAUNCHER: str(os.getpid()),
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1))),
            }
            command = [sys.executable, "-m", "interlace_cli", *words]
            where = stdout if log is None else subprocess.DEVNULL
            started.append((subprocess.Popen(command, env=environment, stdout=where, stderr=log), log))
        return _wait(started)
    finally:
        for process, log in started:
            if process.poll() is None:
                process.kill()
                process.wait()
            if log is not None:
                log.close()


def is_abandoned() -> bool:
    """Whether the process that started this one is gone."""
    return LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER])


def _wait(started: Sequence[tuple[subprocess.Popen[bytes], Log]]) -> int:
    deadline: float | None = None
    while True:
        codes = [process.poll() for process, _ in started]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if all(code is not None for code in codes):
            break
        if failed is not None:
            deadline = deadline or time.monotonic() + GRACE
            if codes[0] is not None or time.monotonic() > deadline:
                break
        time.sleep(0.05)
    failed = next((rank for rank, code in enumerate(codes) if code), None)
    if failed is None:
        return 0
    _, log = started[failed]
    if log is not None:
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace"))
    code = codes[failed] or 1
    return code if code > 0 else 1


def _find_free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
