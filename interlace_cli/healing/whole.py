"""Tensors that several processes hold together, whole on the first process alone: that is where they are written and
read. One tensor at a time, so that no process ever needs room for more.

All processes call these functions together, in the same order. A tensor is held in one of four ways: by each process
(`ddp`, or one process), as rows (`fsdp`), by DeepSpeed, or by its float32 master on the host (`offload`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from interlace_cli.healing.offload import find_master
from interlace_cli.runtime.divided import is_partitioned
from interlace_cli.runtime.processes import find_processes

T = TypeVar("T")


def tell(value: T | None) -> T:
    """The first process's `value`, on all of them."""
    told: list[Any] = [value]
    if find_processes().size > 1:
        torch.distributed.broadcast_object_list(told, 0)
    found: T = told[0]
    return found


def fetch(tensor: Tensor) -> Tensor | None:
    """The whole tensor on the first process, None on the others; of a weight that trains, the float32 master."""
    from torch.distributed.tensor import DTensor

    is_main = find_processes().is_main
    master = find_master(tensor)
    if master is not None:
        return master
    if is_with_deepspeed(tensor):
        from deepspeed.utils import safe_get_full_fp32_param

        held = safe_get_full_fp32_param(tensor)
        if held is not None:
            return held.detach() if is_main else None
    if is_partitioned(tensor):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone() if is_main else None
    if isinstance(tensor, DTensor):
        return _fetch_rows(tensor)
    return tensor.detach() if is_main else None


@torch.no_grad()
def put(tensor: Tensor, value: Tensor | None) -> None:
    """Gives the tensor, and its float32 master, the first process's `value`; the others have None."""
    from torch.distributed.tensor import DTensor

    master = find_master(tensor)
    if master is not None:
        assert value is not None
        master.copy_(value)
        tensor.copy_(value)
    elif is_with_deepspeed(tensor):
        _put_with_deepspeed(tensor, value)
    elif isinstance(tensor, DTensor):
        _put_rows(tensor, value)
    else:
        spread(tensor, value)


def is_with_deepspeed(tensor: Tensor) -> bool:
    """Whether DeepSpeed has the float32 master of this weight."""
    return tensor.requires_grad and (is_partitioned(tensor) or hasattr(tensor, "_hp_mapping"))


@torch.no_grad()
def spread(target: Tensor, value: Tensor | None) -> Tensor:
    """Fills `target` of each process with the first one's `value`. Returns it."""
    if value is not None:
        target.copy_(value)
    if find_processes().size > 1:
        held = target if target.is_contiguous() else target.contiguous()
        torch.distributed.broadcast(_as_bytes(held), 0)
        if held is not target:
            target.copy_(held)
    return target


def _put_with_deepspeed(weight: Any, value: Tensor | None) -> None:
    from deepspeed import zero
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    whole = spread_whole(weight, value)
    if is_partitioned(weight):
        safe_set_local_fp32_param(weight, cut_partition(weight, whole))
    else:
        safe_set_full_fp32_param(weight, whole)
    # What it computes with follows the master at the next step, and that comes behind the next forward.
    divided = is_partitioned(weight)
    with zero.GatheredParameters([weight], modifier_rank=0) if divided else nullcontext():
        if not divided or find_processes().is_main:
            weight.data.copy_(whole)


def spread_whole(weight: Any, value: Tensor | None) -> Tensor:
    """The first process's float32 `value` of a weight of DeepSpeed's, where this process computes."""
    from deepspeed import get_accelerator

    device = get_accelerator().current_device_name()
    return spread(torch.empty(getattr(weight, "ds_shape", weight.shape), dtype=torch.float32, device=device), value)


def cut_partition(weight: Any, whole: Tensor) -> Tensor:
    """This process's part of a weight that DeepSpeed has divided, flat. It ends in zeros where the weight does not
    divide evenly, which DeepSpeed's own `safe_set_full_fp32_param` does not allow for."""
    size = weight.ds_tensor.numel()
    rank = torch.distributed.get_rank(weight.ds_process_group)
    part = torch.zeros(size, dtype=whole.dtype, device=whole.device)
    mine = whole.flatten()[rank * size : (rank + 1) * size]
    part[: mine.numel()].copy_(mine)
    return part


def _fetch_rows(tensor: Any) -> Tensor | None:
    """Of a tensor whose rows `fully_shard` has divided, process after process."""
    is_main, local = find_processes().is_main, tensor.detach().to_local()
    counts = _count_rows(tensor)
    if counts is None:
        whole: Tensor = tensor.full_tensor().detach()
        return whole if is_main else None
    if not is_main:
        if local.numel():
            torch.distributed.send(_as_bytes(local.contiguous()), 0)
        return None
    whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=local.device)
    whole[: counts[0]].copy_(local)
    begin = counts[0]
    for rank, count in enumerate(counts[1:], start=1):
        part = whole[begin : begin + count]
        if part.numel():
            torch.distributed.recv(_as_bytes(part), rank)
        begin += count
    return whole


def _put_rows(tensor: Any, value: Tensor | None) -> None:
    from torch.distributed.tensor import distribute_tensor

    local, counts = tensor.to_local(), _count_rows(tensor)
    if counts is None:
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=local.device)
        tensor.copy_(distribute_tensor(spread(whole, value), tensor.device_mesh, tensor.placements))
        return
    if value is None:
        if local.numel():
            part = torch.empty(local.shape, dtype=local.dtype, device=local.device)
            torch.distributed.recv(_as_bytes(part), 0)
            local.copy_(part)
        return
    local.copy_(value[: counts[0]])
    begin = counts[0]
    for rank, count in enumerate(counts[1:], start=1):
        part = value[begin : begin + count].to(local.device, local.dtype).contiguous()
        if part.numel():
            torch.distributed.send(_as_bytes(part), rank)
        begin += count


def _count_rows(tensor: Any) -> list[int] | None:
    """Rows of each process; None for a tensor that is divided in another way, or over some of the processes."""
    from torch.distributed.tensor import Shard

    size = find_processes().size
    if tuple(tensor.placements) != (Shard(0),) or tensor.device_mesh.size() != size:
        return None
    parts = torch.empty(tensor.shape[0], device="meta").chunk(size)
    return [len(part) for part in parts] + [0] * (size - len(parts))


def _as_bytes(tensor: Tensor) -> Tensor:
    """A view that every backend can send, whatever the dtype."""
    return tensor.detach().reshape(-1).view(torch.uint8)
