"""A device without float64, as Apple's MPS: nothing asks it for one, and the results are those of a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretend import Pretend
from torch.utils._pytree import tree_leaves
from workspaces import copy, succeed

from interlace_cli.runtime.wide import choose_wide_device, to_wide


class NoFloat64(Pretend):
    """Refuses float64 as MPS does."""

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: Any, device: torch.device) -> Any:
        out = super()._run(func, args, kwargs, tensors, device)
        made = [tensor for tensor in tree_leaves(out) if isinstance(tensor, torch.Tensor)]
        if device.type == "cuda" and any(tensor.dtype == torch.float64 for tensor in made):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it.")
        return out


def test_the_device_of_a_sum() -> None:
    with NoFloat64():
        there = torch.ones(3, device="cuda")
        with pytest.raises(TypeError):
            there.double()
        assert choose_wide_device(there.device).type == "cpu"
        assert to_wide(there).double().sum() == 3
        assert to_wide(there[:0]).dtype == torch.float32
    with Pretend():
        assert to_wide(torch.ones(3, device="cuda")).is_cuda
    here = torch.ones(3)
    assert to_wide(here) is here


def test_analysis_and_compensation_do_without(space: Path, tmp_path: Path) -> None:
    """All scores that need a backward pass or a search too; then a cut that is compensated, and Wanda's norms."""
    with NoFloat64():
        w = copy(space, tmp_path / "w")
        words = ("-w", w, "--force", "--device", "cuda", "--samples", 4)
        succeed("analyze", *words, "--importance", "similarity,taylor", "--loss-samples", 4)
        succeed("plan", "-w", w, "--force", "--ratio", 0.125)
        succeed("prune", *words, "--compensate", "linear", "--batch-size", 4)
