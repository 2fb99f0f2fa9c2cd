"""Processes that a launcher has started for a command whose processes need not know each other."""

from __future__ import annotations

import os

from interlace_cli.runtime.launchers import list_names
from interlace_cli.runtime.processes import find_processes

VISIBLE = "CUDA_VISIBLE_DEVICES"


def work_alone() -> None:
    """Makes this process one of its own, with one of the machine's GPUs if it sees several. Called before CUDA begins:
    what its steps ask for afterwards is the only GPU, and a group of one."""
    here = find_processes()
    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    names = visible or [str(index) for index in range(_count_gpus())]
    if len(names) > 1:
        os.environ[VISIBLE] = names[here.local % len(names)]
    for name in list_names(os.environ):
        del os.environ[name]


def _count_gpus() -> int:
    """Asks the driver, and opens none of them."""
    import torch

    return torch.cuda.device_count()
