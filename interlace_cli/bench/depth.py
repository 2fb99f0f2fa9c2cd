"""One model at two depths, so that the dense and the shorter model share their weights.

The first layers stay and the last are left out. Which layers are left out changes neither time nor memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from interlace_cli.families.modules import find_layers, find_prefix


class Depth:
    """Sets how many of its layers `model` uses: always the first ones. The others are kept, so any depth can be set."""

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
        """Makes the model use its first `count` layers. The config changes too: the cache is built from it."""
        setattr(self.parent, self.name, nn.ModuleList(self.layers[:count]))
        self.config.num_hidden_layers = count
        if isinstance(self.types, list):
            self.config.layer_types = self.types[:count]

    def count_bytes(self) -> int:
        """Bytes of the weights that the model uses at its present depth."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


def choose_tuned(kept: int, dropped: int, deepstack: int) -> Sequence[int]:
    """The positions of the tuned layers in a pruned model of `kept` layers: every second one, at most `dropped`.

    This is what triplets leave: one layer dropped, one tuned, one frozen. The first `deepstack` layers are never tuned.
    Example: kept 12, dropped 4, deepstack 2 -> 2, 4, 6, 8.
    """
    return list(range(deepstack, kept - 1, 2))[:dropped]
