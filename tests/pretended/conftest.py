"""A pretend GPU, and a workspace of the demo that was made on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pretend import Pretend
from workspaces import succeed

RECIPE = ("--epochs", "1", "--batch-size", "8", "--grad-accum", "1", "--max-length", "256")
"""A few steps of healing."""


@pytest.fixture
def gpu() -> Iterator[Pretend]:
    """One GPU, for the whole test."""
    with Pretend() as found:
        yield found


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dataset/, analysis.json, plan.json (four of sixteen layers go), pruned/ and healed/ of the demo. Read it, or copy
    it (workspaces.copy); never write into it."""
    folder = tmp_path_factory.mktemp("pretended") / "w"
    succeed("prepare", "demo", "-w", folder, "--max-samples", 48, "--holdout", 0.2, "--calibration", 0.34)
    succeed("analyze", "demo", "-w", folder, "--device", "cpu")
    succeed("plan", "-w", folder, "--ratio", 0.25)
    succeed("prune", "-w", folder)
    succeed("finetune", "-w", folder, "--device", "cpu", *RECIPE)
    return folder
