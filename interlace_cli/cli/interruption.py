"""Ctrl-C ends a command within two seconds, whatever it is doing.

Python handles a signal between two of its own instructions, which may be minutes away inside a library's call. But it
writes the signal's number to a pipe at once: a thread reads it there, waits for the command to clear up by itself, and
ends the process if it does not. Whatever is lost so would be lost by a kill too, which every step is made for.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from interlace_cli.runtime.processes import INTERRUPTED, is_launched_by_us

PATIENCE = 1.4
"""Seconds for the command to clear up."""
LINE = "interrupted; what is finished is kept, nothing half-written has a final name, and the same command goes on."


def watch_interruptions() -> None:
    """Called once, by the program's main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="interruptions").start()


def _watch(reader: int) -> None:
    while number := os.read(reader, 1):
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            time.sleep(PATIENCE)
            if not is_launched_by_us():
                from interlace_cli.runtime.watch import find_lost

                os.write(2, f"Error: {find_lost() or LINE}\n".encode())
            os._exit(INTERRUPTED)
