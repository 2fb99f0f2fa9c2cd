"""Shares of a grid, as they are asked for or as a job array has them; and the batch script of one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.core.submit import build_script, submit
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.options import CompareOptions
from interlace_cli.options.build import build_options
from interlace_cli.options.shard import ARRAY, Shard, find_shard, parse_shard

SBATCH = """#!/bin/bash
# In place of Slurm's: notes what it was called with, and runs the job at once, an array task by task.
number=$(ls "$FAKE" | grep -c call)
for word in "$@"; do echo "$word"; done > "$FAKE/call-$number"
cat > "$FAKE/job-$number"
[ -z "$REFUSED" ] || { echo "sbatch: error: invalid partition" >&2; exit 1; }
echo "$((700 + number));cluster"
"""


@given(st.integers(1, 12), st.lists(st.integers()))
def test_each_item_is_in_one_share(count: int, items: list[int]) -> None:
    shares = [parse_shard(f"{index}/{count}").choose(items) for index in range(1, count + 1)]
    assert sorted(one for share in shares for one in share) == sorted(items)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "1.0/2", "٣/4", "1/1000000"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="--shard does not take"):
        CompareOptions(shard=text)


@given(st.integers(0, 50), st.integers(2, 30), st.integers(1, 5), st.data())
def test_a_task_of_a_job_array_has_its_share(first: int, count: int, step: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    found = find_shard(None, name_array(first + index * step, count, first, step))
    assert found == Shard(index + 1, count, is_given=False)
    assert find_shard("1/1", name_array(first, count, first, step)) == Shard(1, 1)


def name_array(*values: int) -> dict[str, str]:
    return dict(zip(ARRAY, map(str, values), strict=True))


def test_outside_of_an_array_there_is_no_share() -> None:
    assert find_shard(None, {}) is None
    assert find_shard(None, name_array(7, 1, 7, 1)) is None, "an array of one"


def test_an_array_that_is_numbered_unevenly_is_refused() -> None:
    """As `sbatch --array=1,3,8` does it."""
    with pytest.raises(UsageError, match="the job array's task 8 is not one of 3 that are numbered evenly from 1 on"):
        find_shard(None, name_array(8, 3, 1, 1))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"shard": "1/2", "collect": True}, "--shard and --collect exclude each other"),
        ({"collect": True, "submit": "slurm"}, "--collect and --submit exclude each other"),
        ({"collect": True, "anew": True}, "--collect makes no cell"),
        ({"hand_in": True}, "--yes belongs to --submit"),
        ({"sbatch": "--gpus=1", "hand_in": True}, "--sbatch and --yes belong to --submit"),
    ],
)
def test_what_excludes_each_other(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        CompareOptions(**given)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for what is handed to an `sbatch` that stands in for Slurm's."""
    fake = tmp_path / "fake"
    (fake / "bin").mkdir(parents=True)
    (fake / "bin/sbatch").write_text(SBATCH)
    (fake / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    return fake


def build(tmp_path: Path, **more: Any) -> CompareOptions:
    options = {"model": "some model", "data": "it's data", "lr": 1e-3, "workspace": tmp_path / "a b", "workers": 3}
    return build_options(CompareOptions, {**options, "submit": "slurm", **more})


def test_a_script_is_shown_and_not_handed_in(tmp_path: Path, slurm: Path) -> None:
    found = submit(build(tmp_path, sbatch="--partition='gpu a' --time=8:00:00"), Silent())
    assert found.jobs == []
    assert not list(slurm.glob("call-*"))
    assert Path(found.script).read_text() == found.text
    assert "'--partition=gpu a' --time=8:00:00 <<'JOB'" in found.text
    asked = json.loads((tmp_path / "a b/compare/slurm.json").read_text())
    again = build_options(CompareOptions, asked)
    assert (again.model, again.data, again.finetune.lr, again.workspace) == (
        "some model",
        "it's data",
        1e-3,
        tmp_path / "a b",
    )
    assert (again.shard, again.submit, again.hand_in) == (None, None, False)


def test_two_jobs_are_handed_in_on_request(tmp_path: Path, slurm: Path) -> None:
    options = build(tmp_path, sbatch="--partition='gpu a'", hand_in=True, force=True, anew=True)
    assert submit(options, Silent()).jobs == ["700", "701"]
    array, collect = [(slurm / f"call-{number}").read_text().splitlines() for number in (0, 1)]
    log = tmp_path / "a b/compare"
    assert array == [
        *("--parsable", "--job-name=interlace-compare", "--array=1-3", f"--output={log}/slurm-%A_%a.log"),
        "--partition=gpu a",
    ]
    assert collect == [
        *("--parsable", "--job-name=interlace-compare", "--dependency=afterany:700", f"--output={log}/slurm-%j.log"),
        "--partition=gpu a",
    ]
    # What the jobs call, with the shell's own reading of it.
    called = [read_call(slurm / f"job-{number}", SLURM_ARRAY_TASK_ID="2") for number in (0, 1)]
    config = f"{log}/slurm.json"
    assert called[0] == ["compare", "--config", config, "--force", "--anew", "--shard", "2/3"]
    assert called[1] == ["compare", "--config", config, "--force", "--collect"]


def read_call(script: Path, **environment: str) -> list[str]:
    """The words behind `python -m interlace_cli`."""
    text = script.read_text().replace("exec ", "printf '%s\\n' ")
    done = subprocess.run(["bash", "-c", text], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[1:3] == ["-m", "interlace_cli"]
    return words[3:]


def test_what_sbatch_refuses_is_said(tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSED", "yes")
    with pytest.raises(InterlaceError, match="the jobs were not handed in: sbatch: error: invalid partition"):
        submit(build(tmp_path, hand_in=True), Silent())
    assert not (slurm / "call-1").exists(), "the second depends on the first"


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InterlaceError, match=r"the jobs were not handed in: .*sbatch: command not found.*is written"):
        submit(build(tmp_path, hand_in=True), Silent())


@pytest.mark.parametrize("text", ["gpus=1", "--partition='gpu", "--comment='a\nb'"])
def test_options_of_sbatch_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sbatch"):
        submit(build(tmp_path, sbatch=text), Silent())
    assert not (tmp_path / "a b").exists()


def test_paths_with_anything_in_them_are_quoted() -> None:
    text = build_script(Path("/a b/$(c)/compare"), Path("/it's here"), 2, [], [])
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'/a b/$(c)/compare/slurm-%A_%a.log'" in text
