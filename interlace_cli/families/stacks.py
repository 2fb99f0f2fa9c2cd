"""The stacks of layers that a model has, and where its config describes each. Pure functions over `config.json`.

A stack is one list of layers that can be pruned: the language model's, the vision tower's, an encoder's. The config
describes it in one object (`text_config`, `vision_config`, ...), one field of which is the number of layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from interlace_cli.errors import UnsupportedModelError, UsageError
from interlace_cli.families.towers import LANGUAGE_WORDS, VISION_WORDS, is_tower, split_words

Config = dict[str, Any]

LANGUAGE = "language"
STACKS = (LANGUAGE, "vision", "text", "decoder", "encoder")
"""What `--stack` takes."""
COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "layers", "depth")
"""Names of the field that holds the number of layers. To add such a config field of an architecture, add it here. If
one object describes both an encoder and a decoder, DECODER_COUNTS and ENCODER_COUNTS are used instead (BART's
`num_hidden_layers` is the encoder's)."""
DECODER_COUNTS = ("num_decoder_layers", "decoder_layers")
ENCODER_COUNTS = ("encoder_layers", "num_layers")
MOST_KEYS = 3
"""How deep in the config an object that describes a stack may lie."""


@dataclass(frozen=True)
class Stack:
    """Where the config describes a stack. `path`: keys from the whole config to the object that describes it.
    `count_field`: the field of that object that holds the number of layers, and `num_layers` its value; both are None
    if config.json leaves the number to transformers' config class. `is_half`: whether the stack is the encoder or the
    decoder of an encoder-decoder model."""

    name: str
    path: tuple[str, ...]
    count_field: str | None
    num_layers: int | None
    is_half: bool = False

    def describe_in(self, config: Config) -> Config:
        """The object inside `config` that describes the stack (no copy)."""
        for key in self.path:
            config = config[key]
        return config


def find_stack(config: Config, name: str = LANGUAGE) -> Stack:
    """The stack called `name`. Raises UsageError if `name` is not in STACKS, and UnsupportedModelError, which lists the
    model's stacks, if the model has no such stack."""
    if name not in _FINDERS:
        raise UsageError(f"--stack does not take {name!r}.", f"It takes {', '.join(STACKS)}.")
    stack = _FINDERS[name](config)
    if stack is None:
        there = [other for other in STACKS if _FINDERS[other](config) is not None]
        raise UnsupportedModelError(
            f"a {config.get('model_type')} model has no {name} stack that could be cut.",
            f"Its stacks are {', '.join(there)}." if there else "",
        )
    return stack


def text_path(config: Config) -> tuple[str, ...]:
    """Keys from the config to the object that describes the language model: `text_config`, `decoder`, another one that
    is called after it and holds a layer count (`llm_config`, `language_config`, `thinker_config.text_config`), or none
    if the config itself describes it."""
    for key in ("text_config", "decoder"):
        if isinstance(config.get(key), dict):
            return (key,)
    paths = [path for path, inner in _iter_objects(config) if _has_count(inner) and not is_tower(".".join(path))]
    named = [path for path in paths if LANGUAGE_WORDS & split_words(".".join(path))]
    # A config of several parts may repeat the count of the part inside.
    innermost = [path for path in named if not any(other[: len(path)] == path for other in named if other != path)]
    return innermost[0] if len(innermost) == 1 else ()


def vision_path(config: Config) -> tuple[str, ...] | None:
    """The same for the vision tower: `vision_config`, or the one object that is called after it; None if there is
    none."""
    if isinstance(config.get("vision_config"), dict):
        return ("vision_config",)
    named = [path for path, _ in _iter_objects(config) if VISION_WORDS & split_words(path[-1])]
    outer = [path for path in named if not is_tower(".".join(path[:-1]))]
    counted = [path for path in outer if path[-1] == "vision_config" or _has_count(_get(config, path))]
    return counted[0] if len(counted) == 1 else None


def _iter_objects(config: Config, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Config]]:
    """`(path, object)` of every object inside the config, MOST_KEYS deep."""
    for key, inner in config.items():
        if isinstance(inner, dict) and len(path) < MOST_KEYS:
            yield (*path, key), inner
            yield from _iter_objects(inner, (*path, key))


def _has_count(inner: Config) -> bool:
    return any(isinstance(inner.get(field), int) for field in COUNTS)


def _find_language(config: Config) -> Stack | None:
    path = text_path(config)
    return _find_decoder(config) or _build("language", config, path, COUNTS)


def _find_text(config: Config) -> Stack | None:
    """The text side of a model under the name `text`: its language model, or the text tower of a CLIP."""
    found = _find_language(config)
    return Stack("text", found.path, found.count_field, found.num_layers, found.is_half) if found else None


def _find_decoder(config: Config) -> Stack | None:
    path = text_path(config)
    inner = _get(config, path)
    if any(isinstance(inner.get(field), int) for field in DECODER_COUNTS):
        return _build("decoder", config, path, DECODER_COUNTS, is_half=True)
    if path == ("decoder",):
        return _build("decoder", config, path, COUNTS, is_half=True)
    return None


def _find_encoder(config: Config) -> Stack | None:
    path = text_path(config)
    inner = _get(config, path)
    if any(isinstance(inner.get(field), int) for field in DECODER_COUNTS):
        return _build("encoder", config, path, ENCODER_COUNTS, is_half=True)
    encoder = config.get("encoder")
    if isinstance(encoder, dict):
        nested = ("encoder", "text_config") if isinstance(encoder.get("text_config"), dict) else ("encoder",)
        return _build("encoder", config, nested, COUNTS, is_half=True)
    return None


def _find_vision(config: Config) -> Stack | None:
    path = vision_path(config)
    if path is None:
        return None
    found = _build("vision", config, path, COUNTS)
    return found if found.num_layers else None


def _build(name: str, config: Config, path: tuple[str, ...], counts: tuple[str, ...], is_half: bool = False) -> Stack:
    inner = _get(config, path)
    field = next((field for field in counts if isinstance(inner.get(field), int)), None)
    if field is not None:
        return Stack(name, path, field, inner[field], is_half)
    # Nemotron-H counts by its list of blocks alone, or by a text with a letter for each.
    blocks = inner.get("layers_block_type")
    if not isinstance(blocks, list):
        patterns = [value for name, value in inner.items() if is_pattern_field(name, value)]
        blocks = patterns[0] if len(patterns) == 1 else None
    return Stack(name, path, None, len(blocks) if blocks else None, is_half)


def is_pattern_field(field: str, value: Any) -> bool:
    """Whether a field may hold a text with one letter per layer: it is called a pattern, or speaks of layers or blocks
    in capitals and signs. That of the layers for multi-token prediction counts others."""
    if not isinstance(value, str) or field.startswith("mtp"):
        return False
    return "pattern" in field or (
        ("layer" in field or "block" in field) and re.fullmatch(r"[A-Z*+|.-]+", value) is not None
    )


def _get(config: Config, path: tuple[str, ...]) -> Config:
    for key in path:
        config = config[key]
    return config


_FINDERS = {
    "language": _find_language,
    "vision": _find_vision,
    "text": _find_text,
    "decoder": _find_decoder,
    "encoder": _find_encoder,
}
