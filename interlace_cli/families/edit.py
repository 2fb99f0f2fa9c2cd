"""The config of a model after a drop: which config fields depend on the layers, and how each one changes.

To add a config field of an architecture, add its name to one of the tables below. A list with one entry per layer needs
no table: it is recognised by its length and sliced. Pure functions over the parsed `config.json`.

Example: layers 0, 1 and 3 of 4 are kept.

    field                   before          after       rule
    layer_types             [a, b, c, d]    [a, b, d]   one entry per layer: sliced
    mlp_only_layers         [1, 2, 3]       [1, 2]      INDEX_LISTS: layer 2 is gone, layer 3 becomes 2
    ple_layer_ids           [2, 4]          [2, 3]      ONE_BASED_INDEX_LISTS: 4 is the last layer, which becomes 3
    per_layer_config        {"3": x}        {"2": x}    INDEX_DICTS
    first_k_dense_replace   3               2           COUNTS_FROM_THE_START: 2 of the first 3 layers are kept
    moe_layer_end_index     2               1           LAST_INDICES: the last kept layer up to 2 is layer 1
    num_kv_shared_layers    2               1           COUNTS_FROM_THE_END: 1 of the last 2 layers is kept
    hybrid_..._pattern      "M-M*"          "M-*"       one letter per layer: sliced
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from interlace_cli.families.feature_layers import edit_feature_layers, move_output, move_state
from interlace_cli.families.stacks import COUNTS, Config, Stack, is_pattern_field, text_path

INDEX_LISTS = (
    "mlp_only_layers",
    "cross_attention_layers",
    "moe_layers",
    "full_attn_idxs",
    "rope_scaling_layers",
    "local_layer_ids",
    "attn_layer_indices",
    "fullatt_block_indexes",
    "global_attn_indexes",
    "hybrid_layer_ids",
)
"""Fields that hold a list of layer indices, from 0. Such a list may have as many entries as there are layers by chance,
so the name decides. To add a config field of an architecture that lists layers, add it here."""

ONE_BASED_INDEX_LISTS = ("ple_layer_ids",)
"""Fields that hold a list of layer indices, from 1. To add such a config field, add it here."""
INDEX_DICTS = ("per_layer_config",)
"""Fields that hold an object with layer indices as keys, from "0". To add such a config field, add it here."""
COUNTS_FROM_THE_START = (
    "max_window_layers",
    "first_k_dense_replace",
    "num_dense_layers",
    "moe_layer_start_index",
)
"""Fields that say how many of the first layers are of one kind. To add such a config field, add it here."""
LAST_INDICES = ("moe_layer_end_index",)
"""Fields that hold the index of the last layer of a kind; -1 is the last of all. To add such a config field, add it
here."""
COUNTS_FROM_THE_END = ("num_kv_shared_layers",)
"""Fields that say how many of the last layers are of one kind. To add such a config field, add it here."""
RUN_LENGTHS = ("attention_types",)
"""Fields that hold pairs of a list of kinds and how often it is repeated (GPT-Neo). To add such a config field, add it
here."""
PERIODS = ("attn_layer_period", "expert_layer_period", "moe_layer_interval", "layer_group_size")
"""Fields that say the kinds of layers by a period, for which `limits.py` has a rule. To add such a config field, add it
here."""

_NAMED = {
    *(*INDEX_LISTS, *ONE_BASED_INDEX_LISTS, *INDEX_DICTS, *COUNTS_FROM_THE_START, *LAST_INDICES, *COUNTS_FROM_THE_END),
    *(*RUN_LENGTHS, *PERIODS, "decoder_sparse_step", "cross_layer_interval", "n_layers_per_attn_res_block"),
    *("scale_attn_by_inverse_layer_idx", "kv_source_layers"),
}

STATES = ("accept_hidden_layer",)
"""Fields of any object that hold the index of a hidden state of the language model: 0 ... L for L layers (Qwen3-Omni's
talker hears state 24). To add such a config field, add it here."""

NOT_PER_LAYER = (
    "architectures",
    "image_grid_pinpoints",
    "keys_to_ignore_at_inference",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "vision_feature_layer",
    "spatial_target_layers",
    "deepstack_layer_map",
)
"""Lists that are never sliced, even if they have as many entries as there are layers; nor are lists whose name contains
`token_id`. To add a config field that is a list but not per layer, add it here."""


def text_configs(config: Config) -> list[Config]:
    """The objects of the config that describe the language model: `text_config`, the config itself if it is flat, or
    both, if the outer one repeats the layer count. The innermost is last."""
    chain = [config]
    for key in text_path(config):
        chain.append(chain[-1][key])
    return [outer for outer in chain[:-1] if "num_hidden_layers" in outer] + chain[-1:]


def is_tied(config: Config) -> bool:
    """Whether the head shares its weight with the input embedding. `tie_word_embeddings` of the whole config counts; if
    it is missing, that of the text config; if both are, False."""
    inner = text_configs(config)[-1]
    return bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", False)))


def edit_config(config: Config, stack: Stack, kept: Sequence[int], num_layers: int) -> Config:
    """A copy of the config after the drop. `kept` are the dense indices of the layers that stay, ascending;
    `num_layers` is the stack's layer count before."""
    edited = copy.deepcopy(config)
    is_language = stack.name != "vision" and stack.path == text_path(config)
    objects = text_configs(edited) if is_language and not stack.is_half else [stack.describe_in(edited)]
    for described in objects:
        _edit_fields(described, kept, num_layers)
        field = next((name for name in (stack.count_field, *COUNTS) if name in described), None)
        if field is not None or "layers_block_type" not in described:
            described[stack.count_field or field or "num_hidden_layers"] = len(kept)
        # GLM-4V has both `num_layers` and `num_hidden_layers`.
        again = [] if stack.is_half else [name for name in COUNTS if described.get(name) == num_layers]
        described.update(dict.fromkeys(again, len(kept)))
    if is_language:
        _edit_states(edited, kept, num_layers)
    edit_feature_layers(edited, stack, kept, num_layers)
    return edited


