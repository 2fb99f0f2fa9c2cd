"""A launcher's processes that work each by itself: one GPU, and no group."""

from __future__ import annotations

import os

import pytest
import torch

from interlace_cli.runtime.processes import Processes, find_processes
from interlace_cli.runtime.workers import VISIBLE, work_alone

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "x",
    "ROLE_RANK": "5",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "MASTER_ADDR": "node1",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "MASTER_ADDR": "node1",
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4", "MASTER_ADDR": "node1"}


@pytest.mark.parametrize(
    "launcher", [TORCHRUN, SRUN, MPIRUN, MPICH], ids=["torchrun", "srun", "mpirun", "mpiexec of MPICH"]
)
@pytest.mark.parametrize(
    ("visible", "gpus", "wanted"),
    [(None, 4, "1"), (None, 1, None), (None, 0, None), ("6,7", 2, "7"), ("GPU-a", 1, "GPU-a"), ("", 0, "")],
)
def test_it_sees_a_gpu_of_its_own_and_no_others(
    launcher: dict[str, str], visible: str | None, gpus: int, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"SLURM_ARRAY_TASK_ID": "3", **launcher})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if visible is not None:
        os.environ[VISIBLE] = visible
    assert (find_processes().size, find_processes().local) == (8, 1)
    work_alone()
    assert find_processes() == Processes()
    assert os.environ.get(VISIBLE) == wanted
    assert os.environ.keys() == {"SLURM_ARRAY_TASK_ID"} | ({VISIBLE} if wanted is not None else set())


def test_more_processes_than_gpus_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**TORCHRUN, "LOCAL_RANK": "3"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    work_alone()
    assert os.environ[VISIBLE] == "1"
