"""tests/gpu.sh: it goes on when a part fails, says at the end how each has ended, and is right as far as a pretend GPU
can tell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "gpu.sh"


def run(*words: object, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(python)}
    return subprocess.run(["bash", SCRIPT, *map(str, words)], capture_output=True, text=True, env=environment)


def read_summary(folder: Path) -> dict[str, list[str]]:
    """Part -> how it ended, and what it said last."""
    lines = (folder / "summary.txt").read_text().splitlines()
    return {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines}


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    """An interpreter that fails in one part, and cannot have another."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$*"\ncase "$*" in *"cli bench serve"*) exit 3;; *two-gpus*) exit 77;; esac\n')
    python.chmod(0o755)
    ended = run("--quick", "--out", tmp_path / "out", python=python)
    assert ended.returncode == 1, ended.stderr
    found = read_summary(tmp_path / "out")
    verdicts = {name: rest[0] for name, rest in found.items()}
    assert {name for name, verdict in verdicts.items() if verdict == "failed"} == {"bench-serve"}
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == {"two-gpus"}
    assert list(verdicts)[:3] == ["machine", "kernels", "chain"]
    assert list(verdicts)[-3:] == ["memory", "optimizer-8bit", "two-gpus"]
    assert "--shape 8b" in (tmp_path / "out/bench-serve.log").read_text()
    python.write_text("#!/bin/sh\nexit 0\n")
    assert run("--out", tmp_path / "all", python=python).returncode == 0
    assert set(found) < set(read_summary(tmp_path / "all"))


def test_an_unknown_word_is_answered_with_the_usage() -> None:
    ended = run("--fast")
    assert ended.returncode == 2
    assert "tests/gpu.sh --quick" in ended.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    ended = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.soak
def test_all_parts_run_on_a_pretend_gpu(tmp_path: Path) -> None:
    ended = run("--pretend", "--out", tmp_path / "out")
    logs = {path.name: path.read_text()[-2000:] for path in (tmp_path / "out").glob("*.log")}
    assert ended.returncode == 0, (ended.stdout, logs)
    verdicts = {name: rest[0] for name, rest in read_summary(tmp_path / "out").items()}
    assert set(verdicts.values()) <= {"passed", "skipped"}
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} <= {"optimizer-8bit", "two-gpus"}
