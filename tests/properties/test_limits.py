"""What cannot be dropped: which layers, why, and that every set of the others can be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.limits import check_drop, find_locked
from interlace_cli.families.stacks import find_stack

LAYERS = 8
HYBRID = (
    ["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 2 + ["full_attention", "linear_attention"]
)
MIXED = (["sliding_attention"] * 3 + ["full_attention"]) * 2

CASES: dict[str, tuple[dict[str, Any], set[int]]] = {
    "nothing": ({}, set()),
    "full and sliding": ({"layer_types": MIXED}, set()),
    "hybrid": ({"layer_types": HYBRID}, {6}),
    "blocks": ({"layers_block_type": ["mamba", "attention", "moe", "mamba", "attention", "moe", "mamba", "moe"]}, {4}),
    "shared keys": ({"layer_types": MIXED, "num_kv_shared_layers": 3}, {3, 4}),
    "gemma4": ({"model_type": "gemma4_text", "layer_types": MIXED}, {7}),
    "t5": ({"model_type": "t5"}, {0}),
    "residual blocks": ({"n_layers_per_attn_res_block": 4}, set(range(8))),
    "sources": ({"kv_source_layers": [0, 0, 2, 2, 2, 5, 6, 6]}, {0, 2, 6}),
    "indexers": ({"indexer_types": ["full", "shared", "full", "full", "shared", "shared", "full", "full"]}, {0, 3}),
    "ordinals": ({"ple_layer_ids": [2, 5, 8]}, {1, 4, 7}),
    "period": ({"attn_layer_period": 4}, set(range(8))),
    "sparse": ({"moe_layer_end_index": 2}, {2}),
    "scaled": ({"scale_attn_by_inverse_layer_idx": True}, set(range(8))),
}


def build(fields: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "some_vlm", "text_config": {"num_hidden_layers": LAYERS, **fields}}


@pytest.mark.parametrize("case", CASES)
def test_the_layers_that_stay_are_known_from_the_config_alone(case: str) -> None:
    fields, locked = CASES[case]
    config = build(fields)
    assert set(find_locked(config, find_stack(config), LAYERS)) == locked


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_every_set_of_the_other_layers_can_be_dropped(case: str, data: st.DataObject) -> None:
    config = build(CASES[case][0])
    free = sorted(set(range(LAYERS)) - CASES[case][1])
    drop = data.draw(st.sets(st.sampled_from(free), max_size=LAYERS - 1)) if free else set()
    check_drop(config, find_stack(config), LAYERS, sorted(drop))


@pytest.mark.parametrize(
    ("case", "drop", "is_possible"),
    [
        ("hybrid", [3], True),
        ("hybrid", [6], True),
        ("hybrid", [3, 6], False),
        ("shared keys", [4, 7], False),
        ("gemma4", [7], False),
        ("gemma4", [4, 5, 6], True),
        ("gemma4", [4, 5, 6, 7], True),
        ("t5", [0, 3], False),
        ("residual blocks", [7], False),
        ("sources", [2], False),
        ("sources", [2, 3, 4], True),
        ("sources", [6, 7], True),
        ("indexers", [3, 4], False),
        ("indexers", [3, 4, 5], True),
        ("ordinals", [7], True),
        ("ordinals", [4, 7], True),
        ("ordinals", [4], False),
        ("period", [4, 5, 6, 7], True),
        ("period", [0, 1, 2, 3], True),
        ("period", [5, 6], False),
        ("sparse", [1, 2], True),
        ("sparse", [0, 1, 2], False),
        ("scaled", [6, 7], True),
        ("scaled", [6], False),
    ],
)
def test_a_set_as_a_whole_decides(case: str, drop: list[int], is_possible: bool) -> None:
    config = build(CASES[case][0])
    if is_possible:
        check_drop(config, find_stack(config), LAYERS, drop)
        return
    with pytest.raises(
        UnsupportedModelError, match=r"cannot be dropped exactly: .* Layers that could be dropped instead"
    ):
        check_drop(config, find_stack(config), LAYERS, drop)


def test_idefics_loses_whole_groups_alone() -> None:
    config = {"model_type": "idefics", "num_hidden_layers": LAYERS, "cross_layer_interval": 2}
    check_drop(config, find_stack(config), LAYERS, [2, 3, 6, 7])
    with pytest.raises(UnsupportedModelError, match="only whole groups of 2"):
        check_drop(config, find_stack(config), LAYERS, [1, 2])


def test_two_injections_of_granite_cannot_enter_at_one_place() -> None:
    config = {**build({}), "deepstack_layer_map": [[-1, 2], [-2, 5]], "spatial_target_layers": [3]}
    check_drop(config, find_stack(config), LAYERS, [5, 6])
    for drop in ([2], [5, 6, 7]):
        with pytest.raises(UnsupportedModelError, match="image features are added before it"):
            check_drop(config, find_stack(config), LAYERS, drop)
