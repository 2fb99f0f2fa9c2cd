"""The decoder layers of a model in memory, found through transformers' own interfaces."""

from __future__ import annotations

from typing import Any

from torch import nn

from interlace_cli.errors import UnsupportedModelError


def find_decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The language model's list of layers: under `get_decoder()`, the list with `num_hidden_layers` members.

    Raises UnsupportedModelError where there is none.
    """
    owner: Any = model
    count = owner.config.get_text_config(decoder=True).num_hidden_layers
    lists = [m for m in owner.get_decoder().modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        name = type(model).__name__
        raise UnsupportedModelError(
            f"{name} has no list of {count} decoder layers.", "This architecture cannot be cut."
        )
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def find_image_token(model: nn.Module) -> int | None:
    """The id of the token that stands for an image feature."""
    config: Any = model.config
    for field in ("image_token_id", "image_token_index"):
        token = getattr(config, field, None)
        if isinstance(token, int):
            return token
    return None
