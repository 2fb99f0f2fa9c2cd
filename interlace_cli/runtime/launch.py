"""Running a command of ours in several processes of this machine, as torchrun would, and without its stack traces."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from interlace_cli.errors import InterlaceError
from interlace_cli.runtime.processes import INTERRUPTED, LAUNCHER, LOST

Log = IO[bytes] | None
PULSE = "INTERLACE_PULSE"
"""Name of the variable with the open file to which a process writes that it lives."""
GRACE = 20.0
"""Seconds for the others to end by themselves when one has failed."""
SILENCE = 120.0
"""Seconds without a sign of life from one process, after which it counts as failed."""
FAREWELL = 0.4
"""Seconds for a process to clear up once it was asked to end."""


def run_processes(words: Sequence[str], count: int, stdout: int | None = None) -> int:
    """Runs `interlace WORDS` in `count` processes; the first one speaks, on the open file `stdout` if that is given.
    Returns 0, or the code of the first that failed, whose words are then shown. Raises KeyboardInterrupt if one of them
    was interrupted, and InterlaceError if one was killed or hangs."""
    port = find_free_port()
    started: list[tuple[subprocess.Popen[bytes], Log]] = []
    pulses: list[int] = []
    try:
        for rank in range(count):
            # Closed below, with the process that writes to it.
            log: Log = None if rank == 0 else tempfile.TemporaryFile()  # noqa: SIM115
            pulse, own = os.pipe()
            os.set_blocking(pulse, False)
            pulses.append(pulse)
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            where = stdout if log is None else subprocess.DEVNULL
            started.append((start_process(words, place, count, own, where, log), log))
            os.close(own)
        return _wait(started, pulses)
    finally:
        for pulse in pulses:
            os.close(pulse)
        end_processes([process for process, _ in started])
        for _, log in started:
            if log is not None:
                log.close()


def start_process(
    words: Sequence[str], place: Mapping[str, str], on_machine: int, pulse: int, stdout: int | None, stderr: Log
) -> subprocess.Popen[bytes]:
    """Starts `interlace WORDS` as one of several processes: `place` says which, in torchrun's names, `on_machine` how
    many share this machine. It writes its signs of life to the open file `pulse`."""
    environment = {
        **os.environ,
        PULSE: str(pulse),
        # Each would say the same, most of it about libraries' own libraries.
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
        LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // on_machine, 1))),
        **place,
    }
    command = [sys.executable, "-m", "interlace_cli", *words]
    return subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr, pass_fds=(pulse,))


def is_abandoned() -> bool:
    """Whether the process that started this one is gone."""
    return LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER])


def show_life() -> None:
    """Lets the launcher know, every second, that this process runs; called once in each that it has started. One that
    was stopped, or that a library keeps from running Python, is found so: the others would wait for it for hours."""
    if PULSE not in os.environ:
        return
    file = int(os.environ.pop(PULSE))

    def beat() -> None:
        with suppress(OSError):
            while True:
                os.write(file, b".")
                time.sleep(1)

    threading.Thread(target=beat, daemon=True, name="pulse").start()


def find_silent(pulses: Sequence[int], heard: list[float]) -> int | None:
    """The first process that has been silent for too long; `heard` holds when each was heard last."""
    for rank, pulse in enumerate(pulses):
        with suppress(BlockingIOError):
            if os.read(pulse, 1 << 16):
                heard[rank] = time.monotonic()
    return next((rank for rank, last in enumerate(heard) if time.monotonic() - last > SILENCE), None)


def end_processes(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks those that run to end, so that the first one leaves the terminal as it was; then ends them."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + FAREWELL
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(started: Sequence[tuple[subprocess.Popen[bytes], Log]], pulses: Sequence[int]) -> int:
    deadline: float | None = None
    failed: list[int] = []
    heard = [time.monotonic()] * len(started)
    while True:
        codes = [process.poll() for process, _ in started]
        silent = find_silent(pulses, heard)
        if silent is not None and codes[silent] is None:
            raise build_silence(silent, len(started))
        failed += [rank for rank, code in enumerate(codes) if code and rank not in failed]
        if all(code is not None for code in codes):
            break
        if failed:
            deadline = deadline or time.monotonic() + GRACE
            if codes[0] not in (None, LOST) or time.monotonic() > deadline:
                break
        time.sleep(0.05)
    if not failed:
        return 0
    rank = choose_failed(failed, codes)
    code = codes[rank] or 1
    refuse_end(rank, len(started), code)
    show_log(started[rank][1])
    return code


def build_silence(rank: int, count: int) -> InterlaceError:
    """Of a process that hangs."""
    return InterlaceError(
        f"process {rank + 1} of {count} has not answered for {SILENCE:.0f} seconds: all were ended.",
        "The same command goes on.",
    )


def refuse_end(rank: int, count: int, code: int) -> None:
    """Raises what a process that ended with `code` has not said itself: KeyboardInterrupt, or InterlaceError."""
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == LOST:
        raise InterlaceError("the processes lost their connection to each other.", "The same command goes on.")
    if code < 0:
        raise InterlaceError(
            f"process {rank + 1} of {count} was killed ({signal.Signals(-code).name}), and the others ended.",
            "SIGKILL often means that the memory did not do. The same command goes on.",
        )


def show_log(log: Log) -> None:
    """Says what a process has said that was not to speak."""
    if log is not None:
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace"))


def choose_failed(failed: Sequence[int], codes: Sequence[int | None]) -> int:
    """Of those that failed, in their order, the one whose words count. One that lost its connection has none: another
    failed before. What all of them say the first process has said already."""
    rank = next((rank for rank in failed if codes[rank] != LOST), failed[0])
    has_spoken = codes[0] not in (None, 0, LOST) and (codes[rank] or 0) > 0
    return 0 if has_spoken else rank


def find_free_port() -> int:
    """Where the processes that are to be started can meet."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
