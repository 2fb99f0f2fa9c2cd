"""Module names in a quantized checkpoint's config: lists of modules that are not quantized, settings by module. A drop
renumbers the layers in these names. Pure functions over `config.json`.

Example: with layer 2 of 4 dropped, `modules_to_not_convert` ["model.layers.2.mlp", "model.layers.3.mlp", "lm_head"]
becomes ["model.layers.2.mlp", "lm_head"]: the name of layer 2 goes, that of layer 3 is renumbered.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.stacks import Config
from interlace_cli.families.towers import is_tower

_FIELDS = ("quantization_config", "compression_config")
"""To add a config field with quantization settings, add it here."""


def edit_quantization(config: Config, prefix: str, is_vision: bool, numbering: Mapping[int, int]) -> Config:
    """A copy of the config whose quantization settings name the layers under `prefix` by their new indices.

    `numbering` leads from old to new indices of the kept layers; names of dropped layers are removed. Raises
    UnsupportedModelError for a regular expression over layer numbers, such as `layers\\.[0-3]`, which cannot be
    renumbered.
    """
    edited = copy.deepcopy(config)
    for owner in (edited, *(value for value in edited.values() if isinstance(value, dict))):
        for field in _FIELDS:
            if isinstance(owner.get(field), dict):
                owner[field] = _Renumbering(prefix, is_vision, numbering).walk(owner[field], field)
    return edited


class _Renumbering:
    """Renumbers names of one stack's layers. The names occur with and without the prefixes of wrapping classes
    (`model.language_model.layers.3`, `layers.3`), so only the last part of the layers' prefix (`layers`) has to match,
    and the side of the model (vision tower or not)."""

    def __init__(self, prefix: str, is_vision: bool, numbering: Mapping[int, int]) -> None:
        self.is_vision, self.numbering = is_vision, numbering
        self.word = prefix.rpartition(".")[2]
        self.number = re.compile(rf"(?P<head>(?:.*?\W)??{self.word}\\?\.)(?P<number>\d+)(?P<rest>(?!\d).*)", re.DOTALL)
        self.pattern = re.compile(rf"{self.word}\\?\.[\[(\\.+*]")

    def walk(self, value: Any, field: str) -> Any:
        """A copy of `value` (the settings at `field`) with every module name in keys and lists renumbered; names of
        dropped layers are left out."""
        if isinstance(value, dict):
            renamed = {self.rename(key, field): self.walk(item, f"{field}.{key}") for key, item in value.items()}
            return {key: item for key, item in renamed.items() if key is not None}
        if isinstance(value, list):
            walked = [self.rename(item, field) if isinstance(item, str) else self.walk(item, field) for item in value]
            return [item for old, item in zip(value, walked, strict=True) if item is not None or old is None]
        return value

    def rename(self, name: str, field: str) -> str | None:
        """The new name; None for the name of a dropped layer; the same name if it is not one of this stack's layers."""
        match = self.number.fullmatch(name)
        if match is None or is_tower(match["head"]) != self.is_vision:
            if match is None and self._is_numeric_pattern(name):
                raise UnsupportedModelError(
                    f"config.json has the pattern {name!r} over layer numbers in {field}.",
                    "Write it out, one name a layer, and prune again.",
                )
            return name
        layer = int(match["number"])
        if layer not in self.numbering:
            return None
        return f"{match['head']}{self.numbering[layer]}{match['rest']}"

    def _is_numeric_pattern(self, name: str) -> bool:
        """Whether the name is a regular expression that selects layers by number: digits in a class or a choice after
        `layers.`. One that takes any number, `layers\\.[0-9]+`, needs no renumbering."""
        if re.search(r"\\\.\d+\\\.", name):
            return True
        if is_tower(name) != self.is_vision or not self.pattern.search(name):
            return False
        behind = self.pattern.split(name, maxsplit=1)[1]
        return re.match(r"[^.]*[0-9]", behind.replace("0-9", "")) is not None
