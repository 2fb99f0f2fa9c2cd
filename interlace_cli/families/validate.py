"""Checks that the config fields which this package reads have the types that it expects. Pure, over `config.json`.

Fields that no rule of this package reads are not checked: transformers does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from interlace_cli.errors import CheckpointError
from interlace_cli.families.edit import INDEX_DICTS, INDEX_LISTS, ONE_BASED_INDEX_LISTS
from interlace_cli.families.feature_layers import FEATURE_LAYERS, VISION_FEATURES
from interlace_cli.families.stacks import COUNTS, DECODER_COUNTS, ENCODER_COUNTS, Config

MOST_LAYERS = 4096
"""The largest number of layers that a config may claim."""
MOST_DEPTH = 48
"""The deepest nesting of objects and lists that is read."""
_COUNTED = {*COUNTS, *DECODER_COUNTS, *ENCODER_COUNTS}
_NAMES = ("layer_types", "layers_block_type", "indexer_types")
_INDICES = (*INDEX_LISTS, *ONE_BASED_INDEX_LISTS, *VISION_FEATURES, "kv_source_layers", "spatial_target_layers")


def check_fields(config: Config, source: str) -> None:
    """Raises CheckpointError for the first field of the wrong type. Its message names `source` (the file), the field,
    its value, and what it has to be."""
    for path, name, value in _walk(config, "", 0):
        if value is None:
            continue
        for names, is_right, wanted in _RULES:
            if name in names and not is_right(value):
                raise CheckpointError(f"{source}: {path} is {_shorten(value)}, and has to be {wanted}.", _FIX)
        if path == "" and name == "depth":
            raise CheckpointError(f"{source} has more than {MOST_DEPTH} objects in each other.", _FIX)


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    """`(path, name, value)` of every field of every object, outermost first. A depth above MOST_DEPTH is yielded as a
    field `depth` with an empty path."""
    if depth > MOST_DEPTH:
        yield "", "depth", depth
    elif isinstance(value, dict):
        for name, inner in value.items():
            where = f"{path}.{name}" if path else name
            yield where, name, inner
            yield from _walk(inner, where, depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{number}]", depth + 1)


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _are_integers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_integer, value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_count(value: Any) -> bool:
    """Whether this is a number of layers in range. A field of such a name that holds no number (a ResNet's list of
    blocks) counts something else, and passes."""
    return not _is_integer(value) or 0 <= value <= MOST_LAYERS


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(_are_integers(pair) and len(pair) == 2 for pair in value)


def _is_by_layer(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isascii() and key.isdecimal() for key in value)


def _is_index_or_indices(value: Any) -> bool:
    return _is_integer(value) or _are_integers(value)


def _is_positive(value: Any) -> bool:
    return _is_integer(value) and value > 0


def _is_amount(value: Any) -> bool:
    return _is_integer(value) and 0 <= value <= MOST_LAYERS


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_FIX = "Fetch the file again."
Rule = tuple[tuple[str, ...] | set[str], Callable[[Any], bool], str]
"""Names of fields, whether a value is right for them, and the end of the error message "... has to be"."""
_RULES: tuple[Rule, ...] = (
    (_COUNTED, _is_count, f"a number of layers from 0 to {MOST_LAYERS}"),
    (("num_nextn_predict_layers",), _is_amount, f"a number of layers from 0 to {MOST_LAYERS}"),
    (("cross_layer_interval",), _is_positive, "a number of layers"),
    (_NAMES, _are_names, "a list of texts"),
    (_INDICES, _are_integers, "a list of whole numbers"),
    (("deepstack_layer_map",), _are_pairs, "a list of pairs of whole numbers"),
    (FEATURE_LAYERS, _is_index_or_indices, "a whole number, or a list of such"),
    (INDEX_DICTS, _is_by_layer, "an object with a number of a layer for each key"),
)
