"""`finetune --estimate` and `bench heal`: what they say, and that they leave nothing behind. Speed is no verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.core.prune import prune_layers
from interlace_cli.domain.progress import Silent


@pytest.fixture(scope="module")
def pruned(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate") / "pruned"
    prune_layers(str(chain_model), [2, 6], folder, Silent(), force=False)
    return folder


@pytest.mark.parametrize("objective", ["ce", "local,distill"])
def test_an_estimate_counts_the_steps_and_writes_nothing(
    objective: str, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    words = ["finetune", pruned, "--dataset", small_dataset, "--out", tmp_path / "out", "--tune-layers", "3,5"]
    words += ["--batch-size", "8", "--grad-accum", "1", "--epochs", "3", "--objective", objective]
    done = CliRunner().invoke(app, [*map(str, words), "--estimate", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == 63
    stages = objective.count(",") + 1
    assert len(found["seconds_per_step"]) == stages
    assert found["seconds"] > 31 * sum(found["seconds_per_step"])
    assert found["peak_memory_bytes"] > 1e8
    assert found["layout"] == "segments"
    assert found["released_flops_per_step"] > found["flops_per_step"] > 2 * 8 * 30 * 1000
    assert not list(tmp_path.iterdir())
    said = CliRunner().invoke(app, [*map(str, words), "--estimate"])
    assert "63 steps of" in said.stdout
    assert "of the process" in said.stdout


def test_bench_times_both_ways_on_one_model() -> None:
    words = ["bench", "heal", "--tokens", "256", "--repeats", "1", "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["layers"], found["tuned"], found["machine"]) == (12, 4, "cpu")
    for side in ("ours", "released"):
        assert found[side]["tokens_per_second"] == pytest.approx(256 / found[side]["seconds_per_step"])
    assert CliRunner().invoke(app, ["bench", "heal", "--shape", "70b"]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "heal", "--tokens", "3"]).exit_code == 2


def test_both_ways_compute_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would be no comparison."""
    import torch

    from interlace_cli.healing import benchmark

    seen: list[dict[str, torch.Tensor]] = []

    def look(step: Any, optimizer: torch.optim.Optimizer, device: str) -> tuple[float, None]:
        step()
        seen.append({str(i): p.grad.clone() for i, p in enumerate(optimizer.param_groups[0]["params"])})
        optimizer.zero_grad()
        return 1.0, None

    monkeypatch.setattr(benchmark, "_time", look)
    benchmark.measure(benchmark.SHAPES["tiny"], 900, 16, 1, "sgd", False, "cpu", lambda: None)
    ours, theirs = seen[0], seen[1]
    for name, gradient in ours.items():
        # Up to a factor: the loss is a sum, or a mean.
        other = theirs[name] * float((gradient * theirs[name]).sum() / theirs[name].square().sum())
        assert float((gradient - other).norm() / gradient.norm()) < 1e-3
