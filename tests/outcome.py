"""What a command does with an input, and what it must never do whatever the input is."""

from __future__ import annotations

import re
import resource
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

from interlace_cli.cli.app import app

SECONDS, MEGABYTES = 20.0, 600
"""The most that an input of a few kilobytes may take."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The error, in one line."""
        return " ".join(self.err.partition("Error: ")[2].split())


@cache
def build_program() -> Any:
    """Once: to build all commands takes longer than most of these calls."""
    return typer.main.get_command(app)


def run(words: list[str]) -> Outcome:
    """Runs `interlace WORDS` in this process."""
    code = None
    with CliRunner().isolation() as (out, err, _):
        try:
            build_program().main(words, prog_name="interlace")
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        said = [stream.getvalue().decode(errors="replace") for stream in (out, err)]
    assert code is not None
    return Outcome(code, *said)


def call(*words: str | Path) -> Outcome:
    """Runs `interlace WORDS` in this process, and checks that it ends in success or in one clear sentence, in bounded
    time and memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    found = run([str(word) for word in words])
    taken, grown = time.monotonic() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert found.code in (0, 1, 2), found.err
    assert "Traceback" not in found.err, found.err
    assert "bug of interlace" not in found.err, found.err
    assert taken < SECONDS, f"{taken:.0f} s"
    assert grown < MEGABYTES, f"{grown:.0f} MB"
    if found.code:
        assert len(re.findall("^Error: ", found.err, re.MULTILINE)) == 1, found.err
        assert 20 < len(found.sentence) < 900, found.err
        assert not found.out
    return found


def refuse(*words: str | Path, names: str) -> Outcome:
    """As `call`, of what cannot succeed: the sentence holds `names`, the file, record or field at fault."""
    found = call(*words)
    assert found.code in (1, 2), f"{found.out} {found.err}"
    assert names in found.sentence, found.sentence
    return found
