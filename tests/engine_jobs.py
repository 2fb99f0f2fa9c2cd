"""Healing several times over in the processes of one start: `python engine_jobs.py JOBS RANK SIZE PORT`. JOBS is a JSON
file with a list of options of `finetune`; `stop_after` and `state` are not options: the healing is interrupted behind
that step, and begins with a copy of the state that another output folder has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interlace_cli.runtime.launch import find_free_port


def run_jobs(jobs: Sequence[dict[str, Any]], folder: Path, size: int = 2) -> list[str]:
    """Runs the jobs one after the other in `size` processes; `folder` is for the list of them. Returns what was said in
    each job by the first process."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(list(jobs), default=str))
    port = find_free_port()
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(file), str(rank), str(size), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate() for process in running]
    assert not any(process.returncode for process in running), said
    answer: list[str] = json.loads(said[0][0].splitlines()[-1])
    return answer


def copy_state(source: Path, out: Path) -> None:
    """Gives the output folder `out` the unfinished healing of another."""
    (found,) = source.parent.glob(f".{source.name}.healing-*")
    shutil.copytree(found, out.parent / found.name.replace(f".{source.name}.", f".{out.name}.", 1))


def heal(job: dict[str, Any], say: list[str]) -> None:
    """One healing, by the process that this one is."""
    from making import make_healed

    from interlace_cli.domain.progress import Silent
    from interlace_cli.healing.trainer import HealingTrainer

    class Lines(Silent):
        def say(self, line: str) -> None:
            say.append(line)

    job = {name: tuple(value) if isinstance(value, list) else value for name, value in job.items()}
    stop_after, taken, original = job.pop("stop_after", None), 0, HealingTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if stop_after is not None and taken > stop_after:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    HealingTrainer.training_step = step  # type: ignore[method-assign]
    try:
        make_healed(*(Path(job.pop(name)) for name in ("pruned", "dataset", "out")), Lines(), **job)
    except KeyboardInterrupt:
        assert stop_after is not None
    finally:
        HealingTrainer.training_step = original  # type: ignore[method-assign]


def main(file: str, rank: str, size: str, port: str) -> None:
    """What each process does."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
    import torch
    from transformers import PreTrainedModel  # noqa: F401

    from interlace_cli.core import finetune
    from interlace_cli.runtime.exchange import leave_processes
    from interlace_cli.runtime.processes import end_at_once

    # The processes stay together between the jobs.
    finetune.leave_processes = torch.distributed.barrier  # type: ignore[attr-defined]
    said = []
    for job in json.loads(Path(file).read_text()):
        lines: list[str] = []
        source = job.pop("state", None)
        if source is not None and rank == "0":
            copy_state(Path(source), Path(job["out"]))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        heal(job, lines)
        said.append("\n".join(lines))
    print(json.dumps(said))
    leave_processes()
    end_at_once(0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
