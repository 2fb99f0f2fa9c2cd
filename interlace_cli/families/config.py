"""The config of a model after a drop: which fields depend on the layers, and how each changes.

Pure functions over the parsed `config.json`. Generic first: a list with one entry per layer is sliced, a list of layer
indices is renumbered; the few scalars are named here (architectures.md, section 1).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from interlace_cli.errors import UnsupportedModelError

Config = dict[str, Any]

SUPPORTED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_next", "llava_onevision")
"""Model types whose cut was shown to be exact by a test against plain transformers."""

INDEX_LISTS = ("mlp_only_layers", "cross_attention_layers", "moe_layers", "full_attn_idxs", "rope_scaling_layers")
"""Fields that hold layer indices. They may have as many entries as layers by chance, so the name decides."""


def check_supported(config: Config) -> None:
    """Raises UnsupportedModelError for an architecture that was not shown to be cut exactly."""
    model_type = config.get("model_type")
    if model_type not in SUPPORTED:
        raise UnsupportedModelError(
            f"config.json has model_type {model_type!r}, which interlace cannot cut exactly yet.",
            f"It cuts {', '.join(SUPPORTED)}.",
        )


def text_configs(config: Config) -> list[Config]:
    """The objects that describe the language model: `text_config`, or the config itself where it is flat, or both."""
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return [config]
    return [config, inner] if "num_hidden_layers" in config else [inner]


def find_num_layers(config: Config) -> int | None:
    """The number of decoder layers, where config.json says it (some leave it to the class's default)."""
    for text in reversed(text_configs(config)):
        value = text.get("num_hidden_layers")
        if isinstance(value, int):
            return value
    return None


def count_deepstack(config: Config) -> int:
    """How many of the first layers have vision features added after them (Qwen3-VL's DeepStack)."""
    vision = config.get("vision_config")
    return len(vision.get("deepstack_visual_indexes") or []) if isinstance(vision, dict) else 0


def is_tied(config: Config) -> bool:
    """Whether the head shares the embedding. The flag may stand outside or inside; the inner one counts where the
    outer is missing."""
    inner = text_configs(config)[-1]
    return bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", False)))


def edit_config(config: Config, kept: Sequence[int], num_layers: int) -> Config:
    """A copy of the config for the layers `kept` (dense indices, ascending) of `num_layers`."""
    edited = copy.deepcopy(config)
    position = {layer: place for place, layer in enumerate(kept)}
    for text in text_configs(edited):
        for field, value in text.items():
            if field in INDEX_LISTS and isinstance(value, list):
                text[field] = [position[layer] for layer in value if layer in position]
            elif isinstance(value, list) and len(value) == num_layers and not field.endswith("token_id"):
                text[field] = [value[layer] for layer in kept]
        if isinstance(text.get("max_window_layers"), int):
            text["max_window_layers"] = sum(layer < text["max_window_layers"] for layer in kept)
        text["num_hidden_layers"] = len(kept)
    if count_deepstack(edited):
        vision = edited["vision_config"]
        indexes = vision["deepstack_visual_indexes"]
        vision["deepstack_visual_indexes"] = [tap for layer, tap in enumerate(indexes) if layer in position]
    return edited
