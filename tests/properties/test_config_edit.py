"""What a drop does to a config and to tensor names, as pure functions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace_cli.domain.layers import describe_layers, kept_layers, parse_layers
from interlace_cli.errors import UsageError
from interlace_cli.families.edit import COUNTS_FROM_THE_START, INDEX_LISTS, is_tied
from interlace_cli.families.edit import edit_config as edit_stack
from interlace_cli.families.stacks import find_stack
from interlace_cli.families.tensors import (
    build_numbering,
    build_renaming,
    build_side_modules,
    find_layer_prefix,
    find_numbered_groups,
    layer_of,
)


def edit_config(config: dict[str, Any], kept: list[int], layers: int) -> dict[str, Any]:
    return edit_stack(config, find_stack(config), kept, layers)


drops = st.integers(2, 48).flatmap(
    lambda layers: st.tuples(st.just(layers), st.sets(st.integers(0, layers - 1), max_size=layers - 1))
)
"""(number of layers, the dropped ones)"""


def text_config(layers: int, indices: list[int], window: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "layer_types": [f"type {layer}" for layer in range(layers)],
        "no_rope_layers": [layer % 2 for layer in range(layers)],
        **dict.fromkeys(INDEX_LISTS, indices),
        **dict.fromkeys(COUNTS_FROM_THE_START, window),
        "num_kv_shared_layers": min(window, layers),
        "moe_layer_end_index": min(window, layers - 1),
        "per_layer_config": {str(layer): {"head_dim": layer} for layer in indices},
        "ple_layer_ids": [layer + 1 for layer in indices],
        "kv_source_layers": list(range(layers)),
        "eos_token_id": list(range(layers)),
        "one_more": [0] * (layers + 1),
        "one_less": [0] * (layers - 1),
        "hidden_size": layers,
        "rope": {"section": list(range(layers))},
    }


@pytest.mark.parametrize("shape", ["flat", "nested", "both"])
@settings(deadline=None)
@given(case=drops, data=st.data())
def test_every_field_that_depends_on_the_layers_follows_them(
    shape: str, case: tuple[int, set[int]], data: st.DataObject
) -> None:
    layers, drop = case
    kept = kept_layers(drop, layers)
    indices = sorted(data.draw(st.sets(st.integers(0, layers - 1))))
    window = data.draw(st.integers(0, layers + 5))
    inner = text_config(layers, indices, window)
    config = {"flat": inner, "nested": {"text_config": inner}, "both": {**inner, "text_config": dict(inner)}}[shape]
    config["vision_config"] = {"depth": layers, "blocks": list(range(layers)), "hidden_size": 8}
    before = copy.deepcopy(config)
    edited = edit_config(config, kept, layers)
    assert config == before, "the original has changed"
    assert edited["vision_config"] == before["vision_config"], "the vision tower has layers of its own"
    assert find_stack(edited).num_layers == len(kept)
    for text in [edited] * (shape != "nested") + [edited.get("text_config")] * (shape != "flat"):
        expected = {
            **before.get("text_config", before),
            "num_hidden_layers": len(kept),
            "layer_types": [f"type {layer}" for layer in kept],
            "no_rope_layers": [layer % 2 for layer in kept],
            **{name: [kept.index(layer) for layer in indices if layer in kept] for name in INDEX_LISTS},
            **dict.fromkeys(COUNTS_FROM_THE_START, len([layer for layer in kept if layer < window])),
            "num_kv_shared_layers": len([layer for layer in kept if layer >= layers - min(window, layers)]),
            "moe_layer_end_index": len([layer for layer in kept if layer <= window]) - 1,
            "per_layer_config": {str(kept.index(i)): {"head_dim": i} for i in indices if i in kept},
            "ple_layer_ids": [kept.index(layer) + 1 for layer in indices if layer in kept],
            "kv_source_layers": list(range(len(kept))),
        }
        assert {name: text[name] for name in inner if name != "vision_config"} == {
            name: expected[name] for name in inner if name != "vision_config"
        }


@given(layers=st.integers(2, 20))
def test_a_list_of_all_indices_is_renumbered_and_not_sliced(layers: int) -> None:
    config = {"text_config": {"num_hidden_layers": layers, "mlp_only_layers": list(range(layers))}}
    edited = edit_config(config, list(range(1, layers)), layers)
    assert edited["text_config"]["mlp_only_layers"] == list(range(layers - 1))


def test_a_config_that_leaves_the_layer_count_to_its_class_says_it_afterwards() -> None:
    assert find_stack({"text_config": {"hidden_size": 8}}).num_layers is None
    assert edit_config({"text_config": {"hidden_size": 8}}, [0, 2], 3)["text_config"]["num_hidden_layers"] == 2


@given(case=drops, taps=st.integers(0, 4))
def test_deepstack_taps_and_mergers_go_with_the_layer_they_add_to(case: tuple[int, set[int]], taps: int) -> None:
    layers, drop = case
    kept = kept_layers(drop, layers)
    stays = [tap for tap in range(taps) if tap in kept]
    vision = {"deepstack_visual_indexes": [5 + 6 * tap for tap in range(taps)]}
    config = {"text_config": {"num_hidden_layers": layers}, "vision_config": vision}
    edited = edit_config(config, kept, layers)
    assert edited["vision_config"]["deepstack_visual_indexes"] == [5 + 6 * tap for tap in stays]
    mergers = [f"model.visual.deepstack_merger_list.{tap}.norm.weight" for tap in range(taps)]
    side_modules = build_side_modules(config, find_stack(config), kept, layers)
    assert build_renaming(mergers, "model.language_model.layers", build_numbering(kept, layers), side_modules) == {
        mergers[tap]: mergers[position] for position, tap in enumerate(stays)
    }


@settings(deadline=None)
@given(case=drops, experts=st.integers(1, 4), prefix=st.sampled_from(["model.layers", "model.language_model.layers"]))
def test_renaming_is_a_bijection_onto_consecutive_layers_and_leaves_others_alone(
    case: tuple[int, set[int]], experts: int, prefix: str
) -> None:
    layers, drop = case
    kept = kept_layers(drop, layers)
    below = ["input_layernorm.weight", *(f"mlp.experts.{expert}.w" for expert in range(experts))]
    inside = [f"{prefix}.{layer}.{rest}" for layer in range(layers) for rest in below]
    outside = ["lm_head.weight", "model.norm.weight", *(f"model.visual.blocks.{n}.w" for n in range(layers + 1))]
    outside += [f"{prefix}_extra.0.w", f"other.{prefix}.0.w"]
    renaming = build_renaming(inside + outside, prefix, build_numbering(kept, layers), {})
    assert [name for name in renaming if renaming[name] == name and name in outside] == outside
    assert sorted(renaming[name] for name in inside if name in renaming) == sorted(
        f"{prefix}.{position}.{rest}" for position in range(len(kept)) for rest in below
    )
    for old in set(renaming) - set(outside):
        new = renaming[old]
        layer, position = layer_of(old, prefix), layer_of(new, prefix)
        assert position is not None
        assert kept[position] == layer
        assert old.removeprefix(f"{prefix}.{layer}.") == new.removeprefix(f"{prefix}.{position}.")
    assert len(set(renaming.values())) == len(renaming), "two tensors have one name"


@given(layers=st.integers(2, 48), experts=st.integers(2, 48), other=st.integers(1, 48))
def test_a_group_is_found_by_its_whole_range_of_numbers(layers: int, experts: int, other: int) -> None:
    inside = [f"model.layers.{layer}.experts.{expert}.w" for layer in range(layers) for expert in range(experts)]
    vision = [f"visual.blocks.{block}.norm" for block in range(other)]
    gap = [f"gap.{number}.w" for number in range(layers + 1) if number != layers // 2]
    names = [*inside, *vision, *gap, "lm_head.weight"]
    groups = find_numbered_groups(names)
    assert groups["model.layers"] == set(range(layers))
    sizes = dict.fromkeys(names, 1)
    config = {"text_config": {"num_hidden_layers": layers}, "vision_config": {"depth": other}}
    assert find_layer_prefix(sizes, find_stack(config), layers) == "model.layers"
    assert find_layer_prefix(sizes, find_stack(config, "vision"), other) == "visual.blocks"
    assert find_layer_prefix(sizes, find_stack(config), layers + 50) is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [("a.layers.12.w", 12), ("a.layers.norm.w", None), ("a.layersx.1.w", None), ("b.a.layers.1.w", None)],
)
def test_the_layer_of_a_tensor_is_the_number_after_the_prefix(name: str, layer: int | None) -> None:
    assert layer_of(name, "a.layers") == layer


def test_the_tie_flag_is_read_at_both_levels_and_the_outer_one_wins() -> None:
    assert is_tied({"tie_word_embeddings": True})
    assert is_tied({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}})
    assert is_tied({"text_config": {"tie_word_embeddings": True}})
    assert not is_tied({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}})
    assert not is_tied({})


@given(st.sets(st.integers(0, 200), min_size=1))
def test_layers_are_read_as_they_are_written(layers: set[int]) -> None:
    text = describe_layers(layers)
    assert parse_layers(text, "--protect") == sorted(layers)
    runs = len([layer for layer in layers if layer - 1 not in layers])
    assert text.count(",") + 1 == runs, "as short as it can be"


@pytest.mark.parametrize(
    ("text", "layers"),
    [("0-2,15", [0, 1, 2, 15]), (" 3 , 1-1,3,", [1, 3]), ("2-4,3-5", [2, 3, 4, 5]), ("", []), (",", [])],
)
def test_layers_may_be_written_in_any_order_and_twice(text: str, layers: list[int]) -> None:
    assert parse_layers(text, "--protect") == layers


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1,,x", "1.5", "0-", "1 2", "0-2-4"])
def test_what_is_no_list_of_layers_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--protect does not take"):
        parse_layers(text, "--protect")


def test_no_layer_is_called_none() -> None:
    assert describe_layers([]) == "none"
    assert describe_layers([15, 0, 2, 1]) == "0-2, 15"
