"""Cuts of architectures that nobody could compare: transformers does not know them, or cannot build them here.

Their config is edited by the general rules of `edit.py`. A field that may name layers, or count them, and that no rule
reads would make another model, so the cut is refused. Pure functions over `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.edit import (
    COUNTS_FROM_THE_END,
    COUNTS_FROM_THE_START,
    INDEX_DICTS,
    INDEX_LISTS,
    LAST_INDICES,
    NOT_PER_LAYER,
    ONE_BASED_INDEX_LISTS,
    PERIODS,
    RUN_LENGTHS,
    STATES,
    is_pattern,
    text_configs,
)
from interlace_cli.families.feature_layers import FEATURE_LAYERS, VISION_FEATURES
from interlace_cli.families.stacks import COUNTS, Config, Stack, text_path
from interlace_cli.families.towers import VISION_WORDS, is_tower

LAYER_WORDS = {"layer", "layers", "block", "blocks"}
STEP_WORDS = {"interval", "period", "freq", "frequency", "step", "every", "pattern"}
INDEX_WORDS = {"idx", "idxs", "index", "indices", "indexes"}
OTHER_WORDS = {"norm", "scale", "dropout", "mtp", "nextn", "time", "per", "each"}
"""With one of these a name speaks of something else: `layer_norm_type`, `num_nextn_predict_layers`, `time_step_rank`,
`hidden_size_per_layer_input`."""
BESIDE_WORDS = {*VISION_WORDS, "mm", "select", "feature", "audio", "speech", "img", "visual"}
"""With one of these a name speaks of a tower's layers: `mm_vision_select_layer`, `select_layer`."""
_READ = {
    *(*INDEX_LISTS, *ONE_BASED_INDEX_LISTS, *INDEX_DICTS, *COUNTS_FROM_THE_START, *LAST_INDICES, *COUNTS_FROM_THE_END),
    *(*PERIODS, *RUN_LENGTHS, "attn_layer_offset", "expert_layer_offset"),
    *("decoder_sparse_step", "cross_layer_interval", "n_layers_per_attn_res_block"),
    *("scale_attn_by_inverse_layer_idx", "kv_source_layers", *NOT_PER_LAYER, *VISION_FEATURES, *FEATURE_LAYERS),
    *STATES,
}
"""Fields that a rule of `edit.py`, `feature_layers.py` or `limits.py` reads."""


def check_general_rules(config: Config, stack: Stack, kept: Sequence[int], num_layers: int) -> None:
    """Raises UnsupportedModelError that names the first field which may depend on the layers and which no rule
    reads."""
    for path, value in iter_unread(config, stack, kept, num_layers):
        raise UnsupportedModelError(
            f"{config.get('model_type')} models are cut by general rules here, and none of them says what {path} ="
            f" {_shorten(value)} becomes when layers go.",
            "If it has nothing to do with the number of a layer, take it out of config.json, cut, and put it back.",
        )


def iter_unread(config: Config, stack: Stack, kept: Sequence[int], num_layers: int) -> Iterator[tuple[str, Any]]:
    """`(path with dots, value)` of each such field."""
    edited = [stack.describe_in(config)] if stack.name == "vision" or stack.is_half else text_configs(config)
    for path, owner in _iter_owners(config, stack):
        is_edited = any(owner is one for one in edited)
        for name, value in owner.items():
            if _is_unread(name, value, is_edited, stack.name == "vision", kept, num_layers):
                yield ".".join([*path, name]), value


def _iter_owners(config: Config, stack: Stack, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Config]]:
    """The objects that may speak of the stack's layers: not those of the other side of the model."""
    yield path, config
    for key, inner in config.items():
        own = (*path, key)
        if not isinstance(inner, dict) or key in INDEX_DICTS or key in ("auto_map", "quantization_config"):
            continue
        is_other = own == text_path(config) if stack.name == "vision" else is_tower(key)
        if not is_other:
            yield from _iter_owners(inner, stack, own)


def _is_unread(name: str, value: Any, is_edited: bool, is_vision: bool, kept: Sequence[int], num_layers: int) -> bool:
    words = set(name.lower().split("_"))
    if isinstance(value, bool) or value is None or words & OTHER_WORDS or "token" in name:
        return False
    speaks, is_step = bool(words & LAYER_WORDS), bool(words & STEP_WORDS)
    if name in COUNTS:
        return not is_edited and value == num_layers
    if name in _READ and (is_edited or name in NOT_PER_LAYER or isinstance(value, int)):
        return False
    if is_vision and not is_edited and words & BESIDE_WORDS and speaks:
        return not _stays(value, kept, num_layers)
    if words & BESIDE_WORDS:
        return False
    if isinstance(value, list):
        return _is_unread_list(value, is_edited, speaks or bool(words & INDEX_WORDS), num_layers)
    if isinstance(value, dict):
        return speaks and bool(value) and all(str(key).isdecimal() for key in value)
    if isinstance(value, int) and speaks:
        return not (value in (0, -1) or (value == 1 and is_step)) and value <= num_layers
    if isinstance(value, int) and is_step:
        return 1 < value <= num_layers
    return isinstance(value, str) and "pattern" in words and not (is_edited and is_pattern(name, value, num_layers))


def _is_unread_list(value: list[Any], is_edited: bool, speaks: bool, num_layers: int) -> bool:
    are_indices = bool(value) and all(type(one) is int and 0 <= one <= num_layers for one in value)
    if len(value) == num_layers:
        # It may be the list of all layers as well as an entry for each.
        is_range = are_indices and value == sorted(set(value))
        # Neither need a list of lists be per layer: sizes of pictures are such.
        is_doubtful = is_range or (not speaks and isinstance(value[0], (list, dict)))
        return is_doubtful if is_edited else speaks
    return speaks and are_indices


def _stays(value: Any, kept: Sequence[int], num_layers: int) -> bool:
    """Whether a place where features leave the tower, counted from the end, is the same after the cut."""
    if type(value) is not int or value >= 0:
        return False
    return set(range(num_layers + value, num_layers)) <= set(kept)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
