"""Features that leave a stack at inner layers, or enter it there, by index: DeepStack, `vision_feature_layer` and their
like. A drop renumbers them; `limits.py` refuses what cannot be renumbered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interlace_cli.families.stacks import LANGUAGE, Config, Stack

FEATURE_LAYERS = ("vision_feature_layer", "vision_feature_select_layer")
"""Indices into the vision tower's hidden states, of which there is one more than layers; negative from the end."""
FEATURE_OWNERS = ((), ("adapter_config",))
VISION_FEATURES = {"deepstack_visual_indexes": True, "intermediate_layers_indices": False}
"""Layers of the vision tower whose output is taken; whether each has to be another layer."""


def count_deepstack(config: Config) -> int:
    """How many of the first layers have vision features added after them (Qwen3-VL's DeepStack)."""
    vision = config.get("vision_config")
    return len(vision.get("deepstack_visual_indexes") or []) if isinstance(vision, dict) else 0


def edit_feature_layers(config: Config, stack: Stack, kept: Sequence[int], num_layers: int) -> None:
    """Renumbers in place."""
    if stack.name == "vision":
        _edit_vision_features(config, kept, num_layers)
    elif stack.name in (LANGUAGE, "text"):
        _edit_deepstack(config, kept)
        _edit_injections(config, kept, num_layers)


def move_state(index: int, kept: Sequence[int], num_layers: int) -> int:
    """The index of the same hidden state after the drop: state k is what k layers have made. Negatives stay so."""
    state = index if index >= 0 else num_layers + 1 + index
    moved = sum(layer < state for layer in kept)
    return moved if index >= 0 else moved - len(kept) - 1


def move_output(layer: int, kept: Sequence[int]) -> int:
    """The position whose output is what `layer` put out, where a dropped layer passes its input on; -1 before all."""
    return sum(other <= layer for other in kept) - 1


def iter_feature_fields(config: Config) -> list[tuple[Config, str]]:
    """Each object of the config with a field that names hidden states of the vision tower."""
    found = []
    for path in FEATURE_OWNERS:
        owner: Any = config
        for key in path:
            owner = owner.get(key) if isinstance(owner, dict) else None
        if isinstance(owner, dict):
            found += [(owner, field) for field in FEATURE_LAYERS if isinstance(owner.get(field), (int, list))]
    return found


def as_list(value: Any) -> list[int]:
    """One index or several, as several."""
    return value if isinstance(value, list) else [value]


def _edit_vision_features(config: Config, kept: Sequence[int], num_layers: int) -> None:
    for owner, field in iter_feature_fields(config):
        value = owner[field]
        moved = [move_state(index, kept, num_layers) for index in as_list(value)]
        owner[field] = moved if isinstance(value, list) else moved[0]
    vision = config["vision_config"]
    for field in VISION_FEATURES:
        if isinstance(vision.get(field), list):
            vision[field] = [move_output(layer, kept) for layer in vision[field]]


def _edit_deepstack(config: Config, kept: Sequence[int]) -> None:
    """Feature k is added after layer k: it goes with its layer, so that what is left computes the dense model with
    both bypassed."""
    vision = config.get("vision_config")
    taps = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    if isinstance(taps, list):
        config["vision_config"]["deepstack_visual_indexes"] = [
            tap for layer, tap in enumerate(taps) if layer in set(kept)
        ]


def _edit_injections(config: Config, kept: Sequence[int], num_layers: int) -> None:
    """Granite 4 Vision adds features before a layer: they move to the next layer that stays."""
    del num_layers
    following = {}
    for layer in range(max(kept) + 1):
        following[layer] = sum(other < layer for other in kept)
    if isinstance(config.get("deepstack_layer_map"), list):
        config["deepstack_layer_map"] = [
            [source, following.get(layer, layer)] for source, layer in config["deepstack_layer_map"]
        ]
    if isinstance(config.get("spatial_target_layers"), list):
        config["spatial_target_layers"] = [following.get(layer, layer) for layer in config["spatial_target_layers"]]
