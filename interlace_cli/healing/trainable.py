"""Which parameters train: exactly those of the tuned layers. Checked before the first step; `hash_frozen` proves
afterwards that the others have not changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from interlace_cli.errors import TrainableSetError, UnsupportedModelError
from interlace_cli.healing.offload import keep_masters
from interlace_cli.healing.tensor_files import view_bytes
from interlace_cli.healing.whole import fetch
from interlace_cli.runtime.divided import is_divided, is_partitioned


def apply_trainable_set(
    model: nn.Module, layers: nn.ModuleList, positions: Sequence[int], has_masters: bool = False
) -> None:
    """Freezes all parameters but those of `layers[positions]`. They become float32, as the optimizer's master weights;
    with `has_masters` these lie on the host, and the matrices keep their dtype. In place."""
    model.requires_grad_(False)
    for position in positions:
        layer = layers[position]
        if has_masters:
            keep_masters(layer)
        # DeepSpeed makes master weights of its own of those that it has divided.
        elif not any(map(is_partitioned, layer.parameters())):
            layer.float()
        layer.requires_grad_(True)


def apply_checkpointing(model: nn.Module, layers: nn.ModuleList, positions: Sequence[int]) -> None:
    """Switches on gradient checkpointing from the first tuned layer on: only each layer's input is kept, the rest is
    computed again in the backward pass. `positions` are those of the tuned layers.

    transformers' own switch is not used: it makes the embeddings require gradients, so that every layer below the first
    tuned one would be kept and computed again for nothing. Raises UnsupportedModelError if the layers do not support
    it.
    """
    frozen = {id(layer) for layer in layers[: min(positions)]}
    if not can_checkpoint(model, layers):
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot compute its layers again in the backward pass.",
            "Leave out --gradient-checkpointing.",
        )
    for module in (module for module in _find_checkpointed(model) if id(module) not in frozen):
        module.gradient_checkpointing = True
        module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def can_checkpoint(model: nn.Module, layers: nn.ModuleList) -> bool:
    """Whether all layers can be computed again in the backward pass."""
    return {id(layer) for layer in layers} <= {id(module) for module in _find_checkpointed(model)}


def _find_checkpointed(model: nn.Module) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def check_trainable_set(model: nn.Module, layers: nn.ModuleList, positions: Sequence[int]) -> None:
    """Raises TrainableSetError unless the parameters that require gradients are exactly those of `layers[positions]`,
    and at least one. Catches a tied head or embedding, and a layer that was left out."""
    wanted = {id(parameter) for position in positions for parameter in layers[position].parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (id(parameter) in wanted):
            state = "trains and should not" if parameter.requires_grad else "should train and does not"
            raise TrainableSetError(f"parameter {name} {state}.", "This is a fault of interlace; please report it.")
    if not wanted:
        raise TrainableSetError("no layer is to be tuned.", "Give a plan with tuned layers, or --tune-layers.")


def hash_frozen(model: nn.Module) -> str:
    """sha256, in hex, over the names and bytes of all parameters and buffers that do not train. If the engine shards
    them, all processes have to call it together, and the first alone knows it: the others hash nothing of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if not tensor.requires_grad:
            whole = fetch(tensor) if is_divided(tensor) else tensor
            digest.update(name.encode())
            if whole is not None:
                digest.update(view_bytes(whole))
    return digest.hexdigest()


def to_bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's raw bytes, as safetensors stores them."""
    return bytes(view_bytes(tensor))
