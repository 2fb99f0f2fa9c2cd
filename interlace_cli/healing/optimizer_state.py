"""The optimizer's state by the names of the weights, the same whatever engine holds it: DeepSpeed's parts of flat
groups, the rows of `fsdp`, whole tensors elsewhere.

Tensors as long as weights are *slots*, such as AdamW's moments: each is fetched, written, read and put alone. All else
(step counters, learning rates) is small, and called the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interlace_cli.errors import InterlaceError
from interlace_cli.healing.offload import find_master
from interlace_cli.healing.optimizer import FORMS
from interlace_cli.healing.tensor_files import DTYPES, Stored
from interlace_cli.healing.whole import cut_partition, fetch, put, spread_whole
from interlace_cli.runtime.divided import is_partitioned
from interlace_cli.runtime.processes import find_processes

Path = tuple[str | int, ...]
"""Where a value stands in a weight's state: ("exp_avg",)."""
FLAT_GROUPS = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
"""Where DeepSpeed's optimizers (stage 3, stages 1 and 2, bfloat16) have their flat weights."""


@dataclass(frozen=True)
class Slot:
    """A tensor of one weight's state: dtype and shape of the whole, and what fetches it (see `whole.fetch`)."""

    weight: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    fetch: Callable[[], Tensor | None]


@dataclass(frozen=True)
class Saved:
    """What a file has of a slot."""

    weight: str
    path: Path
    stored: Stored


class OptimizerState(ABC):
    """Of an optimizer of the weights `named`. All processes call its methods together."""

    @abstractmethod
    def list_slots(self) -> list[Slot]:
        """The slots, in the same order on all processes."""

    @abstractmethod
    def read_rest(self) -> dict[str, Any]:
        """What is small: `groups`, their fields, and `values`, weight -> path -> value."""

    @abstractmethod
    def load(self, slots: Sequence[Saved], rest: Mapping[str, Any]) -> None:
        """Takes over a state; its tensors are read one by one. Raises InterlaceError for one of another optimizer."""


