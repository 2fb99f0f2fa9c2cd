"""One comparison by several processes: the same table as by one, whoever is killed, in shares or all at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import save_chain_model
from workspaces import copy, refuse, succeed, to_words, write_source

import interlace_cli as interlace
from interlace_cli.domain.comparison import Cell
from interlace_cli.evaluation import checkpoints
from interlace_cli.io.artifacts import load_artifact, save_artifact
from interlace_cli.runtime.lease import find_holder, leased
from interlace_cli.runtime.lock import locked

pytestmark = pytest.mark.long

GRID = {"strategies": "random", "ratios": "0.13", "baselines": "wanda", "seeds": "0,1"}
RECIPE = {"epochs": "2", "lr": "1e-3", "heal-batch-size": "4", "grad-accum": "1", "save-every": "1"}
CELLS = ["dense", "wanda 2:4", "random at 13.0%", "random at 13.0%, healed, seed 0", "random at 13.0%, healed, seed 1"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a dataset and an analysis: 6 of 20 samples are held out. Its model lies beside it."""
    root = tmp_path_factory.mktemp("together")
    save_chain_model(root / "model")
    succeed("prepare", write_source(root / "alice", count=20), *to_words(SPLITS), "-w", root / "w")
    succeed("analyze", root / "model", "-w", root / "w")
    return root / "w"


SPLITS = {"holdout": "0.3", "calibration": "0.3"}


def build(prepared: Path, space: Path, *more: object, **options: str) -> list[object]:
    given = {**GRID, **RECIPE, **{name.replace("_", "-"): value for name, value in options.items()}}
    speed = [] if "--speed" in more else ["--no-speed"]
    rest = [word for word in more if word != "--speed"]
    return ["compare", prepared.parent / "model", *to_words(given), *speed, "-w", space, "--json", *rest]


@pytest.fixture(scope="module")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison by one process."""
    space = copy(prepared, tmp_path_factory.mktemp("alone") / "w")
    succeed(*build(prepared, space))
    return space


def load_rows(space: Path) -> Any:
    return json.loads((space / "compare.json").read_text())["rows"]


def list_left(space: Path) -> set[str]:
    """What lies in the comparison's folder beside its cells."""
    return {path.name for path in (space / "compare").iterdir() if path.suffix != ".json"}


def test_three_at_once_one_of_which_is_killed(prepared: Path, alone: Path, tmp_path: Path) -> None:
    space = copy(prepared, tmp_path / "w")
    words = [str(word) for word in build(prepared, space)]
    with locked(space, "finetune", print):
        # A command that holds the workspace keeps nobody from a grid whose dataset and analysis are there.
        command = [sys.executable, "-m", "interlace_cli", *words]
        workers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
        ]
        killed = kill_while_healing(space, workers)
        ended = [(worker, *worker.communicate(timeout=300)) for worker in workers]
    assert [worker.returncode for worker, _, _ in ended if worker.pid != killed] == [0, 0], ended
    made = [line for _, _, said in ended for line in re.findall(r"\d+/5 (.+): \d+ s", said)]
    assert sorted(made) == sorted(CELLS), "each cell was made once, and the killed one's by another"
    assert load_rows(space) == load_rows(alone)
    for worker, out, _ in ended:
        if worker.pid != killed:
            assert json.loads(out)["rows"] == load_rows(alone)
    assert {path.name for path in space.glob("compare/*.json")} == {path.name for path in alone.glob("compare/*.json")}
    assert list_left(space) == set()


def test_each_process_of_a_launcher_is_a_worker(prepared: Path, alone: Path, tmp_path: Path) -> None:
    space = copy(alone, tmp_path / "w")
    for path in (*space.glob("compare/pruned-*.json"), *space.glob("compare/wanda-*.json"), space / "compare.json"):
        path.unlink()
    command = [sys.executable, "-m", "interlace_cli", *(str(word) for word in build(prepared, space))]
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **ranks, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    (out, said), second = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said + second[1]
    assert second == ("", "")
    assert json.loads(out)["rows"] == load_rows(alone)


