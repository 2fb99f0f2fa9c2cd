"""A process of several, each with a pretend GPU of its own, that talk by gloo where NCCL is asked for.

`sys.executable` of the launcher is a script that starts this file (`write_starter`); it runs the command under
`Pretend` and writes what the process took of each GPU to $PRETEND_REPORT/<rank>.json. Faults of NCCL are not seen, but
that it has no way for tensors of the host is."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any
from unittest import mock

from pretend import Pretend

GPUS, CAPACITY, REPORT = "PRETEND_GPUS", "PRETEND_CAPACITY", "PRETEND_REPORT"


def write_starter(folder: Path) -> Path:
    """An executable that takes the words of Python's command line, `-m interlace_cli ...`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    path.chmod(0o755)
    return path


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """For each rank its peaks (bytes by GPU) and waits."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def disguise_gloo(gpu: Pretend) -> ExitStack:
    """Until the stack is closed, who asks for nccl is given gloo, with what gloo lacks."""
    import torch
    import torch.distributed as dist
    from torch.distributed import ReduceOp, distributed_c10d

    stack, asked = ExitStack(), {"backend": ""}
    start, is_of_gpu = dist.init_process_group, lambda: asked["backend"] in ("nccl", "cuda:nccl")

    def init_process_group(backend: Any = None, *words: Any, device_id: Any = None, **more: Any) -> None:
        asked["backend"] = str(backend or "cpu:gloo,cuda:nccl")
        start("gloo", *words, **more)

    def average(call: Any) -> Any:
        """Gloo has no mean."""

        def called(*words: Any, **named: Any) -> Any:
            asked = signature(call).bind(*words, **named)
            if asked.arguments.get("op") != ReduceOp.AVG:
                return call(*words, **named)
            asked.arguments |= {"op": ReduceOp.SUM, "async_op": False}
            call(*asked.args, **asked.kwargs)
            next(iter(asked.arguments.values())).div_(dist.get_world_size(asked.arguments.get("group")))
            return None

        return called

    def gather(output_tensor: Any, input_tensor: Any, group: Any = None, async_op: bool = False) -> Any:
        """Gloo asks for the same shapes, where NCCL looks at the number of elements."""
        return gather_flat(output_tensor.view(-1), input_tensor.reshape(-1), group=group, async_op=async_op)

    gather_flat = dist.all_gather_into_tensor

    def find_device(group: Any = None) -> str:
        return f"cuda:{torch.cuda.current_device()}" if is_of_gpu() else "cpu"

    gpu.has_nccl_alone = is_of_gpu
    replaced = {"init_process_group": init_process_group, "is_nccl_available": lambda: True}
    replaced["all_gather_into_tensor"] = gather
    replaced |= {name: average(getattr(dist, name)) for name in ("all_reduce", "reduce_scatter_tensor")}
    for name, value in replaced.items():
        for module in (dist, distributed_c10d):
            stack.enter_context(mock.patch.object(module, name, value))
    stack.enter_context(mock.patch.object(distributed_c10d, "_get_object_coll_device", find_device))
    return stack


def main() -> None:
    from interlace_cli.cli.app import main as run

    words = sys.argv[1:]
    assert words[:2] == ["-m", "interlace_cli"], words
    sys.argv = ["interlace", *words[2:]]
    capacity = os.environ.get(CAPACITY)
    gpu = Pretend(int(os.environ.get(GPUS, "1")), int(capacity) if capacity else None)
    try:
        with gpu, disguise_gloo(gpu):
            run()
    finally:
        found = {"peak": gpu.peak, "waits": gpu.waits, "pid": os.getpid()}
        (Path(os.environ[REPORT]) / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
