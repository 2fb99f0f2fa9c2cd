"""What every test may use."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
# Two processes' thread pools on two cores starve each other; tiny models need one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The values that are compared are a CPU's. tests/gpu.sh asks for the real GPU.
if not os.environ.get("INTERLACE_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A busy machine is no fault of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """The modules of torch and transformers stay to the end: the collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def chain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that every step can run on."""
    from tiny import save_chain_model

    folder = tmp_path_factory.mktemp("chain-model")
    save_chain_model(folder)
    return folder


@pytest.fixture(scope="session")
def pruned(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It without its layers 2 and 6."""
    from making import make_cut

    folder = tmp_path_factory.mktemp("chain-cut") / "pruned"
    make_cut(chain_model, [2, 6], folder)
    return folder


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred samples of the demo world."""
    from making import make_dataset

    folder = tmp_path_factory.mktemp("data") / "dataset"
    make_dataset("demo", folder, max_samples=264, holdout=0.2, calibration=0.2)
    return folder
