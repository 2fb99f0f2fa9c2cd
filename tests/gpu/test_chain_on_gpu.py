"""The main chain on a GPU, each dtype and each engine of one process, beside the CPU's values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

for package in ("orjson", "pydantic", "xxhash"):
    pytest.importorskip(package)
workspaces = pytest.importorskip("workspaces")

pytestmark = pytest.mark.gpu
RECIPE = ("--epochs", "1", "--batch-size", "8", "--grad-accum", "1", "--max-length", "256", "--lr", "1e-4")
LIMIT = {"float32": 0.002, "bfloat16": 0.05, "float16": 0.02}
"""Largest relative difference of a loss."""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, device: str) -> Path:
    """The demo, pruned and healed on the CPU in float32."""
    del device
    folder = tmp_path_factory.mktemp("gpu") / "w"
    workspaces.succeed("prepare", "demo", "-w", folder, "--max-samples", 48, "--holdout", 0.2, "--calibration", 0.34)
    workspaces.succeed("analyze", "demo", "-w", folder, "--device", "cpu", "--dtype", "float32")
    workspaces.succeed("plan", "-w", folder, "--ratio", 0.25)
    workspaces.succeed("prune", "-w", folder)
    workspaces.succeed("finetune", "-w", folder, "--device", "cpu", "--dtype", "float32", *RECIPE)
    return folder


def copy(space: Path, to: Path, *left_out: str) -> Path:
    shutil.copytree(space, to, ignore=shutil.ignore_patterns(*left_out))
    return to


def read_losses(folder: Path) -> list[float]:
    healing = json.loads((folder / "healed/interlace.json").read_text())["healing"]
    return [healing["loss_before"], *(loss for _, loss in healing["curve"]), healing["loss_after"]]


def read_numbers(value: Any) -> list[float]:
    """All numbers of a JSON value that are no integers, in their order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in read_numbers(value[key])]
    if isinstance(value, list):
        return [number for one in value for number in read_numbers(one)]
    return [value] if isinstance(value, float) else []


def test_the_scores_are_those_of_the_cpu(space: Path, tmp_path: Path) -> None:
    here = copy(space, tmp_path / "w", "analysis*", "plan.json", "pruned", "healed")
    workspaces.succeed("analyze", "demo", "-w", here, "--device", "cuda", "--dtype", "float32")
    found, wanted = (json.loads((one / "analysis.json").read_text()) for one in (here, space))
    for name in ("created_by", "inputs"):
        found.pop(name, None), wanted.pop(name, None)
    assert read_numbers(found) == pytest.approx(read_numbers(wanted), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("engine", ["ddp", "offload"])
@pytest.mark.parametrize("dtype", list(LIMIT))
def test_the_losses_are_those_of_the_cpu(engine: str, dtype: str, space: Path, tmp_path: Path) -> None:
    here = copy(space, tmp_path / "w", "healed")
    options = ("--device", "cuda", "--dtype", dtype, "--engine", engine, *RECIPE)
    ended = workspaces.call("finetune", "-w", here, *options)
    if engine == "offload" and dtype == "float16" and ended.code:
        pytest.skip(ended.sentence)
    assert ended.code == 0, ended.err
    assert read_losses(here) == pytest.approx(read_losses(space), rel=LIMIT[dtype])


def test_the_answers_are_those_of_the_cpu(space: Path, tmp_path: Path) -> None:
    here = copy(space, tmp_path / "w")
    options = ("-w", here, "--no-speed", "--dtype", "float32", "--force")
    found = []
    for device in ("cpu", "cuda"):
        workspaces.succeed("eval", *options, "--device", device)
        found.append(json.loads((here / "eval.json").read_text())["results"])
    for ours, wanted in zip(found[1], found[0], strict=True):
        assert ours["loss"] == pytest.approx(wanted["loss"], rel=2e-3)
        # An answer may turn on the last bit of a logit.
        assert ours["score"] == pytest.approx(wanted["score"], abs=0.15)
