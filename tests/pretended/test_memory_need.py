"""The memory formula against real steps, simulated: within 10% at any shape of one GiB and more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretend import Pretend
from simulated_step import GIB, find_sizes, shrink, simulate

from interlace_cli.bench.shapes import SHAPES, build_model
from interlace_cli.domain.model import LayerWidths
from interlace_cli.families.modules import find_layers
from interlace_cli.healing.loss import _ChunkedLoss
from interlace_cli.healing.memory_need import CHUNK, ModelSizes, RowSizes, Way, _count_logits, count_need

FUSED, FOREACH, SMALL = "adamw_torch_fused", "adamw_torch", "adamw_8bit"
LIMIT = 0.1


@pytest.mark.parametrize("way", [Way("ddp", False), Way("offload", True)], ids=["ordinary", "offload"])
def test_the_formula_is_near_a_real_step_of_wide_layers(way: Way) -> None:
    found = simulate(shrink(SHAPES["4b"], 3, vocabulary=32_000), way, tokens=512, side=224, tuned=[1])
    assert abs(found.error) < LIMIT, found


@pytest.mark.parametrize("has_teacher", [False, True])
def test_the_head_holds_as_many_chunks_of_logits_as_the_formula_says(gpu: Pretend, has_teacher: bool) -> None:
    hidden, vocabulary = 16, 32_000
    there = {"device": "cuda", "dtype": torch.bfloat16}
    weight_VH, hidden_KH = torch.zeros(vocabulary, hidden, **there), torch.zeros(CHUNK + 8, hidden, **there)
    targets_K = torch.zeros(len(hidden_KH), dtype=torch.long, device="cuda")
    gpu.peak[0] = before = gpu.now[0]
    wanted_KH = torch.zeros_like(hidden_KH) if has_teacher else None
    _ChunkedLoss.apply(hidden_KH.requires_grad_(), wanted_KH, targets_K, weight_VH, None, 0.5)
    widths = LayerWidths(hidden=hidden, query=1, key_value=1, heads=1, intermediate=1, vocabulary=vocabulary)
    counted = _count_logits(ModelSizes(widths, [], [], 0, has_distill=has_teacher), len(targets_K))
    assert gpu.peak[0] - before == pytest.approx(counted, rel=0.02)


OTHERS: dict[str, dict[str, Any]] = {
    "checkpointed": {"way": Way("ddp", True)},
    "foreach": {"way": Way("ddp", True, FOREACH)},
    "8-bit moments": {"way": Way("ddp", True, SMALL)},
    "offload, nothing computed again": {"way": Way("offload", False)},
    "two rows": {"way": Way("ddp", True), "tokens": 4096, "row_tokens": 2048},
    "long rows": {"way": Way("offload", True), "tokens": 8192},
    "large pictures": {"way": Way("offload", True), "tokens": 4096, "row_tokens": 2048, "side": 1024},
    "a teacher": {"way": Way("ddp", True), "objective": "distill"},
    "a teacher and anchors": {"way": Way("offload", False), "objective": "distill+anchor"},
    "one tuned layer, the last": {"way": Way("offload", True), "tuned": [5]},
    "narrow": {"way": Way("ddp", False), "hidden": 1536, "heads": 12, "kv_heads": 2, "intermediate": 8960},
    "an untied head": {"way": Way("offload", True), "is_tied": False},
}
SEEN = ("foreach", "8-bit moments", "an untied head")
"""Measured on a real GPU too (the README's table)."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in SEEN else pytest.mark.long) for name in OTHERS]
)
def test_the_formula_is_near_other_steps(name: str) -> None:
    case = dict(OTHERS[name])
    widths = {
        key: case.pop(key) for key in list(case) if key in ("hidden", "heads", "kv_heads", "intermediate", "is_tied")
    }
    found = simulate(shrink(SHAPES["4b"], 8, **widths), **{"tokens": 4096, **case})
    assert abs(found.error) < LIMIT, found


TABLE = {
    ("8b", "ddp", False, FUSED): 67.3,
    ("8b", "ddp", True, FOREACH): 42.2,
    ("8b", "ddp", True, FUSED): 37.8,
    ("8b", "ddp", True, SMALL): 28.1,
    ("8b", "offload", True, FUSED): 16.5,
    ("4b", "ddp", False, FUSED): 44.5,
    ("4b", "ddp", True, FUSED): 20.1,
    ("4b", "ddp", True, SMALL): 15.0,
    ("4b", "offload", True, FUSED): 9.1,
}


def test_the_readme_has_the_figures_of_the_formula() -> None:
    """On the host too; those of the GPU are simulated below. A row of the simulation has 2,721 labels."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    columns = []
    for name in ("8b", "4b"):
        shape = SHAPES[name]
        model = build_model(shape, torch.bfloat16, "meta")
        sizes = find_sizes(shape, model, find_layers(model), shape.tuned)
        row, ways = RowSizes(8192, 2721, is_alone=True), [way for known, *way in TABLE if known == name]
        needs = {tuple(way): count_need(sizes, row, Way(*way)) for way in ways}
        columns.append(
            {way: [round(size / GIB) for size in (need.device, need.host) if size] for way, need in needs.items()}
        )
    rows = {
        "all on the GPU": ("ddp", False, FUSED),
        "`--gradient-checkpointing`": ("ddp", True, FUSED),
        "`--gradient-checkpointing --optim adamw_8bit`": ("ddp", True, SMALL),
        "`--engine offload --gradient-checkpointing`; on the host": ("offload", True, FUSED),
    }
    for words, way in rows.items():
        cells = ["; ".join(map(str, column[way])) for column in columns]
        assert f"| {words} | {cells[0]} | {cells[1]} |" in readme


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
