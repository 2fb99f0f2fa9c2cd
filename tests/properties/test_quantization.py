"""Module names in a quantized checkpoint's config follow the layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.domain.layers import kept_layers
from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.quantization import edit_quantization
from interlace_cli.families.tensors import build_numbering

PREFIX = "model.language_model.layers"
NUMBERING = build_numbering([0, 1, 2, 4, 5, 7], 8)


def edit(settings: Any, is_vision: bool = False) -> Any:
    config = {"quantization_config": settings}
    before = copy.deepcopy(config)
    edited = edit_quantization(config, PREFIX, is_vision, NUMBERING)
    assert config == before, "the original has changed"
    return edited["quantization_config"]


@pytest.mark.parametrize(
    "field", ["modules_to_not_convert", "ignore", "ignored_layers", "llm_int8_skip_modules", "exclude"]
)
@pytest.mark.parametrize("head", ["model.language_model.", "language_model.model.", "model.", "language_model.", ""])
@given(drop=st.sets(st.integers(0, 11), max_size=11))
def test_names_are_renumbered_whatever_wraps_them(field: str, head: str, drop: set[int]) -> None:
    kept = kept_layers(drop, 12)
    names = [f"{head}layers.{layer}.mlp.down_proj" for layer in range(12)]
    config = {"quantization_config": {field: ["lm_head", *names, "visual"], "bits": 4}}
    edited = edit_quantization(config, PREFIX, False, build_numbering(kept, 12))["quantization_config"]
    assert edited == {field: ["lm_head", *names[: len(kept)], "visual"], "bits": 4}


def test_settings_by_module_are_renumbered_and_those_of_dropped_layers_go() -> None:
    found = edit(
        {
            "extra_config": {
                "model.layers.3.mlp": {"bits": 8},
                "model.layers.4.mlp": {"bits": 16},
                "lm_head": {"bits": 8},
            },
            "config_groups": {"group_0": {"targets": ["Linear", r"re:.*layers\.7\..*", r"re:.*layers\.6\..*"]}},
        }
    )
    assert found == {
        "extra_config": {"model.layers.3.mlp": {"bits": 16}, "lm_head": {"bits": 8}},
        "config_groups": {"group_0": {"targets": ["Linear", r"re:.*layers\.5\..*"]}},
    }


def test_the_other_side_of_the_model_keeps_its_numbers() -> None:
    names = ["vision_tower.encoder.layers.3.fc1", "model.visual.layers.7.attn", "model.layers.4.mlp", None]
    assert edit({"ignore": names})["ignore"] == [*names[:2], "model.layers.3.mlp", None]
    assert edit({"ignore": names}, is_vision=True)["ignore"] == ["model.visual.layers.5.attn", *names[2:]]


@pytest.mark.parametrize("pattern", [r"re:.*layers\.[0-3]\..*", r"re:model.layers.(1|4).mlp", r"+:.*\.18\..*gate.*"])
def test_a_pattern_over_numbers_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedModelError, match="over layer numbers in quantization_config"):
        edit({"ignore": [pattern]})


@pytest.mark.parametrize(
    "pattern", [r"re:.*mlp\.gate$", r"re:.*layers\..*\.self_attn.*", r"re:.*layers\.\d+\.mlp", "Linear"]
)
def test_a_pattern_over_all_layers_stays(pattern: str) -> None:
    assert edit({"ignore": [pattern]})["ignore"] == [pattern]
