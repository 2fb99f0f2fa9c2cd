"""Commands in processes of their own, without the seconds that every interpreter takes to import torch: one process
imports it, and forks for each command.

As a script: reads a JSON object a line (`words`; `files`, the largest size of one in bytes; `is_bound` by the modes of
files), answers with the process id, and when that has ended with its exit code, negative for a signal.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass
class Running:
    """A command under way."""

    server: ForkServer
    process: int
    log: Path
    code: int | None = None
    began: float = field(default_factory=time.monotonic)

    def kill(self, number: int) -> None:
        """Sends a signal; the process may be gone already."""
        with suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self) -> tuple[int, str]:
        """The exit code, and all that was said."""
        if self.code is None:
            self.code = int(self.server.answer())
        return self.code, self.log.read_text(errors="replace")


class ForkServer:
    """One command at a time."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder, self.count = folder, 0
        words = [sys.executable, __file__, str(folder)]
        # Standard error is this process's own: what the server says is a fault of the tests.
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        assert self.answer() == "ready"

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def answer(self) -> str:
        """The next line that the server says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, *words: str | Path, **limits: Any) -> Running:
        """Begins `interlace WORDS`."""
        self.count += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"log-{self.count}"
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"words": [str(word) for word in words], "log": str(log), **limits}) + "\n")
        self.process.stdin.flush()
        return Running(self, int(self.answer()), log)

    def run(self, *words: str | Path, **limits: Any) -> tuple[int, str]:
        """The whole of it."""
        return self.start(*words, **limits).wait()


def serve() -> None:
    import transformers.trainer  # noqa: F401

    from interlace_cli.core import analyze, compare, evaluate, export, finetune, plan, prepare, prune, run  # noqa: F401
    from interlace_cli.evaluation import quality  # noqa: F401
    from interlace_cli.healing import heal  # noqa: F401
    from interlace_cli.importance import loss, rows  # noqa: F401
    from interlace_cli.io.models import import_transformers

    import_transformers()
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        # Through a pipe, to which no limit on files applies.
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            answers.close()
            os.close(reader)
            begin(order, writer)
        os.close(writer)
        print(child, file=answers, flush=True)
        with open(reader, "rb", buffering=0) as said, open(order["log"], "wb", buffering=0) as log:
            while part := said.read(1 << 16):
                log.write(part)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def begin(order: dict[str, Any], log: int) -> None:
    """In the child: becomes the command, and never returns."""
    code = 99
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        if "files" in order:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["files"], order["files"]))
        if order.get("is_bound"):
            obey_modes()
        from interlace_cli.cli.app import main

        sys.argv = ["interlace", *order["words"]]
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def obey_modes() -> None:
    """Gives up what root may do whatever the modes of files say: all capabilities (Linux, capset(2))."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    serve()
