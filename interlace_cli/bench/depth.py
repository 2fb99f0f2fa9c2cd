"""One model at two depths: what serves dense and shortened shares its weights, which of the layers are left out
changing neither time nor memory of a forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from interlace_cli.families.modules import find_layers, find_prefix


class Depth:
    """Sets how many of the first layers `model` has; the others are kept for later."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = list(find_layers(model))
        parent, _, self.name = find_prefix(model, find_layers(model)).rpartition(".")
        self.parent = model.get_submodule(parent)
        self.config = model.config.get_text_config()
        self.types = getattr(self.config, "layer_types", None)

    @property
    def kept(self) -> int:
        """Layers left when a quarter is dropped."""
        return len(self.layers) - len(self.layers) // 4

    def use(self, count: int) -> None:
        """The first `count` layers; a cache is made by what the config says."""
        setattr(self.parent, self.name, nn.ModuleList(self.layers[:count]))
        self.config.num_hidden_layers = count
        if isinstance(self.types, list):
            self.config.layer_types = self.types[:count]

    def count_bytes(self) -> int:
        """Of the weights that are in use."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


def choose_tuned(kept: int, dropped: int, deepstack: int) -> Sequence[int]:
    """As many positions as layers were dropped: the first of each kept two of a triplet, from behind DeepStack's on."""
    return list(range(deepstack, kept - 1, 2))[:dropped]
