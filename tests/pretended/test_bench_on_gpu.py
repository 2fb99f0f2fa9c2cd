"""`bench` on a GPU: each part runs, with each of its ways, at a shape so small that only its path counts."""

from __future__ import annotations

import pytest
from pretend import Pretend
from workspaces import succeed

from interlace_cli.bench.shapes import SHAPES, ModelShape


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ModelShape(24, 32, 4, 2, 6, 6, 8192, 16, 2, 2, (0,), True)
    monkeypatch.setitem(SHAPES, "tiny", shape)
    monkeypatch.setattr("interlace_cli.bench.heal.SCALING", (1,))


WORDS = ("--device", "cuda", "--repeats", "1", "--batch-size", "2")


def test_a_step_of_healing(gpu: Pretend) -> None:
    """Its first loss was computed outside of autocast: in bfloat16, with tuned layers in float32, it failed."""
    said = succeed("bench", "heal", *WORDS, "--tokens", 200, "--gradient-checkpointing", "--json").out
    assert "bfloat16, adamw_torch_fused" in said
    assert gpu.peak[0] > 0


@pytest.mark.long
@pytest.mark.parametrize("part", ["analyze", "serve"])
def test_analysis_and_serving(part: str, gpu: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace_cli.bench.analyze.measure_flops", lambda device, dtype: 1e9)
    monkeypatch.setattr("interlace_cli.bench.analyze.TOLERANCE", 1.0)
    assert f"{part}: " in succeed("bench", part, *WORDS, "--samples", 3, "--side", 64, "--new-tokens", 2, "--json").out
    assert gpu.peak[0] > 0
