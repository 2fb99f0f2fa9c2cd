"""The state of a stage that trains, on disk: the tuned weights in float32, the optimizer's state by the weights' names,
and what else decides the next step. It depends neither on the engine nor on the number of processes, so that another
engine or number goes on from it; with the same ones it is taken up to the bit. Frozen weights are not in it.

The first process alone writes and reads it; the others need no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interlace_cli.errors import NotFiniteError
from interlace_cli.healing.optimizer_state import OptimizerState, Saved
from interlace_cli.healing.tensor_files import Held, list_tensors, save_tensors
from interlace_cli.healing.whole import fetch, put, tell
from interlace_cli.runtime.processes import find_processes

TUNED, OPTIMIZER, REST, RANDOM = "tuned.safetensors", "optimizer.safetensors", "rest.pt", "random-{}.pth"
"""Files of a checkpoint."""


def save_weights(folder: Path, named: Mapping[str, Tensor], explain: Callable[[], NotFiniteError]) -> None:
    """Writes the tuned weights. Raises `explain()` on the first process if one is not finite."""

    def build_fetch(weight: Tensor) -> Callable[[], Tensor | None]:
        def fetch_finite() -> Tensor | None:
            value = fetch(weight)
            if value is not None and value.numel() and not bool(torch.isfinite(torch.stack(value.aminmax())).all()):
                raise explain()
            return value

        return fetch_finite

    shapes = {name: tuple(getattr(weight, "ds_shape", weight.shape)) for name, weight in named.items()}
    save_tensors(
        folder / TUNED,
        [Held(name, torch.float32, shapes[name], build_fetch(weight)) for name, weight in named.items()],
    )


def load_weights(folder: Path, named: Mapping[str, Tensor]) -> None:
    """Gives the weights, and their masters, what `save_weights` wrote."""
    for stored in list_tensors(folder / TUNED):
        put(named[stored.name], stored.read())


def save_optimizer(folder: Path, state: OptimizerState, more: Mapping[str, Any]) -> None:
    """Writes the optimizer's state, and `more` that is small."""
    slots = state.list_slots()
    names = [f"{'.'.join(map(str, slot.path))}:{slot.weight}" for slot in slots]
    save_tensors(
        folder / OPTIMIZER,
        [Held(name, slot.dtype, slot.shape, slot.fetch) for name, slot in zip(names, slots, strict=True)],
    )
    rest = state.read_rest()
    if find_processes().is_main:
        places = {name: (slot.weight, slot.path) for name, slot in zip(names, slots, strict=True)}
        torch.save({"places": places, "optimizer": rest, **more}, folder / REST)


def load_optimizer(folder: Path, state: OptimizerState) -> dict[str, Any]:
    """Lets the optimizer take over what `save_optimizer` wrote; returns what else was written with it."""
    rest = torch.load(folder / REST, map_location="cpu", weights_only=True) if find_processes().is_main else None
    told = tell(rest)
    places = told.pop("places")
    slots = []
    for stored in list_tensors(folder / OPTIMIZER):
        weight, path = places[stored.name]
        slots.append(Saved(weight, path, stored))
    state.load(slots, told.pop("optimizer"))
    found: dict[str, Any] = told
    return found


def save_random(folder: Path, own: bytes) -> None:
    """Writes the states of the random numbers of all processes; `own` is this one's."""
    processes = find_processes()
    everyone: list[bytes | None] = [None] * processes.size
    if processes.size == 1:
        everyone = [own]
    else:
        torch.distributed.gather_object(own, everyone if processes.is_main else None, 0)
    if processes.is_main:
        for rank, state in enumerate(everyone):
            assert state is not None
            (folder / RANDOM.format(rank)).write_bytes(state)


def load_random(folder: Path) -> bytes | None:
    """This process's of what `save_random` wrote; None if that was another number of processes."""
    processes, found = find_processes(), None
    if processes.is_main:
        paths = [folder / RANDOM.format(rank) for rank in range(processes.size + 1)]
        found = [path.read_bytes() for path in paths if path.exists()]
    states = tell(found)
    return states[processes.rank] if len(states) == processes.size else None
