"""The state of unfinished healing: with the engine and the number of processes that wrote it, it is gone on from to the
same bits; with others, to the same weights by rounding."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_jobs import copy_state, heal, run_jobs
from safetensors.torch import load_file

pytestmark = pytest.mark.engines
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
RECIPE: dict[str, Any] = {
    "lr": 1e-3,
    "epochs": 0.6,
    "batch_size": 20,
    "grad_accum": 1,
    "max_length": 150,
    "tune_layers": [3, 5],
    "save_every": 2,
    "device": "cpu",
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3}


def difference(one: Path, two: Path) -> float:
    """The largest, of the weights of two folders."""
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "engines",
    [
        pytest.param(("ddp", "fsdp"), id="torch"),
        pytest.param(("zero2", "zero3", "zero3-offload"), id="deepspeed", marks=needs_deepspeed),
    ],
)
def test_a_state_is_gone_on_from(
    engines: tuple[str, ...], dtype: str, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """Each engine alone; then each with the state of the one before it, the first with that of one process; and one
    process with that of the last."""
    base = {**RECIPE, "pruned": pruned, "dataset": small_dataset, "dtype": dtype}
    heal({**base, "out": tmp_path / "one-stopped", "stop_after": 3}, [])
    jobs = []
    before = "one"
    for engine in engines:
        jobs += [
            {**base, "out": tmp_path / engine, "engine": engine},
            {**base, "out": tmp_path / f"{engine}-stopped", "engine": engine, "stop_after": 3},
            {
                **base,
                "out": tmp_path / f"{engine}-again",
                "engine": engine,
                "state": tmp_path / f"{engine}-stopped",
            },
            {
                **base,
                "out": tmp_path / f"{engine}-other",
                "engine": engine,
                "state": tmp_path / f"{before}-stopped",
            },
        ]
        before = engine
    said = run_jobs(jobs, tmp_path)
    for number, engine in enumerate(engines):
        assert "going on from step 2 of 6" in said[4 * number + 2]
        assert "going on from step 2 of 6" in said[4 * number + 3]
        assert difference(tmp_path / engine, tmp_path / f"{engine}-again") == 0, engine
        assert difference(tmp_path / engine, tmp_path / f"{engine}-other") < TOLERANCE[dtype], engine
        assert difference(tmp_path / engine, tmp_path / engines[0]) < TOLERANCE[dtype], engine
    copy_state(tmp_path / f"{before}-stopped", tmp_path / "one")
    lines: list[str] = []
    heal({**base, "out": tmp_path / "one"}, lines)
    assert any("going on from step 2 of 6" in line for line in lines)
    assert difference(tmp_path / before, tmp_path / "one") < TOLERANCE[dtype]
    (state,) = tmp_path.glob(f".{before}-stopped.healing-*")
    saved = load_file(state / "stage-0/checkpoint-2/tuned.safetensors")
    assert {name.split(".layers.")[1][0] for name in saved} == {"2", "4"}, "nothing that is frozen"
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    names = {path.name for path in (state / "stage-0/checkpoint-2").iterdir()}
    assert len(names) == 7, names
