"""Two processes, a pretend GPU each, train as one does on the CPU."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pretend_ranks import GPUS, REPORT, read_reports, write_starter
from safetensors.torch import load_file
from torch.testing import assert_close
from workspaces import succeed

RECIPE = ("--epochs", 1, "--batch-size", 8, "--grad-accum", 1, "--lr", 1e-3, "--dtype", "float32")
pytestmark = pytest.mark.long
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def alone(space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    succeed("finetune", "-w", space, "--out", out, "--device", "cpu", *RECIPE)
    return out


def heal(
    engine: str, space: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: int = 2
) -> list[dict[str, Any]]:
    """Heals in two processes to `folder/out`; what each took."""
    (folder / "reports").mkdir()
    monkeypatch.setenv(GPUS, str(gpus))
    monkeypatch.setenv(REPORT, str(folder / "reports"))
    monkeypatch.setattr(sys, "executable", str(write_starter(folder / "bin")))
    succeed("finetune", "-w", space, "--out", folder / "out", "--processes", 2, "--engine", engine, *RECIPE)
    return read_reports(folder / "reports")


@pytest.mark.parametrize("engine", ["ddp", "fsdp", pytest.param("zero2", marks=needs_deepspeed)])
def test_two_gpus_do_what_one_processor_does(
    engine: str, space: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = heal(engine, space, tmp_path, monkeypatch)
    wanted, mine = (
        json.loads((folder / "interlace.json").read_text())["healing"] for folder in (alone, tmp_path / "out")
    )
    for name in ("first_loss", "last_loss", "loss_after"):
        assert mine[name] == pytest.approx(wanted[name], rel=1e-4)
    assert_close(
        load_file(tmp_path / "out/model.safetensors"), load_file(alone / "model.safetensors"), atol=2e-4, rtol=0
    )
    for rank, found in enumerate(taken):
        assert found["peak"][rank] > 0
        assert found["peak"][1 - rank] == 0, "each has its own GPU"
