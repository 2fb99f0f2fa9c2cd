"""Models that accelerate has dispatched: their layers are on several devices, and weights that no GPU holds are
offloaded to the host's memory or the disk.

accelerate's hooks bring the inputs of each module to its device. Offloaded weights come to the first GPU (to the CPU
where there is none) while their module computes, and are on `meta` at all other times. `model.device`, that of the
first parameter, is then `meta`, or the device of some layers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from interlace_cli.runtime.borrowing import opened

if TYPE_CHECKING:
    import torch
    from torch import nn

DISK = "disk"
_OFFLOADS = ("cpu", DISK)


HOST_INPUTS = ("logits_to_keep",)
"""Indices into the last hidden states, which a GPU takes from itself or from the host, not from another GPU."""


def keep_on_host(model: Any) -> None:
    """Lets HOST_INPUTS of a dispatched model pass where they are; accelerate's hook would bring them to the first
    GPU."""
    for hook in _list_hooks(model):
        known = hook.skip_keys or ()
        hook.skip_keys = [*([known] if isinstance(known, str) else known), *HOST_INPUTS]


def is_dispatched(model: Any) -> bool:
    """Whether accelerate's hooks move what the modules get."""
    return hasattr(model, "_hf_hook")


def find_input_device(model: Any) -> torch.device:
    """Where the model takes its inputs, and returns its outputs."""
    if not is_dispatched(model):
        found: torch.device = model.device
        return found
    return _to_device(next(hook.execution_device for hook in _list_hooks(model)))


def find_devices(model: Any) -> list[torch.device]:
    """The devices that compute."""
    if not is_dispatched(model):
        return [model.device]
    first = find_input_device(model)
    others = {_to_device(device) for device in model.hf_device_map.values() if device not in _OFFLOADS}
    return [first, *sorted(others - {first}, key=str)]


def find_offloaded(model: Any) -> list[str]:
    """Where weights are that come to a device only while they are used: `CPU`, `disk`, both or none."""
    if not is_dispatched(model):
        return []
    computes_on = find_input_device(model).type
    there = set(model.hf_device_map.values())
    return [place.replace("cpu", "CPU") for place in _OFFLOADS if place in there and place != computes_on]


@contextmanager
def loaded(module: nn.Module, is_changed: bool = False) -> Iterator[None]:
    """Inside the context the weights of the module are there, also offloaded ones, and those that are divided between
    processes; do not run it meanwhile. With `is_changed` they go back as they are at the end, changed weights of the
    disk to the host's memory."""
    parts = [part for part in module.modules() if any(hook.offload for hook in _list_hooks(part))]
    for part in parts:
        _find_hook(part).pre_forward(part)
    try:
        with opened(module, is_changed):
            yield
    finally:
        for part in parts:
            if is_changed:
                _write_back(part)
            _find_hook(part).post_forward(part, None)


def _write_back(part: nn.Module) -> None:
    for hook in _list_hooks(part):
        if hook.offload:
            for name, parameter in part.named_parameters(recurse=hook.place_submodules):
                weights, key = hook.weights_map, name
                if hasattr(weights, "prefix"):
                    weights, key = weights.dataset, f"{weights.prefix}{name}"
                # What the loader holds goes before its files.
                getattr(weights, "state_dict", weights)[key] = parameter.detach().to("cpu")


def _find_hook(module: nn.Module) -> Any:
    return getattr(module, "_hf_hook", None)


def _list_hooks(module: nn.Module) -> list[Any]:
    hook = _find_hook(module)
    return [one for one in getattr(hook, "hooks", [hook]) if hasattr(one, "execution_device")]


def _to_device(name: Any) -> torch.device:
    """A GPU's number, or a name."""
    import torch

    return torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
