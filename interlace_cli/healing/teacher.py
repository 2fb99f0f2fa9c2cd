"""The dense model as the teacher, without the memory of a second model: it shares every frozen tensor with the student.
Only the dropped layers and the original copies of the tuned ones are its own.

Shape legend: B samples in a row, N token positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.families.modules import get_hidden
from interlace_cli.families.replay import Stop


def share_frozen(student: nn.Module, teacher: nn.Module, rename: Mapping[str, str]) -> int:
    """Replaces the teacher's tensors by the student's frozen ones wherever both are equal bit for bit. `rename` leads
    from the prefix of a student's layer to that of the same layer in the teacher (`model.layers.2.` ->
    `model.layers.3.`). Returns the bytes that the teacher still holds alone."""
    own = dict(teacher.named_parameters(remove_duplicate=False)) | dict(teacher.named_buffers(remove_duplicate=False))
    shared: set[int] = set()
    kinds = (
        ("_parameters", student.named_parameters(remove_duplicate=False)),
        ("_buffers", student.named_buffers(remove_duplicate=False)),
    )
    for kind, named in kinds:
        for name, tensor in named:
            there = _rename(name, rename)
            if tensor.requires_grad or there not in own or not _is_same(tensor, own[there]):
                continue
            path, _, last = there.rpartition(".")
            getattr(teacher.get_submodule(path), kind)[last] = tensor
            shared.add(id(tensor))
    rest = {id(tensor): tensor for tensor in teacher.parameters() if id(tensor) not in shared}
    return sum(tensor.nbytes for tensor in rest.values())


def _rename(name: str, rename: Mapping[str, str]) -> str:
    before = next((prefix for prefix in rename if name.startswith(prefix)), None)
    return name if before is None else rename[before] + name[len(before) :]


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.to(a.device))


@dataclass(frozen=True)
class Call:
    """How a layer was called: `hidden` is the hidden state [B, N, H] among its arguments `args` and `kwargs`."""

    hidden: Tensor
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def capture_inputs(
    layers: Sequence[nn.Module],
    indices: Sequence[int],
    stop: bool = False,
    keep: Callable[[int, Call], Call] = lambda index, call: call,
) -> Iterator[dict[int, Call]]:
    """Hooks that capture how the layers `indices` are called in the next forward. Yields a dict that the forward fills:
    index -> call. The index `len(layers)` stands for the output of the last layer. With `stop`, the forward ends by
    raising Stop as soon as all calls are captured. What `keep` makes of a call is kept of it."""
    found: dict[int, Call] = {}
    handles = []

    def end() -> None:
        if stop and len(found) == len(set(indices)):
            raise Stop

    def enter(index: int) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del layer
            # Gradient checkpointing runs a layer twice; the first call counts.
            if index not in found:
                found[index] = keep(index, Call(get_hidden(args, kwargs), args, kwargs))
            end()

        return hook

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        del layer, args
        if len(layers) not in found:
            found[len(layers)] = keep(len(layers), Call(output[0] if isinstance(output, tuple) else output))
        end()

    for index in indices:
        if index == len(layers):
            handles.append(layers[-1].register_forward_hook(leave))
        else:
            handles.append(layers[index].register_forward_pre_hook(enter(index), with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
