"""Config fields that say at which layers vision features leave a stack or enter it: DeepStack,
`vision_feature_layer` and similar ones. A drop renumbers them; `limits.py` refuses drops that cannot be renumbered.

To add such a config field of an architecture, add it here: to FEATURE_LAYERS if it counts hidden states, to
VISION_FEATURES if it names layers by their output.

Example: layers 0, 1 and 3 of 4 are kept. Hidden state 3 (after the first three layers) becomes state 2; the output of
layer 2 is replaced by that of layer 1, at position 1. `vision_feature_layer` -2, which is state 3 counted from the end,
stays -2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interlace_cli.families.stacks import LANGUAGE, Config, Stack, vision_path

FEATURE_LAYERS = ("vision_feature_layer", "vision_feature_select_layer")
"""Fields that hold an index, or a list of indices, of the vision tower's hidden states: 0 ... L for L layers, or
negative, counted from the end."""
FEATURE_OWNERS = ((), ("adapter_config",))
"""Paths, from the whole config, of the objects that may have a field of FEATURE_LAYERS."""
VISION_FEATURES = {"deepstack_visual_indexes": True, "intermediate_layers_indices": False}
"""Field of `vision_config` that lists the layers whose output is used -> whether these outputs have to be of different
layers."""


def count_deepstack(config: Config) -> int:
    """How many of the first layers have vision features added after them (Qwen3-VL's DeepStack)."""
    vision = _find_vision(config)
    return len(vision.get("deepstack_visual_indexes") or []) if vision is not None else 0


def edit_feature_layers(config: Config, stack: Stack, kept: Sequence[int], num_layers: int) -> None:
    """Renumbers the vision features' layer indices in `config`, in place, for the `kept` layers of the stack's
    `num_layers`."""
    if stack.name == "vision":
        _edit_vision_features(config, kept, num_layers)
    elif stack.name in (LANGUAGE, "text"):
        _edit_deepstack(config, kept)
        _edit_injections(config, kept, num_layers)


def move_state(index: int, kept: Sequence[int], num_layers: int) -> int:
    """The index of the same hidden state after the drop. State k is the output of the first k layers; a negative index
    stays negative. Example: kept [0, 1, 3] of 4 layers: 3 -> 2, -1 -> -1, -3 (state 2) -> -2."""
    state = index if index >= 0 else num_layers + 1 + index
    moved = sum(layer < state for layer in kept)
    return moved if index >= 0 else moved - len(kept) - 1


def move_output(layer: int, kept: Sequence[int]) -> int:
    """The position, after the drop, of the layer whose output replaces that of `layer`: the last kept layer up to it.
    -1 if there is none. Example: kept [0, 1, 3]: layer 2 -> 1, layer 3 -> 2."""
    return sum(other <= layer for other in kept) - 1


def iter_feature_fields(config: Config) -> list[tuple[Config, str]]:
    """`(object, field)` for each field of FEATURE_LAYERS in the config."""
    found = []
    for path in FEATURE_OWNERS:
        owner: Any = config
        for key in path:
            owner = owner.get(key) if isinstance(owner, dict) else None
        if isinstance(owner, dict):
            found += [(owner, field) for field in FEATURE_LAYERS if isinstance(owner.get(field), (int, list))]
    return found


def as_list(value: Any) -> list[int]:
    """`[value]` for a single index; a list as it is."""
    return value if isinstance(value, list) else [value]


def _edit_vision_features(config: Config, kept: Sequence[int], num_layers: int) -> None:
    for owner, field in iter_feature_fields(config):
        value = owner[field]
        moved = [move_state(index, kept, num_layers) for index in as_list(value)]
        owner[field] = moved if isinstance(value, list) else moved[0]
    vision = _find_vision(config)
    for field in VISION_FEATURES:
        if vision is not None and isinstance(vision.get(field), list):
            vision[field] = [move_output(layer, kept) for layer in vision[field]]


def _find_vision(config: Config) -> Config | None:
    """The object that describes the vision tower (no copy)."""
    path = vision_path(config)
    found = config
    for key in path or ():
        found = found[key]
    return None if path is None else found


def _edit_deepstack(config: Config, kept: Sequence[int]) -> None:
    """Entry k of `deepstack_visual_indexes` is the vision layer whose features are added after language layer k. The
    entry of a dropped layer goes with it: the pruned model is the dense one with the layer and its features bypassed.
    Example: [5, 11, 17] with layer 1 dropped becomes [5, 17]."""
    vision = _find_vision(config)
    sources = vision.get("deepstack_visual_indexes") if vision is not None else None
    if vision is not None and isinstance(sources, list):
        vision["deepstack_visual_indexes"] = [source for layer, source in enumerate(sources) if layer in set(kept)]


def _edit_injections(config: Config, kept: Sequence[int], num_layers: int) -> None:
    """Granite 4 Vision adds features before given layers. Those of a dropped layer move to the next kept one."""
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
