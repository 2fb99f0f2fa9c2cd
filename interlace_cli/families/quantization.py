"""Module names in a quantized checkpoint's settings: lists of modules that are not quantized, settings by module. A
drop renumbers the layers in these names. Pure functions over `config.json`, and files of such settings beside it.

Example: with layer 2 of 4 dropped, `modules_to_not_convert` ["model.layers.2.mlp", "model.layers.3.mlp", "lm_head"]
becomes ["model.layers.2.mlp", "lm_head"]: the name of layer 2 goes, that of layer 3 is renumbered.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.patterns import Layers, is_pattern, list_layers, renumber_pattern
from interlace_cli.families.stacks import Config
from interlace_cli.families.towers import is_tower

_FIELDS = ("quantization_config", "compression_config")
"""To add a config field with quantization settings, add it here."""
_OF_REGEXES = ("dynamic", "extra_config")
"""Settings by module of GPTQModel and AutoRound, whose keys are regular expressions without a mark, too."""


def edit_quantization(
    config: Config, tensors: Collection[str], prefix: str, is_vision: bool, numbering: Mapping[int, int]
) -> Config:
    """A copy of the config whose quantization settings name the layers under `prefix` by their new indices.

    `tensors` are the names on disk. `numbering` leads from old to new indices of the kept layers; names of dropped
    layers are removed. Patterns over layer numbers, such as `layers\\.[0-3]`, match the same modules afterwards. Raises
    UnsupportedModelError for one that cannot be read.
    """
    return Renumbering(tensors, prefix, is_vision, numbering).edit_config(config)


class Renumbering:
    """Renumbers names of one stack's layers. The names occur with and without the prefixes of wrapping classes
    (`model.language_model.layers.3`, `layers.3`), so only the last part of the layers' prefix (`layers`) has to match,
    and the side of the model (vision tower or not)."""

    def __init__(self, tensors: Collection[str], prefix: str, is_vision: bool, numbering: Mapping[int, int]) -> None:
        self.tensors, self.prefix, self.is_vision, self.numbering = tensors, prefix, is_vision, numbering
        self.word = re.escape(prefix.rpartition(".")[2])
        self.number = re.compile(rf"(?P<head>(?:.*?\W)??{self.word}\\?\.)(?P<number>\d+)(?P<rest>(?!\d).*)", re.DOTALL)
        self.plain = re.compile(rf"(?:\w+\.)*{self.word}\.\d+(?:\.\w+)*")

    @cached_property
    def layers(self) -> Layers:
        """Only where there is a pattern: some models have a hundred thousand modules."""
        return list_layers(self.tensors, self.prefix, self.is_vision, self.numbering)

    def edit_config(self, config: Config) -> Config:
        """Quantization settings with their patterns; plain names of the layers' modules wherever they stand."""
        edited: Config = self.walk(config, "config.json", False)
        return edited

    def walk(self, value: Any, field: str, with_patterns: bool = True) -> Any:
        """A copy of `value` (the settings at `field`) with every module name in keys and lists renumbered; names of
        dropped layers are left out."""
        if isinstance(value, dict):
            return {
                new: self.walk(item, f"{field}.{key}", with_patterns or key in _FIELDS)
                for key, item in value.items()
                for new in self.rename(key, field, with_patterns)
            }
        if isinstance(value, list):
            walked: list[Any] = []
            for item in value:
                if isinstance(item, str):
                    walked += self.rename(item, field, with_patterns)
                else:
                    walked.append(self.walk(item, field, with_patterns))
            return walked
        return copy.deepcopy(value)

    def rename(self, name: str, field: str, with_patterns: bool = True) -> list[str]:
        """The new name; none for the name of a dropped layer; the same name if it is not one of this stack's layers. A
        glob may become several."""
        if not with_patterns and not self.plain.fullmatch(name):
            return [name]
        match = self.number.fullmatch(name)
        if is_pattern(name) and not (match and self._is_simple(match)):
            renumbered = renumber_pattern(name, self.layers, field.rpartition(".")[2] in _OF_REGEXES)
            if renumbered is None:
                raise UnsupportedModelError(
                    f"{field} has the pattern {name!r}, which cannot be read.",
                    "Write it out, one name a layer, and prune again.",
                )
            return renumbered
        if match is None or is_tower(match["head"]) != self.is_vision:
            return [name]
        layer = int(match["number"])
        return [f"{match['head']}{self.numbering[layer]}{match['rest']}"] if layer in self.numbering else []

    def _is_simple(self, match: re.Match[str]) -> bool:
        """Whether a pattern speaks of one layer, by its number between dots, and of nothing else by a number."""
        head, rest = match["head"], match["rest"]
        is_bounded = rest == "" or rest.startswith((".", "\\.", "$"))
        return is_bounded and not re.search(r"[\d|()\[\]{}?]|\\d", head + rest)