def kill_while_healing(space: Path, workers: list[subprocess.Popen[str]]) -> int:
    """Kills the first that has begun to heal a cell, with a state to go on from; its process id."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and all(worker.poll() is None for worker in workers):
        for state in space.glob("compare/work/healed-*/.*.healing-*/stage-0/checkpoint-*"):
            stem = state.relative_to(space / "compare/work").parts[0].rpartition(".")[0]
            holder = find_holder(space / f"compare/.{stem}.json.lease")
            if holder is not None:
                os.kill(holder.process, signal.SIGKILL)
                return holder.process
        time.sleep(0.01)
    raise AssertionError([worker.communicate() if worker.poll() is not None else None for worker in workers])


def test_shares_one_after_the_other(prepared: Path, alone: Path, tmp_path: Path) -> None:
    space = copy(prepared, tmp_path / "w")
    first = succeed(*build(prepared, space, "--shard", "1/2"))
    assert first.json == {
        "workspace": str(space),
        "cells": 5,
        "present": 3,
        "lacking": [CELLS[1], CELLS[3]],
        "holders": {},
    }
    assert not (space / "compare.json").exists()
    said = refuse(*build(prepared, space, "--collect"))
    assert f"2 of 5 cells and timings of {space} lack: {CELLS[1]}; {CELLS[3]}." in said
    assert list_left(space) == {"shared"}, "the cut that the second share needs, too"
    second = succeed(*build(prepared, space, "--shard", "2/2"))
    assert "2 cells, 0 of them are there" in second.said
    assert second.json["rows"] == load_rows(space) == load_rows(alone)
    assert list_left(space) == set()
    table = (space / "compare.json").read_bytes()
    (space / "compare.json").unlink()
    succeed(*build(prepared, space, "--collect"))
    assert (space / "compare.json").read_bytes() == table


def test_a_task_of_a_job_array_makes_its_share(
    prepared: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = copy(alone, tmp_path / "w")
    for name, value in {"ID": "12", "COUNT": "5", "MIN": "10"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    files = {load_artifact(path, Cell).name: path for path in space.glob("compare/*.json")}
    for name in CELLS[2:4]:
        files[name].unlink()
    done = succeed(*build(prepared, space))
    assert "a task of a Slurm job array: share 3/5 of the cells" in done.said
    assert (done.json["present"], done.json["lacking"]) == (4, [CELLS[3]])


def test_what_another_is_making_is_named(prepared: Path, alone: Path, tmp_path: Path) -> None:
    space = copy(alone, tmp_path / "w")
    file = next(path for path in space.glob("compare/*.json") if load_artifact(path, Cell).name == CELLS[3])
    file.unlink()
    with leased(file.with_name(f".{file.name}.lease"), "compare", print):
        said = refuse(*build(prepared, space, "--collect"))
    assert f"1 of 5 cells and timings of {space} lack: {CELLS[3]} (`interlace compare` (process {os.getpid()}" in said


def test_cells_of_another_machine_are_taken_and_told(prepared: Path, alone: Path, tmp_path: Path) -> None:
    """Also one that was named after its device, by an earlier state of this program."""
    space = copy(alone, tmp_path / "w")
    rows = load_rows(space)
    cells = {load_artifact(path, Cell).name: path for path in space.glob("compare/*.json")}
    here = load_artifact(cells["dense"], Cell).device
    other = load_artifact(cells[CELLS[3]], Cell)
    save_artifact(other.model_copy(update={"device": "NVIDIA A", "sha256": None}), cells[CELLS[3]])
    data = json.loads(cells[CELLS[2]].read_text())
    data["created_by"]["settings"]["device"] = "NVIDIA B"
    del data["device"], data["sha256"]
    cells[CELLS[2]].unlink()
    (space / "compare/pruned-0123456789.json").write_text(json.dumps(data))
    done = succeed(*build(prepared, space))
    assert "5 cells, 5 of them are there" in done.said
    assert done.json["rows"] == rows
    assert done.json["devices"] == {"NVIDIA A": 1, "NVIDIA B": 1, here: 3}
    sentence = f"the cells were made on different machines: 1 on NVIDIA A, 1 on NVIDIA B, 3 on {here};"
    assert sentence in (space / "compare.md").read_text()


def test_who_collects_takes_the_dtype_that_is_there(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node chooses float32, and its cluster's GPUs bfloat16."""
    space, small = copy(prepared, tmp_path / "w"), {"baselines": "", "seeds": "0"}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "describe_machine", lambda options: ("NVIDIA A", "bfloat16"))
        made = succeed(*build(prepared, space, **small))
    table = (space / "compare.json").read_bytes()
    (space / "compare.json").unlink()
    done = succeed(*build(prepared, space, "--collect", **small))
    assert (made.json["dtype"], made.json["device"]) == ("bfloat16", "NVIDIA A")
    assert done.json == made.json
    assert (space / "compare.json").read_bytes() == table
    for path in space.glob("compare/healed-*.json"):
        path.unlink()
    assert "1 of 3 cells and timings" in refuse(*build(prepared, space, "--collect", **small))
    said = succeed(*build(prepared, space, "--shard", "2/3", **small)).said
    assert "Careful: 2 cells are there in bfloat16, of another device." in said
    assert "--dtype bfloat16 would take them" in said


def test_a_dataset_that_is_replaced_meanwhile_is_found_out(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = copy(prepared, tmp_path / "w")
    source = write_source(tmp_path / "bob", count=20, seed=7)
    answer = checkpoints.answer_samples

    def replace(*words: Any) -> Any:
        answered = answer(*words)
        monkeypatch.setattr(checkpoints, "answer_samples", answer)
        interlace.prepare(source=source, workspace=space, force=True, holdout=0.3, calibration=0.3)
        return answered

    monkeypatch.setattr(checkpoints, "answer_samples", replace)
    said = refuse(*build(prepared, space))
    assert "was replaced while dense was being made" in said
    assert list(space.glob("compare/*.json")) == []
    shutil.rmtree(space)


def test_timings_are_dealt_out_too(prepared: Path, tmp_path: Path) -> None:
    space, small = copy(prepared, tmp_path / "w"), {"baselines": "", "seeds": "0"}
    first = succeed(*build(prepared, space, "--shard", "2/2", "--speed", **small))
    assert first.json["lacking"] == ["dense", CELLS[3], f"{CELLS[2]}, timed"]
    second = succeed(*build(prepared, space, "--shard", "1/2", "--speed", **small))
    assert [row["ttft_speedup"] is not None for row in second.json["rows"]] == [False, True, True]
    assert list_left(space) == set()
