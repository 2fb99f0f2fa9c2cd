"""How a model's layers were called on one batch, so that they can be called again without the model's code around them.

That code is the same for all candidates of a search, and it waits for a GPU many times: position ids of pictures are
made on the host, masks are looked at before they are made, features of pictures are put in by boolean masks. It can be
left out between two layers where the second was given what the first returned, the very tensor, and behind the last
layer where only modules follow, each on what the one before it returned (a final norm).

Shape legend: B samples, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.families.modules import get_output

Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer: what it was given but for the hidden state, which is the first argument or has a `name`, and
    the device that this was on."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str | None
    device: torch.device

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The hidden state that the layer returns for `hidden`."""
        hidden = hidden.to(self.device, non_blocking=True)
        if self.name is None:
            return get_output(layer(hidden, *self.args, **self.kwargs))
        return get_output(layer(*self.args, **{**self.kwargs, self.name: hidden}))


def take_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall | None:
    """None for a call with objects that a layer may change, such as a cache of keys and values, or the dict in which
    Gemma 4's layers leave theirs for later ones."""
    name = None if args else "hidden_states" if "hidden_states" in kwargs else "hidden_state"
    rest = args[1:] if name is None else args
    others = {key: value for key, value in kwargs.items() if key != name}
    hidden = args[0] if name is None else kwargs[name]
    return LayerCall(rest, others, name, hidden.device) if _is_plain([rest, *others.values()]) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (Tensor, bool, int, float, str, torch.dtype, torch.device))


@dataclass(frozen=True)
class Tail:
    """What follows the last layer: `modules`, one after another, and a value of `kind` that holds what the last one
    returns as its first entry, and beside it `fields`."""

    modules: tuple[nn.Module, ...]
    kind: type
    name: str
    fields: dict[str, Any]

    def run(self, hidden: Tensor) -> Any:
        """What the module around the layers returns."""
        for module in self.modules:
            hidden = module(hidden)
        return self.kind(**{self.name: hidden, **self.fields})


def find_tail(last: Tensor, after: Sequence[tuple[nn.Module, Any, Any]], made: Any) -> Tail | None:
    """`last` left the last layer, `after` are the modules that ran behind it, each with its input and its output, and
    `made` was returned. None if there is more to it."""
    modules = []
    for module, given, output in after:
        if given is not last:
            return None
        modules.append(module)
        last = output
    if not isinstance(made, Mapping) or not made or next(iter(made.values())) is not last:
        return None
    name, *others = made
    fields = {key: made[key] for key in others}
    return Tail(tuple(modules), type(made), name, fields) if _is_plain([*fields.values()]) else None


@dataclass
class Calls:
    """The calls of the layers of one batch, in their order. Layers before `known` have been seen, called or skipped.
    `joined`: those that were given the very tensor that the one before them returned."""

    by_layer: dict[int, LayerCall | None] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    known: int = 0
    tail: Tail | None = None

    def add(self, index: int, call: LayerCall | None, is_joined: bool) -> None:
        """Adds a layer's call, if it is new."""
        if index >= self.known:
            self.by_layer[index], self.known = call, index + 1
            if is_joined:
                self.joined.add(index)

    def list_run(self, start: int, stop: int | None, layers: int) -> list[int] | None:
        """The layers that a run from `start` on calls, before `stop` or all; None where the model's own code has to
        run them."""
        end = layers if stop is None else stop
        called = [index for index in self.by_layer if index >= start]
        inside = [index for index in called if index < end]
        if self.known < end or (stop is None and self.tail is None) or any(self.by_layer[i] is None for i in inside):
            return None
        if end < layers:
            following = called[len(inside) : len(inside) + 1]
            if not following:
                return None
            # The hidden state in front of it is what is wanted.
            return inside if set((inside + following)[1:]) <= self.joined else None
        return inside if set(inside[1:]) <= self.joined else None


def move_tree(value: Any, move: Move, moved: dict[int, Any] | None = None) -> Any:
    """A copy of nested containers with every tensor moved, each once wherever it stands."""
    moved = {} if moved is None else moved
    if isinstance(value, Tensor):
        if id(value) not in moved:
            # With the tensor itself, so that its id stays its own.
            moved[id(value)] = (value, move(value))
        return moved[id(value)][1]
    if isinstance(value, LayerCall):
        return LayerCall(
            move_tree(value.args, move, moved), move_tree(value.kwargs, move, moved), value.name, value.device
        )
    if isinstance(value, Tail):
        return Tail(value.modules, value.kind, value.name, move_tree(value.fields, move, moved))
    if isinstance(value, Mapping):
        made: Any = copy(value)
        for key, one in value.items():
            made[key] = move_tree(one, move, moved)
        return made
    if isinstance(value, (list, tuple)):
        parts = [move_tree(one, move, moved) for one in value]
        return parts if isinstance(value, list) else type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
