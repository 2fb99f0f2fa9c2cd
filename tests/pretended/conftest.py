"""A pretend GPU, and a workspace of a tiny model that was made on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pretend import Pretend
from small_chain import build_chain
from workspaces import succeed


@pytest.fixture(scope="session", autouse=True)
def no_real_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("a real GPU is in the way of the pretended one")


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
