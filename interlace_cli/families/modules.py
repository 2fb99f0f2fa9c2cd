"""The layers of a model in memory: finding the list of them, and running the model with some of them bypassed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from interlace_cli.domain.layers import kept_layers
from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.stacks import LANGUAGE, find_stack
from interlace_cli.families.tensors import CROSS_ATTENTION, build_side_modules, find_layer_prefix


def find_layers(model: nn.Module, stack_name: str = LANGUAGE) -> nn.ModuleList:
    """The `nn.ModuleList` of a stack's layers, found by the rule that also finds their tensors in a checkpoint
    (`tensors.find_layer_prefix`): the list that has as many modules as the config says, on the right side of the model.

    Raises UnsupportedModelError if the model has no such list.
    """
    owner: Any = model
    stack = find_stack(owner.config.to_dict(), stack_name)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    sizes = {
        f"{name}.{number}.weight": sum(count_elements(parameter) for parameter in layer.parameters())
        for name, layers in lists.items()
        for number, layer in enumerate(layers)
    }
    prefix = find_layer_prefix(sizes, stack, stack.num_layers) if stack.num_layers else None
    if prefix is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no list of {stack.num_layers} {stack.name} layers.",
            "This architecture cannot be cut.",
        )
    return lists[prefix]


def count_elements(parameter: torch.Tensor) -> int:
    """Of the whole parameter, also where DeepSpeed has divided it between processes."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def find_prefix(model: nn.Module, layers: nn.ModuleList) -> str:
    """The name of the list `layers` inside the model, such as `model.language_model.layers`."""
    return next(name for name, module in model.named_modules() if module is layers)


@contextmanager
def bypassed(model: nn.Module, drop: Sequence[int], stack_name: str = LANGUAGE) -> Iterator[None]:
    """Inside the context, the layers `drop` (dense indices) return their input unchanged, and their side modules add
    nothing. The pruned checkpoint has to compute exactly this. The layers still run, so it saves no time."""
    owner: Any = model
    layers = find_layers(model, stack_name)
    kept = kept_layers(drop, len(layers))
    stack = find_stack(owner.config.to_dict(), stack_name)
    side_modules = build_side_modules(owner.config.to_dict(), stack, kept, len(layers))
    handles = [layers[index].register_forward_hook(_pass_on, prepend=True, with_kwargs=True) for index in drop]
    for name, module in model.named_modules():
        numbering = next((side_modules[word] for word in side_modules if name.endswith(word)), None)
        if numbering is None or not isinstance(module, nn.ModuleList):
            continue
        for number, member in enumerate(module):
            if number not in numbering:
                hook = _pass_on if name.endswith(CROSS_ATTENTION) else _add_nothing
                handles.append(member.register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_entangled(model: nn.Module, stack_name: str = LANGUAGE) -> frozenset[int]:
    """Indices of the layers that have a side module: features that DeepStack adds, a group's cross-attention. As these
    are computed before the first layer, dropping such a layer changes more than what comes after it."""
    owner: Any = model
    layers = range(len(find_layers(model, stack_name)))
    stack = find_stack(owner.config.to_dict(), stack_name)
    side_modules = build_side_modules(owner.config.to_dict(), stack, layers, len(layers))
    found: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.endswith(tuple(side_modules)):
            found |= set(layers) if name.endswith(CROSS_ATTENTION) else set(range(len(module)))
    return frozenset(found)


def get_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden state [B, T, H] among the arguments of a layer's call. Raises UnsupportedModelError if there is
    none."""
    hidden = args[0] if args else kwargs.get("hidden_states", kwargs.get("hidden_state"))
    if not isinstance(hidden, torch.Tensor):
        raise UnsupportedModelError("the layers of this model do not say which of their inputs is the hidden state.")
    return hidden


def get_output(output: Any) -> torch.Tensor:
    """The hidden state that a layer has returned: alone, or as the first of several values."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def split_tokens(hidden: torch.Tensor, batch: int, tokens: int) -> torch.Tensor:
    """A layer's hidden state, of whatever shape, as [B, T, D]: everything that belongs to one token side by side. Some
    models hold several streams a token, [streams, B, T, H] (Gemma 3n) or [B, T, streams, H] (GLM-5 Next). Raises
    UnsupportedModelError where the axes of samples and tokens cannot be told."""
    if hidden.ndim == 3 and hidden.shape[:2] == (batch, tokens):
        return hidden
    axes = [axis for axis in range(hidden.ndim - 2) if hidden.shape[axis : axis + 2] == (batch, tokens)]
    if len(axes) != 1:
        raise UnsupportedModelError(
            f"the layers of this model pass on a hidden state of the shape {tuple(hidden.shape)}, in which {batch}"
            f" samples of {tokens} tokens cannot be told."
        )
    return hidden.movedim((axes[0], axes[0] + 1), (0, 1)).reshape(batch, tokens, -1)


def _pass_on(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    del layer
    # Where the layer is on another device than the one before it.
    hidden = get_hidden(args, kwargs).to(get_output(output).device)
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _add_nothing(merger: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Zeros instead of the features that DeepStack would add."""
    del merger, args, kwargs
    return torch.zeros_like(output)


def find_image_token(model: nn.Module) -> int | None:
    """The id of the token that stands for an image feature in `input_ids`; None if the config names none."""
    config: Any = model.config
    for field in ("image_token_id", "image_token_index"):
        token = getattr(config, field, None)
        if isinstance(token, int):
            return token
    return None