def _edit_states(config: Config, kept: Sequence[int], num_layers: int) -> None:
    for field, value in config.items():
        if isinstance(value, dict):
            _edit_states(value, kept, num_layers)
        elif field in STATES and type(value) is int:
            config[field] = move_state(value, kept, num_layers)


def _edit_fields(described: Config, kept: Sequence[int], num_layers: int) -> None:
    position = {layer: index for index, layer in enumerate(kept)}
    _spell_out_sparse_step(described, num_layers)
    for field, value in described.items():
        if field in INDEX_LISTS and isinstance(value, list):
            described[field] = [position[layer] for layer in value if layer in position]
        elif field in ONE_BASED_INDEX_LISTS and isinstance(value, list):
            described[field] = [position[layer - 1] + 1 for layer in value if layer - 1 in position]
        elif field in INDEX_DICTS and isinstance(value, dict):
            described[field] = {
                str(position[int(layer)]): entry for layer, entry in value.items() if int(layer) in position
            }
        elif field == "kv_source_layers" and isinstance(value, list) and len(value) == num_layers:
            described[field] = [position.get(value[layer], value[layer]) for layer in kept]
        elif field in COUNTS_FROM_THE_START and isinstance(value, int):
            described[field] = sum(layer < value for layer in kept)
        elif field in LAST_INDICES and isinstance(value, int) and value >= 0:
            described[field] = move_output(value, kept)
        elif field in COUNTS_FROM_THE_END and isinstance(value, int):
            described[field] = sum(layer >= num_layers - value for layer in kept)
        elif field in RUN_LENGTHS and isinstance(value, list):
            spelled_out = [kind for kinds, times in value for kind in kinds * times]
            described[field] = [[[spelled_out[layer] for layer in kept], 1]]
        elif is_per_layer(field, value, num_layers):
            described[field] = [value[layer] for layer in kept]
        elif is_pattern(field, value, num_layers):
            described[field] = "".join(value[layer] for layer in kept)


def depends_on_layers(field: str, value: Any, num_layers: int) -> bool:
    """Whether a rule of this module, or of `limits.py`, reads the field."""
    return field in _NAMED or is_per_layer(field, value, num_layers) or is_pattern(field, value, num_layers)


def is_per_layer(field: str, value: Any, num_layers: int) -> bool:
    """Whether this is a list with one entry per layer."""
    is_list = isinstance(value, list) and len(value) == num_layers
    return is_list and field not in NOT_PER_LAYER and "token_id" not in field


def is_pattern(field: str, value: Any, num_layers: int) -> bool:
    """Whether this is a text with one letter per layer. Example: `hybrid_override_pattern` "M-M*-" of five layers."""
    return isinstance(value, str) and len(value) == num_layers and is_pattern_field(field, value)


def _spell_out_sparse_step(described: Config, num_layers: int) -> None:
    """`decoder_sparse_step` n makes every n-th layer a sparse one (mixture of experts). A drop breaks that pattern, so
    the dense layers are listed in `mlp_only_layers` instead, and the step becomes 1."""
    step = described.get("decoder_sparse_step")
    if isinstance(step, int) and step > 1:
        dense = {layer for layer in range(num_layers) if (layer + 1) % step}
        described["mlp_only_layers"] = sorted(dense | set(described.get("mlp_only_layers") or []))
        described["decoder_sparse_step"] = 1
