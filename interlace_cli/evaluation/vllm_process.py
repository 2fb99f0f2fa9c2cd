"""vLLM in an interpreter of its own, whose pins need not be ours: started, asked in chunks, and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from interlace_cli.errors import InterlaceError, MissingInputError, UsageError
from interlace_cli.io.paths import expand_home

WORKER = Path(__file__).with_name("vllm_worker.py")
# Beside the file lie modules of ours that are called as some of the standard library are.
START = "import runpy, sys; sys.path.pop(0); runpy.run_path(sys.argv[1], run_name='__main__')"
PROBE = (
    "import importlib.metadata as m, importlib.util as u; d = m.packages_distributions().get('vllm', ['vllm'])[0];"
    " print(m.version(d) if u.find_spec('vllm') else '')"
)
OF_ONE_PROCESS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_")
"""How the variables begin that say which of several processes this is: vLLM would look for the others."""
OF_INTERPRETER = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
FAREWELL = 30.0
"""Seconds for vLLM to end."""


@dataclass(frozen=True)
class Generated:
    """Of each prompt the new tokens, and how many tokens of it were read, pictures included."""

    tokens: list[list[int]]
    read: list[int]


def find_python(backend: str) -> str:
    """The interpreter of `vllm` or `vllm=PYTHON`. Raises UsageError for one that is not there."""
    _, sign, path = backend.partition("=")
    if not sign:
        return sys.executable
    # Not resolved: the interpreter of a virtual environment is a link, and knows its packages by where that lies.
    found = expand_home(path).absolute()
    if not os.access(found, os.X_OK) or found.is_dir():
        raise UsageError(f"--backend {backend}: {path} is no program.", "Name the python of the environment with vLLM.")
    return str(found)


def find_version(backend: str) -> str:
    """The version of vLLM there. Raises MissingInputError if it is not installed."""
    python = find_python(backend)
    done = subprocess.run(
        [python, "-c", PROBE], capture_output=True, text=True, check=False, env=_build_environment(python)
    )
    if done.returncode or not done.stdout.strip():
        said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        raise MissingInputError(
            f"vLLM is not installed for {python}{f': {said[0]}' if said else ''}.",
            "Install it in an environment of its own, and give that one's python: --backend vllm=PYTHON.",
        )
    return done.stdout.strip()


class VllmProcess:
    """A model in vLLM. `setup` is what `vllm_worker.load` takes. To be used as a context."""

    def __init__(self, name: str, python: str, setup: Mapping[str, Any], gpu: str | None = None) -> None:
        self.name, self.python, self.setup, self.gpu = name, python, setup, gpu

    def __enter__(self) -> VllmProcess:
        reader, writer = os.pipe()
        environment = _build_environment(self.python)
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        self.log: IO[bytes] = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [self.python, "-c", START, str(WORKER), str(writer)],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            env=environment,
            pass_fds=(writer,),
        )
        os.close(writer)
        self.answers = os.fdopen(reader)
        try:
            self.facts = self._ask(self.setup)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        if error and error[0] is not None:
            self.process.kill()
        try:
            self.process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()
        self.log.close()

    def generate(self, prompts: Sequence[Mapping[str, Any]], limit: int, stop_ids: Sequence[int]) -> Generated:
        """Greedy answers of at most `limit` tokens to prompts of `tokens` and paths of `images`."""
        said = self._ask({"prompts": list(prompts), "limit": limit, "stop_ids": list(stop_ids)})
        return Generated(said["tokens"], said["read"])

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(json.dumps(dict(question)).encode() + b"\n")
            self.process.stdin.flush()
        line = self.answers.readline()
        if not line:
            raise InterlaceError(f"{self.name}: vLLM {self._describe_end()}.", "The same command goes on.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InterlaceError(
                f"{self.name}: vLLM cannot run it: {answer['error'].rstrip('.')}.",
                "Leave --backend out: transformers answers then.",
            )
        return answer

    def _describe_end(self) -> str:
        code = self.process.wait()
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"has ended with exit code {code}"
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f"{how}, and said last: {lines[-1]}" if lines else how


def _build_environment(python: str) -> dict[str, str]:
    left_out = OF_ONE_PROCESS if python == sys.executable else (*OF_ONE_PROCESS, *OF_INTERPRETER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    # The model is a folder: nothing is to be fetched.
    return {**kept, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