class TorchState(OptimizerState):
    """Of an optimizer that works on the weights themselves, or on their masters, with `state_dict` as torch has it."""

    def __init__(self, optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> None:
        names = {id(weight): name for name, weight in named.items()}
        self.optimizer = optimizer
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.names = [names[id(weight)] for weight in self.weights]

    def list_slots(self) -> list[Slot]:
        """See OptimizerState."""
        return [
            Slot(name, path, value.dtype, tuple(value.shape), lambda value=value: fetch(value))  # type: ignore[misc]
            for name, path, value in self._iter_values()
            if _is_slot(value)
        ]

    def read_rest(self) -> dict[str, Any]:
        """See OptimizerState."""
        values: dict[str, dict[Path, Any]] = {}
        for name, path, value in self._iter_values():
            if not _is_slot(value):
                values.setdefault(name, {})[path] = value
        groups = self.optimizer.state_dict()["param_groups"]
        return {"groups": [_without_weights(group) for group in groups], "values": values}

    def load(self, slots: Sequence[Saved], rest: Mapping[str, Any]) -> None:
        """See OptimizerState."""
        states: dict[str, dict[Any, Any]] = {}
        weights = dict(zip(self.names, self.weights, strict=True))
        for name, values in rest["values"].items():
            for path, value in values.items():
                _put_in(states.setdefault(name, {}), path, _adapt(value, self.optimizer))
        for slot in slots:
            weight = weights[slot.weight]
            if slot.stored.shape == tuple(weight.shape):
                held = torch.zeros_like(weight, dtype=slot.stored.dtype, requires_grad=False)
            else:
                held = torch.zeros(slot.stored.shape, dtype=slot.stored.dtype, device=weight.device)
            put(held, slot.stored.read())
            _put_in(states.setdefault(slot.weight, {}), slot.path, held)
        own = self.optimizer.state_dict()["param_groups"]
        groups = [_renew(group, saved) for group, saved in zip(own, _match(rest["groups"], len(own)), strict=True)]
        numbered = {number: states[name] for number, name in enumerate(self.names) if name in states}
        self.optimizer.load_state_dict({"state": numbered, "param_groups": groups})

    def _iter_values(self) -> Iterator[tuple[str, Path, Any]]:
        state = self.optimizer.state_dict()["state"]
        for number, name in enumerate(self.names):
            for path, value in _iter_leaves(state.get(number, {})):
                yield name, path, value


class DeepSpeedState(OptimizerState):
    """Of the optimizer of DeepSpeed's `engine`, for which its own optimizer works on flat parts of all weights."""

    def __init__(self, engine: Any, named: Mapping[str, Tensor]) -> None:
        self.zero, self.base, self.named = engine.optimizer, engine.optimizer.optimizer, named

    def list_slots(self) -> list[Slot]:
        """See OptimizerState."""
        self._link()
        keys = [key for key, value in self._first.items() if isinstance(value, Tensor) and value.ndim]
        return [
            Slot(name, (key,), torch.float32, self._shape(weight), self._build_fetch(weight, key))
            for name, weight in self.named.items()
            for key in keys
        ]

    def read_rest(self) -> dict[str, Any]:
        """See OptimizerState."""
        values = {(key,): v for key, v in self._first.items() if not isinstance(v, Tensor) or not v.ndim}
        groups = [_without_weights(group) for group in self.base.param_groups]
        return {"groups": groups, "values": {name: dict(values) for name in self.named}}

    def load(self, slots: Sequence[Saved], rest: Mapping[str, Any]) -> None:
        """See OptimizerState."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if any(slot.stored.shape != self._shape(self.named[slot.weight]) or len(slot.path) > 1 for slot in slots):
            raise InterlaceError(
                "the saved state is of an optimizer that DeepSpeed cannot take over.",
                "Go on with the engine that it was begun with; or delete it to begin anew.",
            )
        self._begin({str(slot.path[0]) for slot in slots}, rest)
        for slot in slots:
            weight, key = self.named[slot.weight], str(slot.path[0])
            whole = spread_whole(weight, slot.stored.read())
            if is_partitioned(weight):
                safe_set_local_optimizer_state(weight, cut_partition(weight, whole), key)
            else:
                safe_set_full_optimizer_state(weight, whole, key)

    def _begin(self, keys: set[str], rest: Mapping[str, Any]) -> None:
        """DeepSpeed makes its state with the first step only, and has no function to make it without."""
        values: Mapping[Path, Any] = next(iter(rest["values"].values()), {})
        for flat in self._flats:
            state = self.base.state[flat]
            state.update({key: torch.zeros_like(flat) for key in sorted(keys)})
            state.update({path[0]: _adapt(value, self.base) for path, value in values.items()})
        self._link()
        own = self.base.param_groups
        for group, saved in zip(own, _match(rest["groups"], len(own)), strict=True):
            group.update(_renew(group, saved))

    def _link(self) -> None:
        """Stages 1 and 2 find the state by links, which DeepSpeed makes within the first group's first step: the other
        groups have no state then, and stay without."""
        if hasattr(self.zero, "_lazy_init_hp_params_optimizer_state"):
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()

    @property
    def _flats(self) -> list[Tensor]:
        for name in FLAT_GROUPS:
            found: list[Tensor] | None = getattr(self.zero, name, None)
            if found:
                return found
        raise InterlaceError(
            f"this version of DeepSpeed has an optimizer ({type(self.zero).__name__}) whose state cannot be put back.",
            "Take --engine ddp or fsdp, or another version of DeepSpeed.",
        )

    @property
    def _first(self) -> dict[str, Any]:
        """Of any flat part; all are alike, and have done as many steps."""
        found: dict[str, Any] = next((dict(self.base.state[flat]) for flat in self._flats if self.base.state[flat]), {})
        return found

    def _build_fetch(self, weight: Tensor, key: str) -> Callable[[], Tensor | None]:
        def fetch_it() -> Tensor | None:
            from deepspeed.utils import safe_get_full_optimizer_state

            whole: Tensor = safe_get_full_optimizer_state(weight, key)
            return whole if find_processes().is_main else None

        return fetch_it

    def _shape(self, weight: Tensor) -> tuple[int, ...]:
        return tuple(getattr(weight, "ds_shape", weight.shape))


def find_state(engine: Any, optimizer: Any, tuned: Mapping[str, Tensor]) -> OptimizerState:
    """The state of `optimizer`, which may have accelerate's wrapper, or of the one in DeepSpeed's `engine`, if that is
    not None; `tuned` are the weights that train."""
    if engine is not None:
        return DeepSpeedState(engine, tuned)
    held: dict[str, Tensor] = {}
    for name, weight in tuned.items():
        master = find_master(weight)
        held[name] = weight if master is None else master
    return TorchState(getattr(optimizer, "optimizer", optimizer), held)


def _is_slot(value: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return type(value) in (Tensor, DTensor) and value.ndim > 0 and value.dtype in DTYPES


def _adapt(value: Any, optimizer: Any) -> Any:
    """torch's optimizers count their steps in tensors, which they change in place, so each weight needs one of its own;
    DeepSpeed's count in numbers."""
    owner = type(optimizer).__module__.partition(".")[0]
    if owner == "deepspeed":
        return int(value)
    if owner == "torch" and type(value) in (int, float):
        return torch.tensor(float(value))
    return value.clone() if isinstance(value, Tensor) else value


def _iter_leaves(state: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not isinstance(state, dict):
        yield path, state
        return
    for key, value in state.items():
        yield from _iter_leaves(value, (*path, key))


def _put_in(state: dict[Any, Any], path: Path, value: Any) -> None:
    *folders, last = path
    for folder in folders:
        state = state.setdefault(folder, {})
    state[last] = value


def _without_weights(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}


def _renew(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The group with the saved values of its fields."""
    return {**group, **{name: value for name, value in saved.items() if name in group and name not in FORMS}}


def _match(groups: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The fields for `count` groups. An engine may leave out one that has no weights; they differ in nothing else."""
    return list(groups) if len(groups) == count else [groups[0]] * count
