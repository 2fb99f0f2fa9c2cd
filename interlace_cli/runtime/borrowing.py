"""Modules whose weights are whole only while they run: before, they are gathered from the processes that hold their
parts (`lending.py`), and afterwards given up. What is gathered at a time is a unit, a layer mostly."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

from interlace_cli.runtime.lending import Lending, Part, Units

if TYPE_CHECKING:
    from torch import Tensor, nn

BORROWED = "_interlace_borrowed"
"""Attribute of a module with divided weights of its own: the units that they are in."""


@dataclass(eq=False)
class Unit:
    """Divided parameters that are gathered together. `slots[i]`: the modules, with the name there, that have the i-th;
    a tied one is in several."""

    lending: Lending
    slots: list[list[tuple[nn.Module, str]]] = field(default_factory=list)
    model: int = 0
    number: int = 0
    depth: int = 0
    divided: list[Tensor] = field(default_factory=list)

    @contextmanager
    def opened(self, is_changed: bool = False) -> Iterator[None]:
        """Inside the context its modules have whole weights; with `is_changed` all processes take their rows of them
        at the end."""
        if not self.depth:
            self._fill(self.lending.gather(self.model, self.number))
        self.depth += 1
        try:
            yield
            if is_changed:
                held = [module._parameters[name] for module, name in (slots[0] for slots in self.slots)]
                self.lending.store(self.model, self.number, [value.detach() for value in held if value is not None])
        finally:
            self.depth -= 1
            if not self.depth:
                self._put(self.divided)

    def _fill(self, wholes: Sequence[Tensor]) -> None:
        from torch import nn

        self._put([nn.Parameter(whole, requires_grad=False) for whole in wholes])

    def _put(self, values: Sequence[Any]) -> None:
        for slots, value in zip(self.slots, values, strict=True):
            for module, name in slots:
                module._parameters[name] = value


def is_borrowing(model: nn.Module) -> bool:
    """Whether weights of the model are gathered from several processes."""
    return any(map(_list_own, model.modules()))


@contextmanager
def opened(module: nn.Module, is_changed: bool = False) -> Iterator[None]:
    """Inside the context all weights of the module are whole. Nothing where they are so anyway."""
    with ExitStack() as held:
        for unit in dict.fromkeys(unit for part in module.modules() for unit in _list_own(part)):
            held.enter_context(unit.opened(is_changed))
        yield


def borrow(model: nn.Module, layers: Sequence[nn.Module], apart: Sequence[nn.Module], lending: Lending) -> None:
    """Lets `model`, of which the DTensors are this process's parts, gather what it needs when it needs it. Units are
    each of `layers`, each module of `apart` (large tables that are used once in a forward), and all else."""
    inside = {id(part): layer for layer in layers for part in layer.modules()}
    large = {id(module) for module in apart}

    def find_key(module: nn.Module) -> int:
        return id(inside.get(id(module), module if id(module) in large else model))

    units = _build_units(model, find_key, lending)
    alive = weakref.ref(model)
    parts = [[_build_part(parameter) for parameter in unit.divided] for unit in units.values()]
    lending.models[lending.number] = Units(parts, lambda: alive() is not None)
    forward, rest = _Forward(), units.get(id(model))
    for module in model.modules():
        needed = _list_own(module)
        if id(module) in inside:
            needed += [units[id(module)]] if id(module) in units else []
        elif rest is not None and any(rest in _list_own(part) for part in module.modules()):
            needed.append(rest)
        if any(module._parameters):
            module._parameters = _Weights(module._parameters, module, forward)
        if needed:
            forward.wrap(module, list(dict.fromkeys(needed)))


def _build_units(model: nn.Module, find_key: Callable[[nn.Module], int], lending: Lending) -> dict[int, Unit]:
    """By key, in the order of the modules, which is the same in all processes."""
    from torch.distributed.tensor import DTensor

    units: dict[int, Unit] = {}
    found: dict[int, tuple[Unit, int]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if not isinstance(parameter, DTensor):
                continue
            if id(parameter) not in found:
                key = find_key(module)
                unit = units.setdefault(key, Unit(lending, model=lending.number, number=len(units)))
                unit.divided.append(parameter)
                unit.slots.append([])
                found[id(parameter)] = unit, len(unit.slots) - 1
            unit, index = found[id(parameter)]
            unit.slots[index].append((module, name))
            vars(module).setdefault(BORROWED, []).append(unit)
    return units


def _build_part(parameter: Any) -> Part:
    return Part(parameter.detach().to_local(), tuple(parameter.shape))


def _list_own(module: nn.Module) -> list[Unit]:
    return list(vars(module).get(BORROWED, []))


class _Forward:
    """The forwards of a model's modules, inside each other. What is read in between without being called is held until
    the outermost ends."""

    def __init__(self) -> None:
        self.depth, self.held = 0, ExitStack()

    def wrap(self, module: nn.Module, units: Sequence[Unit]) -> None:
        """`forward` itself, as accelerate does it: a forward that is replayed from a recording needs no weights."""
        forward: Callable[..., Any] = module.forward

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._entered(), ExitStack() as held:
                for unit in units:
                    held.enter_context(unit.opened())
                return forward(*args, **kwargs)

        module.forward = run

    @contextmanager
    def _entered(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self.held.close()


class _Weights(dict[str, Any]):
    """The parameters of a module, some of which are read by others while it does not run itself (an embedding's row of
    padding, a tied head)."""

    def __init__(self, own: dict[str, Any], module: nn.Module, forward: _Forward) -> None:
        super().__init__(own)
        self.units, self.forward = _list_own(module), forward

    def __getitem__(self, name: str) -> Any:
        if self.forward.depth:
            for unit in self.units:
                if not unit.depth:
                    self.forward.held.enter_context(unit.opened())
        return super().__getitem__(name)
