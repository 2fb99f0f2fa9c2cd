"""The memory formula against real steps, simulated: within 10% at any shape of one GiB and more."""

from __future__ import annotations

import pytest
from simulated_step import GIB, shrink, simulate

from interlace_cli.bench.shapes import SHAPES
from interlace_cli.healing.memory_need import Way

FUSED, FOREACH, SMALL = "adamw_torch_fused", "adamw_torch", "adamw_8bit"
LIMIT = 0.1


@pytest.mark.parametrize(
    ("engine", "is_checkpointed", "optim"),
    [
        ("ddp", False, FUSED),
        ("ddp", True, FUSED),
        ("offload", True, FUSED),
    ],
    ids=["ordinary", "checkpointed", "offload"],
)
def test_the_formula_is_near_a_real_step_of_wide_layers(engine: str, is_checkpointed: bool, optim: str) -> None:
    shape = shrink(SHAPES["4b"], 3, vocabulary=32_000)
    found = simulate(shape, Way(engine, is_checkpointed, optim), tokens=512, side=224, tuned=[1])
    assert abs(found.error) < LIMIT, found


# Other figures than these were simulated by hand for the prototype: 67.5, 42.2, 37.8, 28.1 and 18.2 GiB at 8B.
TABLE = {
    ("8b", "ddp", False, FUSED): 67.2,
    ("8b", "ddp", True, FOREACH): 42.2,
    ("8b", "ddp", True, FUSED): 37.8,
    ("8b", "ddp", True, SMALL): 28.1,
    ("8b", "offload", True, FUSED): 16.5,
    ("4b", "ddp", False, FUSED): 46.0,
    ("4b", "ddp", True, FUSED): 21.0,
    ("4b", "offload", True, FUSED): 10.0,
}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("case", "wanted"), TABLE.items(), ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else ""
)
def test_the_table_of_the_readme(case: tuple[str, str, bool, str], wanted: float) -> None:
    name, *way = case
    found = simulate(SHAPES[name], Way(*way))
    print(name, *way, found)
    assert found.peak / GIB == pytest.approx(wanted, rel=0.05)
    assert abs(found.error) < LIMIT, found


@pytest.mark.soak
def test_the_goals_of_offloading() -> None:
    for name, goal in (("8b", 22), ("4b", 12)):
        assert simulate(SHAPES[name], Way("offload", True)).peak < goal * GIB
