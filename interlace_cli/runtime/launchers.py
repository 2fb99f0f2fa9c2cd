"""What launchers say of the processes that they start, in torchrun's names: Slurm's `srun`, and MPI's. Pure.

torchrun and `accelerate launch` say all of it themselves. The others say who is who, but not where the first process
can be reached: for Slurm that follows from the step's list of hosts and the job's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from zlib import crc32

from interlace_cli.errors import UsageError

LOWEST_PORT, PORTS = 20000, 10000
"""Below those that systems give to outgoing connections."""
MOST_HOSTS = 100_000
HERE = "127.0.0.1"
MPI = {
    "Open MPI": tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
"""Launcher -> its variables for rank, size, rank on the host, and processes on the host."""
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""torchrun's names, which torch and accelerate read."""
TORCHRUN = ("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME")
SLURM = (
    *("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NPROCS"),
    *("SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES"),
)


def find_launched(environ: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as far as `environ` lacks them and a
    launcher has said them in its own words; empty where there is no launcher, or one process alone. Raises UsageError
    where the first process cannot be found."""
    if "WORLD_SIZE" in environ:
        return {}
    if "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        return _read_slurm(environ)
    for launcher, names in MPI.items():
        if names[0] in environ and names[1] in environ:
            return _read_mpi(environ, launcher, names)
    return {}


def list_names(environ: Mapping[str, str]) -> list[str]:
    """The variables by which a process is told that it is one of several. Without them it is one of its own."""
    named = {*PLACE, *TORCHRUN, *SLURM, *(name for names in MPI.values() for name in names)}
    return [name for name in environ if name in named or name.startswith("TORCHELASTIC_")]


def _read_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    size = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or 1)
    if size == 1:
        return {}
    rank, local = environ["SLURM_PROCID"], environ.get("SLURM_LOCALID", "0")
    counts = expand_counts(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "")
    node = int(environ.get("SLURM_NODEID", 0))
    found = {"RANK": rank, "WORLD_SIZE": str(size), "LOCAL_RANK": local}
    if node < len(counts) and sum(counts) == size:
        found["LOCAL_WORLD_SIZE"] = str(counts[node])
    return found | _find_master(environ, _find_slurm_host(environ), environ.get("SLURM_JOB_ID", ""), "Slurm")


def _find_slurm_host(environ: Mapping[str, str]) -> str | None:
    """Where the first task of the step runs."""
    listed = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    hosts = expand_hosts(listed or "")
    count = environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or str(len(hosts))
    return HERE if count == "1" else hosts[0] if hosts else None


def _read_mpi(environ: Mapping[str, str], launcher: str, names: tuple[str, ...]) -> dict[str, str]:
    rank, size = environ[names[0]], environ[names[1]]
    if size == "1":
        return {}
    local, count = environ.get(names[2], "0"), environ.get(names[3])
    found = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local}
    if count is not None:
        found["LOCAL_WORLD_SIZE"] = count
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid") or ""
    return found | _find_master(environ, HERE if count == size else None, job, launcher)


def _find_master(environ: Mapping[str, str], host: str | None, job: str, launcher: str) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT, those that are set already left as they are. Jobs that share a host, and steps of a
    job, have ports of their own."""
    found = {}
    if "MASTER_ADDR" not in environ:
        if host is None:
            raise UsageError(
                f"{launcher} has started several processes, and does not say on which host the first of them is.",
                "Set MASTER_ADDR to that host, for all of them.",
            )
        found["MASTER_ADDR"] = host
    if "MASTER_PORT" not in environ:
        name = f"{job}/{environ.get('SLURM_STEP_ID', '')}".encode()
        found["MASTER_PORT"] = str(LOWEST_PORT + crc32(name) % PORTS)
    return found


def expand_hosts(listed: str) -> list[str]:
    """Slurm's short form of a list of hosts, in its order: `"gpu[01-03,7],login"` -> gpu01, gpu02, gpu03, gpu7,
    login. A name may have several brackets. Raises UsageError for what is no such list."""
    hosts = []
    for name in re.findall(r"(?:\[[^\]]*\]|[^,\[\]])+", listed):
        parts = [_expand_part(part, listed) for part in re.findall(r"\[[^\]]*\]|[^\[\]]+", name)]
        hosts += ["".join(chosen) for chosen in product(*parts)]
    if listed.count("[") != listed.count("]"):
        raise _no_list(listed)
    return hosts


def _expand_part(part: str, listed: str) -> list[str]:
    if not part.startswith("["):
        return [part]
    found = []
    for span in part[1:-1].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", span, re.ASCII)
        if match is None:
            raise _no_list(listed)
        first, last = match[1], match[2] or match[1]
        if int(last) - int(first) > MOST_HOSTS:
            raise _no_list(listed)
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found


def _no_list(listed: str) -> UsageError:
    return UsageError(f"Slurm's list of hosts cannot be read: {listed!r}.", "Set MASTER_ADDR to the first of them.")


def expand_counts(listed: str) -> list[int]:
    """Slurm's short form of tasks host by host: `"4(x2),3"` -> 4, 4, 3; empty for what is none."""
    counts: list[int] = []
    for one in filter(None, listed.split(",")):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", one, re.ASCII)
        if match is None:
            return []
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
