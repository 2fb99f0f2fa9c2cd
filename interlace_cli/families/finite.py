"""Where a model computes NaN or infinity: the first layer that does, and what to do about it.

It is looked for only once a result is not finite, by one more forward.

Shape legend: B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.errors import NotFiniteError, UnsupportedModelError
from interlace_cli.families.modules import get_hidden, get_output, split_tokens
from interlace_cli.runtime.dispatch import find_input_device

BEFORE = -1
"""Stands for what enters the first layer."""


def explain_not_finite(
    model: nn.Module,
    layers: Sequence[nn.Module] | nn.ModuleList,
    inputs: Mapping[str, Any],
    what: str,
) -> NotFiniteError:
    """The error for `what` ("the loss") being no finite number on `inputs`."""
    owner: Any = model
    kind = find_input_device(owner).type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else owner.dtype
    name = str(dtype).removeprefix("torch.")
    first = find_first_not_finite(model, layers, inputs)
    if first is None:
        where = "the hidden states are finite, and what the model makes of the last one is not"
    elif first == BEFORE:
        where = "what enters the first layer is not finite already"
    else:
        where = f"layer {first} is the first whose output is not finite"
    return NotFiniteError(
        f"{what} of {type(model).__name__} is NaN or infinite in {name}: {where}.", advise_dtype(name)
    )


def advise_dtype(dtype: str) -> str:
    """What to do about NaN and infinity in a dtype."""
    if dtype == "float16":
        return "float16 ends at 65504: add --dtype bfloat16, or float32."
    if dtype == "bfloat16":
        return "Try --dtype float32; if that does not help, the weights are damaged."
    return "Its weights may be damaged: fetch or merge them again."


@torch.no_grad()
def find_first_not_finite(
    model: nn.Module, layers: Sequence[nn.Module] | nn.ModuleList, inputs: Mapping[str, Any]
) -> int | None:
    """The first layer whose output has NaN or infinity at a token that is none of padding; BEFORE if the first layer's
    input has; None if all are finite."""
    found: list[int] = []
    mask_BT = inputs.get("attention_mask")

    def is_broken(hidden: Tensor) -> bool:
        if mask_BT is not None and mask_BT.ndim == 2:
            # The tokens of a vision tower are not the prompt's.
            with suppress(UnsupportedModelError):
                hidden = split_tokens(hidden, *mask_BT.shape)[mask_BT.to(hidden.device).bool()]
        return not bool(torch.isfinite(hidden).all())

    def on_input(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del layer
        if not found and is_broken(get_hidden(args, kwargs)):
            found.append(BEFORE)

    def on_output(index: int) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            del layer, args
            if not found and is_broken(get_output(output)):
                found.append(index)

        return hook

    handles = [layer.register_forward_hook(on_output(index)) for index, layer in enumerate(layers)]
    handles.append(layers[0].register_forward_pre_hook(on_input, with_kwargs=True))
    try:
        model(**{**inputs, "use_cache": False})
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
