"""`finetune --estimate`: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interlace_cli.cli.app import app


@pytest.mark.parametrize("objective", ["ce", "local,distill"])
def test_an_estimate_counts_the_steps_and_writes_nothing(
    objective: str, pruned: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr("interlace_cli.cli.progress_lines.EVERY", 0.0)
    said = CliRunner().invoke(app, [*map(str, words), "--estimate"])
    assert f"of {8 * stages} trial steps" in said.stderr, "it shows that it works"
    assert "63 steps of" in said.stdout
    assert "of the process" in said.stdout
    # What a GPU would take: no word of whether it fits, as none is here.
    assert [way["fits"] for way in found["ways"]] == [None] * 5
    assert found["ways"][-1]["engine"] == "offload"
    table = said.stdout.partition("memory of a step on a GPU")[2]
    assert table.count("--engine") == 5
    assert "fits" not in table
