"""Names of modules in a quantized checkpoint's config: lists of what is not quantized, settings by module. A drop
renumbers the layers in them. Pure functions over `config.json`."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.stacks import Config
from interlace_cli.families.tensors import is_tower

_FIELDS = ("quantization_config", "compression_config")


def edit_quantization(config: Config, prefix: str, is_vision: bool, numbering: Mapping[int, int]) -> Config:
    """A copy of the config in whose quantization settings the layers under `prefix` have their new numbers.

    Names of dropped layers go. Raises UnsupportedModelError for a pattern over layer numbers that cannot be followed.
    """
    edited = copy.deepcopy(config)
    for owner in (edited, *(value for value in edited.values() if isinstance(value, dict))):
        for field in _FIELDS:
            if isinstance(owner.get(field), dict):
                owner[field] = _Renumbering(prefix, is_vision, numbering).walk(owner[field], field)
    return edited


class _Renumbering:
    """Module names appear with and without the prefixes of wrapping classes, so the last part of the layers' own
    prefix (`layers`) decides, and which side of the model the name speaks of."""

    def __init__(self, prefix: str, is_vision: bool, numbering: Mapping[int, int]) -> None:
        self.is_vision, self.numbering = is_vision, numbering
        self.word = prefix.rpartition(".")[2]
        self.number = re.compile(rf"(?P<head>(?:.*?\W)??{self.word}\\?\.)(?P<number>\d+)(?P<rest>(?!\d).*)", re.DOTALL)
        self.pattern = re.compile(rf"{self.word}\\?\.[\[(\\.+*]")

    def walk(self, value: Any, field: str) -> Any:
        """The value with every module name in it renumbered; names of dropped layers are left out."""
        if isinstance(value, dict):
            renamed = {self.rename(key, field): self.walk(item, f"{field}.{key}") for key, item in value.items()}
            return {key: item for key, item in renamed.items() if key is not None}
        if isinstance(value, list):
            walked = [self.rename(item, field) if isinstance(item, str) else self.walk(item, field) for item in value]
            return [item for old, item in zip(value, walked, strict=True) if item is not None or old is None]
        return value

    def rename(self, name: str, field: str) -> str | None:
        """The new name, or None for one of a dropped layer."""
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
        """A regular expression that tells layers apart by number: digits in a class or a choice behind the word."""
        if re.search(r"\\\.\d+\\\.", name):
            return True
        if is_tower(name) != self.is_vision or not self.pattern.search(name):
            return False
        behind = self.pattern.split(name, maxsplit=1)[1]
        return re.match(r"[^.]*[0-9]", behind.replace("0-9", "")) is not None
