"""Where a search keeps what it comes back to, batch by batch: on the device while its free memory lasts, else on the
host, in pinned memory, so that neither way waits.

Shape legend: B samples, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from interlace_cli.data.batches import Inputs, to_model
from interlace_cli.errors import InterlaceError
from interlace_cli.families.ways import Way, find_way
from interlace_cli.runtime import accelerator
from interlace_cli.runtime.accelerator import is_cpu, is_cuda, to_host
from interlace_cli.runtime.dispatch import find_input_device, is_dispatched
from interlace_cli.runtime.memory import read_available
from interlace_cli.runtime.processes import find_processes, shard

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HELD = 3
"""What is held thrice: of the model as it is and of two candidates."""
OTHERS = 4
"""Further states [B, T, H] that a recording may hold beside those of the layers: embeddings, features of pictures."""
SHARE = 0.9
"""Of a device's free memory; the rest is lost between blocks."""


@dataclass(frozen=True)
class Room:
    """`stays[i]`: batch i is kept on the device that computes it. `host_bytes` is what the others take."""

    stays: tuple[bool, ...]
    host_bytes: int = 0

    def find_move(self, batch: int) -> Callable[[Tensor], Tensor] | None:
        """How the tensors of a batch are put away; None: they stay where they are."""
        return None if self.stays[batch] else to_host


def find_room(model: PreTrainedModel, layers: nn.ModuleList, batches: Sequence[Inputs], asked: int) -> tuple[Way, Room]:
    """How candidates are run, found out on the first batch, and where this process keeps what it needs of its batches.
    Raises InterlaceError if that fits nowhere. `asked` is --loss-samples."""
    width, device = model.get_input_embeddings().weight.shape[-1], find_input_device(model)

    def count(way: Way) -> list[int]:
        return [estimate_bytes(batch, width, len(layers), model.dtype.itemsize, way) for batch in batches]

    if is_cpu(device):
        check_room(plan_room(count(Way.DIRECT), None), read_available(), asked)
    first = to_model({name: value for name, value in batches[0].items() if name != "labels"}, model)
    if is_cpu(device):
        way = find_way(model, layers, first)
        return way, plan_room(shard(count(way)), None)
    if is_dispatched(model) or not is_cuda(device):
        # What is left of several devices is for what comes to them for a while.
        way, free = find_way(model, layers, first), 0
    else:
        needs = count(Way.WHOLE)
        way, free = _find_free(model, layers, first, max(needs) / needs[0])
    room = plan_room(shard(count(way)), free)
    check_room(room, read_available() // find_processes().size, asked)
    return way, room


def _find_free(model: PreTrainedModel, layers: nn.ModuleList, first: Inputs, growth: float) -> tuple[Way, int]:
    """How candidates are run, and the bytes of the device that running them leaves. The largest batch is `growth` times
    as large as the first one."""
    accelerator.reset_peak(model.device)
    held = accelerator.read_held(model.device)
    way = find_way(model, layers, first)
    working = growth * (accelerator.read_peak(model.device) - held)
    accelerator.release_memory()
    return way, max(int(accelerator.read_free(model.device) - working), 0)


def estimate_bytes(batch: Inputs, width: int, layers: int, itemsize: int, way: Way) -> int:
    """Bytes that a search holds of a batch: states, a mask over pairs of tokens, and what the model is given, without
    its pictures where layers are called directly."""
    samples, tokens = batch["input_ids"].shape
    states = (layers + OTHERS) * samples * tokens * width
    given = [value.nbytes for value in batch.values() if way is not Way.DIRECT or not value.is_floating_point()]
    return int(HELD * ((states + samples * tokens**2) * itemsize + sum(given)))


def plan_room(needs: Sequence[int], free: int | None) -> Room:
    """`needs` are the batches' bytes, `free` the device's; None: the device that computes is the host itself. A batch
    stays if it fits beside those before it that stay. Pinned memory comes in powers of two."""
    if free is None:
        return Room((True,) * len(needs), sum(needs))
    left, stays, on_host = int(SHARE * free), [], 0
    for need in needs:
        stays.append(need <= left)
        if need <= left:
            left -= need
        else:
            on_host += 2 * need
    return Room(tuple(stays), on_host)


def check_room(room: Room, available: int, asked: int) -> None:
    """Raises InterlaceError if the host has not the memory for what is kept there. `asked` is --loss-samples."""
    if room.host_bytes > available:
        beside = " beside what the GPU takes" if any(room.stays) and not all(room.stays) else ""
        raise InterlaceError(
            f"the search by loss would hold {room.host_bytes / 1e9:.1f} GB of hidden states in the host's memory"
            f"{beside}, and {available / 1e9:.1f} GB are available.",
            f"Give fewer --loss-samples than {asked}.",
        )
