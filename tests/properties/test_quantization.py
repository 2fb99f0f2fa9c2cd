"""Module names in a quantized checkpoint's config follow the layers."""

from __future__ import annotations

import copy
import fnmatch
import re
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
MODULES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.experts.3.up_proj", "mlp.experts.4.up_proj")


def list_tensors(layers: int) -> list[str]:
    """With a vision tower of as many blocks, which keep their numbers, and a head."""
    inner = [f"{PREFIX}.{layer}.{module}.weight" for layer in range(layers) for module in MODULES]
    return [*inner, *(f"model.visual.blocks.{block}.attn.qkv.weight" for block in range(layers)), "lm_head.weight"]


def edit(settings: Any, is_vision: bool = False) -> Any:
    config = {"quantization_config": settings}
    before = copy.deepcopy(config)
    prefix = "model.visual.layers" if is_vision else PREFIX
    edited = edit_quantization(config, list_tensors(8), prefix, is_vision, NUMBERING)
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
    edited = edit_quantization(config, list_tensors(12), PREFIX, False, build_numbering(kept, 12))[
        "quantization_config"
    ]
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


KNOWN = {
    r"re:.*layers\.[0-3]\..*": [r"re:.*layers\.(?:0|1|2)\..*"],
    r"re:model.layers.(1|4).mlp": [r"re:model.layers.(?:1|3).mlp"],
    r"-:.*layers\.(?:3|6)\..*": [],
    r"+:.*layers\.(?:4|5)\.mlp\.experts\.3\..*": [r"+:.*layers\.(?:3|4)\.mlp\.experts\.3\..*"],
    r"+:.*\.18\..*gate.*": [r"+:.*\.18\..*gate.*"],
    "model.layers.7*": ["model.layers.5*"],
    "model.layers.3*": [],
    "*.visual.blocks.[2-5].*": ["*.visual.blocks.[2-5].*"],
    r"re:.*layers\.3\..*|.*layers\.4\..*": [r"re:.*layers\.3\..*|.*layers\.3\..*"],
}


@pytest.mark.parametrize("pattern", KNOWN)
def test_a_pattern_over_numbers_is_renumbered(pattern: str) -> None:
    assert edit({"ignore": [pattern]})["ignore"] == KNOWN[pattern]
    found = edit({"layer_quant_config": {pattern: {"bits": 8}}})["layer_quant_config"]
    assert found == {key: {"bits": 8} for key in KNOWN[pattern]}


def test_a_setting_of_regular_expressions_needs_no_mark() -> None:
    """As a glob, the pattern would speak of two layers."""
    names = [f"{PREFIX}.{layer}.mlp.up_proj" for layer in (0, 9, 10)]
    config = {"quantization_config": {"dynamic": {f"{PREFIX}.[1].*": {}}, "ignore": [f"{PREFIX}.[1].*"]}}
    edited = edit_quantization(config, list_tensors(11), PREFIX, False, build_numbering([0, 1, *range(3, 11)], 11))
    found = edited["quantization_config"]
    assert [bool(re.match(*found["dynamic"], name)) for name in names] == [False, True, False]
    assert found["ignore"] == [f"{PREFIX}.[1].*"]


def test_a_pattern_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"quantization_config.ignore has the pattern 're:layers"):
        edit({"ignore": [r"re:layers\.(3"]})


def write_patterns(chosen: list[int], tail: str) -> dict[str, str]:
    """The same layers by different means."""
    either = "|".join(map(str, chosen))
    digits = "".join(str(layer) for layer in chosen if layer < 10) or "0"
    return {
        "any word": rf"+:.*\.(?:{either})\.{tail}",
        "the layers": rf"re:.*layers\.({either})\.{tail}",
        "one form": rf"-:model\.language_model\.layers\.(?:{either})\.{tail}",
        "each by itself": "re:" + "|".join(rf".*\.layers\.{layer}\.{tail}" for layer in chosen),
        "a class": rf"re:.*layers\.[{digits}]\.{tail}",
        "a glob": f"model.language_model.layers.[{digits}].*",
        "a glob of what begins so": f"*layers.{chosen[0]}*",
    }


def matches(pattern: str, name: str) -> bool:
    """As servers do: `re.match`, or fnmatch."""
    if pattern.startswith(("re:", "+:", "-:")):
        return bool(re.match(pattern[pattern.index(":") + 1 :], name))
    return fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize("form", write_patterns([0], ""))
@given(
    drop=st.sets(st.integers(0, 12), max_size=12),
    chosen=st.sets(st.integers(0, 12), min_size=1, max_size=6),
    tail=st.sampled_from([".*", r"mlp\..*", r"self_attn\.q_proj$"]),
)
def test_a_pattern_matches_what_it_matched(form: str, drop: set[int], chosen: set[int], tail: str) -> None:
    """The vision tower keeps its numbers."""
    numbering = build_numbering(kept_layers(drop, 13), 13)
    pattern = write_patterns(sorted(chosen), tail)[form]
    config = {"quantization_config": {"ignore": [pattern]}}
    found = edit_quantization(config, list_tensors(13), PREFIX, False, numbering)["quantization_config"]["ignore"]
    for tensor in list_tensors(13):
        name = new = tensor.removesuffix(".weight")
        if name.startswith(PREFIX):
            number, _, rest = name.removeprefix(f"{PREFIX}.").partition(".")
            if int(number) in drop:
                continue
            new = f"{PREFIX}.{numbering[int(number)]}.{rest}"
        assert any(matches(one, new) for one in found) is matches(pattern, name), (pattern, found, name, new)


def test_names_of_layers_follow_outside_of_these_settings_too() -> None:
    names = ["model.layers.4.mlp", "layers of 4.5", "a.layers.4 b", "model.layers.3"]
    edited = edit_quantization({"names": names, "layers.7": 1}, list_tensors(8), PREFIX, False, NUMBERING)
    assert edited == {"names": ["model.layers.3.mlp", *names[1:3]], "layers.5": 1}


@pytest.mark.parametrize(
    "pattern", [r"re:.*mlp\.gate$", r"re:.*layers\..*\.self_attn.*", r"re:.*layers\.\d+\.mlp", "Linear"]
)
def test_a_pattern_over_all_layers_stays(pattern: str) -> None:
    assert edit({"ignore": [pattern]})["ignore"] == [pattern]
