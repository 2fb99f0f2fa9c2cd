"""Where unfinished healing is kept, so that the same command goes on from it.

A folder beside the one to be written, named by what decides the result: another recipe or another checkpoint never goes
on from it. What is in it is complete, or is not looked at.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from interlace_cli.io.integrity import is_complete

COMPLETE = "complete"


class State:
    """The unfinished healing of `out`; `key` stands for everything that decides the result."""

    def __init__(self, out: Path, key: str) -> None:
        self.out, self.folder = out, out.parent / f".{out.name}.healing-{key}"

    def find_checkpoint(self, stage: int) -> Path | None:
        """The last checkpoint of the stage's Trainer that is complete and as it was written."""
        found = self.stage(stage).glob("checkpoint-*")
        latest_first = sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))
        return next((path for path in latest_first if is_complete(path, COMPLETE)), None)

    def remove_incomplete(self) -> None:
        """What was being written when an earlier run was stopped."""
        for path in self.folder.glob("stage-*/checkpoint-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)

    def stage(self, stage: int) -> Path:
        """Folder of a stage."""
        return self.folder / f"stage-{stage}"

    @property
    def exists(self) -> bool:
        """Whether there is something to go on from."""
        return self.folder.exists()

    def clear(self) -> None:
        """Healing is finished: neither this state nor one of another recipe for the same folder is of use. What
        trackers wrote into it (TensorBoard's `runs`) goes to `runs` beside the folder that was healed."""
        for run in sorted(self.folder.glob("stage-*/runs/*")):
            (self.out.parent / "runs").mkdir(exist_ok=True)
            shutil.move(run, self.out.parent / "runs" / f"{self.out.name}-{run.parts[-3]}-{run.name}")
        for folder in self.out.parent.glob(f".{self.out.name}.healing-*"):
            shutil.rmtree(folder, ignore_errors=True)
