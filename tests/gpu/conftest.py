"""The GPU of these tests: a real one; or, if INTERLACE_PRETEND is set, the pretend one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def device() -> Iterator[str]:
    if os.environ.get("INTERLACE_PRETEND"):
        from pretend import Pretend

        with Pretend():
            yield "cuda"
        return
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; INTERLACE_GPU=1 shows a real one, INTERLACE_PRETEND=1 takes the pretend one")
    yield "cuda"


@pytest.fixture(scope="session")
def is_pretended() -> bool:
    """Kernels of a GPU cannot run then."""
    return bool(os.environ.get("INTERLACE_PRETEND"))
