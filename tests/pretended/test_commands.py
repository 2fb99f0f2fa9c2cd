"""Each command on a pretend GPU does what it does on the CPU, and all that it takes there it gives back."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
from pretend import Pretend
from safetensors.torch import load_file
from small_chain import build_chain
from torch.testing import assert_close
from workspaces import succeed

LEARNED = 2e-4
"""Weights differ by less: a learning rate of 1e-3, three steps, and sums in another order."""


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def check_given_back(gpu: Pretend) -> None:
    gc.collect()
    assert gpu.now == [0] * gpu.gpus
    assert max(gpu.peak) > 0


def compare_weights(one: Path, other: Path, tolerance: float) -> None:
    wanted = load_file(one / "model.safetensors")
    for name, tensor in load_file(other / "model.safetensors").items():
        assert_close(tensor, wanted[name], atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def ran(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pretend]:
    """The same run as `space`, on the second of two GPUs."""
    folder = tmp_path_factory.mktemp("ran") / "w"
    with Pretend(gpus=2) as gpu:
        succeed(*build_chain(chain_model, folder, "cuda:1"))
    return folder, gpu


def test_a_run_finds_the_same_layers_and_losses(space: Path, ran: tuple[Path, Pretend]) -> None:
    made, gpu = ran
    check_given_back(gpu)
    mine, wanted = (read(folder / "plan.json") for folder in (made, space))
    assert mine["roles"] == wanted["roles"]
    for file in ("analysis.safetensors", "eval.safetensors"):
        assert_close(load_file(made / file), load_file(space / file), atol=1e-4, rtol=1e-3)
    compare_weights(made / "pruned", space / "pruned", 1e-4)
    compare_weights(made / "healed", space / "healed", LEARNED)
    mine, wanted = (read(folder / "healed/interlace.json")["healing"] for folder in (made, space))
    assert mine["steps"] == wanted["steps"] == 3
    for loss in ("first_loss", "last_loss", "loss_before", "loss_after"):
        assert mine[loss] == pytest.approx(wanted[loss], rel=1e-4)
    assert all((made / name).exists() for name in ("export/model.safetensors", "report.html", "eval.json"))


def test_the_gpu_that_is_named_took_all_the_work(ran: tuple[Path, Pretend]) -> None:
    folder, gpu = ran
    assert gpu.peak[1] > 2 * (folder / "pruned/model.safetensors").stat().st_size
    assert gpu.peak[0] == 0


def test_a_cut_is_verified(tmp_path: Path, gpu: Pretend) -> None:
    words = ("demo", "--drop-layers", "4,9", "--out", tmp_path / "cut", "-w", tmp_path, "--verify", "--json")
    found = succeed("prune", *words).json["fidelity"]
    assert found["device"] == "cuda"
    assert found["difference"] <= found["tolerance"]
    check_given_back(gpu)


@pytest.mark.parametrize("objective", ["local,distill+anchor"])
def test_healing_learns_the_same(objective: str, space: Path, tmp_path: Path) -> None:
    """On the second of two GPUs, the teacher's too."""
    losses = {}
    for device in ("cpu", "cuda:1"):
        out = tmp_path / device
        words = (
            "-w",
            space,
            "--out",
            out,
            "--objective",
            objective,
            "--epochs",
            1,
            "--batch-size",
            8,
            "--grad-accum",
            1,
        )
        with Pretend(gpus=2) as gpu:
            succeed("finetune", *words, "--device", device, "--dtype", "float32", "--lr", 1e-3)
        losses[device] = read(out / "interlace.json")["healing"]
    check_given_back(gpu)
    assert gpu.peak[0] == 0
    compare_weights(tmp_path / "cpu", tmp_path / "cuda:1", LEARNED)
    for name in ("first_loss", "last_loss", "loss_after"):
        assert losses["cuda:1"][name] == pytest.approx(losses["cpu"][name], rel=1e-4)


def test_healing_in_the_precision_of_a_gpu(space: Path, tmp_path: Path, gpu: Pretend) -> None:
    """bfloat16 is what `auto` takes, with weights that learn in float32; alone, and in the whole model."""
    words = ("-w", space, "--out", tmp_path / "out", "--epochs", 1, "--batch-size", 8, "--grad-accum", 1)
    succeed("finetune", *words, "--lr", 1e-3, "--objective", "local,ce")
    mine, wanted = (read(folder / "interlace.json")["healing"] for folder in (tmp_path / "out", space / "healed"))
    assert mine["recipe"]["dtype"] == "bfloat16"
    assert mine["loss_before"] == pytest.approx(wanted["loss_before"], rel=0.02)
    assert mine["loss_after"] < mine["loss_before"]
    check_given_back(gpu)


@pytest.mark.long
def test_eval_with_speed(space: Path, tmp_path: Path, gpu: Pretend) -> None:
    words = ("-w", space, "--out", tmp_path / "e.json", "--samples", 4, "--max-new-tokens", 2, "--repeats", 1)
    found = succeed("eval", *words, "--json").json["results"]
    assert [one["name"] for one in found] == ["dense", "pruned", "healed"]
    for one in found:
        # float32 on disk, bfloat16 on the GPU.
        assert one["speed"]["peak_memory_bytes"] > one["bytes"] / 2
    check_given_back(gpu)


@pytest.mark.long
def test_compare(tmp_path: Path, gpu: Pretend) -> None:
    words = ("--ratios", 0.25, "--strategies", "interlace", "--baselines", "", "--max-samples", 48, "--holdout", 0.2)
    more = ("--epochs", 1, "--heal-batch-size", 16, "--eval-samples", 4, "--max-new-tokens", 2, "--no-speed")
    succeed("compare", "demo", "-w", tmp_path / "w", *words, *more)
    assert (tmp_path / "w/compare.json").exists()
    check_given_back(gpu)
