"""A pretend GPU, and a workspace of a tiny model that was made on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pretend import Pretend
from workspaces import succeed, to_words

CHAIN = {
    "data": "demo",
    "max-samples": 48,
    "holdout": 0.2,
    "calibration": 0.34,
    "importance": "similarity,loss,taylor",
    "loss-samples": 8,
    "ratio": 0.25,
    "triplet-selection": "optimal",
    "compensate": "linear",
    "epochs": 1,
    "heal-batch-size": 8,
    "grad-accum": 1,
    "max-length": 256,
    "lr": 1e-3,
    "eval-samples": 6,
    "max-new-tokens": 4,
    "dtype": "float32",
    "no-speed": None,
}
"""A run that takes a few seconds: three steps of healing."""


def build_chain(model: Path, space: Path, device: str, **more: object) -> list[str]:
    """The words of `run` on the demo's samples."""
    return ["run", str(model), "-w", str(space), "--device", device, *to_words(CHAIN | more)]


@pytest.fixture
def gpu() -> Iterator[Pretend]:
    """One GPU, for the whole test."""
    with Pretend() as found:
        yield found


@pytest.fixture(scope="session")
def space(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `run` made of a tiny model on the CPU, in float32: two of eight layers are gone. Read it, or copy it
    (workspaces.copy); never write into it."""
    folder = tmp_path_factory.mktemp("pretended") / "w"
    succeed(*build_chain(chain_model, folder, "cpu"))
    return folder
