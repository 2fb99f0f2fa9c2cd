"""Questions to transformers: answered here where it is loaded already, else by one process of its own.

transformers and torch take seconds to import and hundreds of MB, of which surgery on disk needs nothing else. The
process is started by the first question, answers the later ones too, and ends with this one.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from interlace_cli import errors
from interlace_cli.errors import InterlaceError

_CODE = "from interlace_cli.io.child import serve; serve()"
_LOCK = threading.Lock()


def ask(function: str, *arguments: Any) -> Any:
    """What `package.module:function` returns for `arguments`, both as JSON has them. An InterlaceError that it raises
    is raised here."""
    if "transformers" in sys.modules:
        return json.loads(json.dumps(_find(function)(*json.loads(json.dumps(arguments))), default=str))
    with _LOCK:
        return _start()(function, arguments)


def serve() -> None:
    """Answers the questions that come as lines on stdin. stdout is for answers alone, whatever libraries print."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    for line in sys.stdin:
        function, arguments = json.loads(line)
        try:
            answer = {"value": _find(function)(*arguments)}
        except InterlaceError as error:
            answer = {"error": type(error).__name__, "what": error.what, "fix": error.fix}
        print(json.dumps(answer, default=str), file=answers, flush=True)


@cache
def _start() -> Callable[[str, Any], Any]:
    # A pipe would have to be emptied all the time.
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, encoding="ascii"
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def put(function: str, arguments: Any) -> Any:
        try:
            print(json.dumps([function, arguments]), file=stdin, flush=True)
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            process.wait()
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-1:]
            _start.cache_clear()
            raise InterlaceError(
                f"the process that was to ask transformers ended with code {process.returncode}"
                f"{': ' + last[0] if last else ''}.",
                "Try again, with --debug.",
            )
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["what"], answer["fix"])
        return answer["value"]

    def stop() -> None:
        stdin.close()
        process.wait()

    atexit.register(stop)
    return put


def _find(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
