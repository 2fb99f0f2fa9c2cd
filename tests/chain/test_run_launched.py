"""`run` under a launcher: the first process takes the steps, and all of them work at those that are spread."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workspaces import Own

from interlace_cli.domain.evaluation import Evaluation

pytestmark = pytest.mark.engines
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def launch(*words: str) -> Any:
    return subprocess.run([*LAUNCHER, "interlace_cli", *words], capture_output=True, text=True, check=False)


def read_results(space: Path) -> list[Any]:
    found = Evaluation.model_validate_json((space / "eval.json").read_bytes())
    return [result.model_dump(exclude={"location"}) for result in found.results]


def test_run_makes_what_one_process_makes(own: Own, tmp_path: Path) -> None:
    """Of a workspace that lacks the analysis and the evaluation: the one is measured again to the same bytes, so that
    what is made of it stays, and the other has the same figures."""
    space = tmp_path / "w"
    shutil.copytree(own.space, space)
    for path in [*space.glob("analysis.*"), *space.glob("eval.*")]:
        path.unlink()
    done = launch(*own.at(space), "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {"plan", "prune", "finetune"} <= set(record["skipped"])
    assert {"analyze", "eval"} <= record["seconds"].keys()
    assert record["options"]["processes"] == 2
    for name in ("analysis.json", "analysis.safetensors", "eval.safetensors"):
        assert (space / name).read_bytes() == (own.space / name).read_bytes(), name
    assert read_results(space) == read_results(own.space)
    assert not list(space.glob(".*")), "no lock is left, and nothing unfinished"
    assert "Traceback" not in done.stderr


def test_what_is_wrong_is_said_once(own: Own, tmp_path: Path) -> None:
    done = launch(*own.at(tmp_path / "w"), "--processes", "3")
    assert done.returncode != 0
    assert done.stderr.startswith("Error: ") != ("\nError: " in done.stderr), done.stderr
    assert "--processes 3: the launcher has started 2. Leave it out." in " ".join(done.stderr.split())
    assert not (tmp_path / "w").exists()
