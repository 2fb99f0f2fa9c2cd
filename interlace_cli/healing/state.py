"""The folder that holds unfinished healing, so that the same command resumes it.

It lies beside the output folder. Its name contains a hash of everything that decides the result, so that another recipe
or another checkpoint never resumes from it. Incomplete files in it are ignored.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from interlace_cli.io.integrity import is_complete

COMPLETE = "complete"


class State:
    """The unfinished healing of the output folder `out`. `key` is the hash of everything that decides the result."""

    def __init__(self, out: Path, key: str) -> None:
        self.out, self.folder = out, out.parent / f".{out.name}.healing-{key}"

    def find_checkpoint(self, stage: int) -> Path | None:
        """The stage's latest Trainer checkpoint that is complete and undamaged; None if there is none."""
        found = self.stage(stage).glob("checkpoint-*")
        latest_first = sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))
        return next((path for path in latest_first if is_complete(path, COMPLETE)), None)

    def remove_incomplete(self) -> None:
        """Deletes checkpoints that an interrupted run has not finished writing."""
        for path in self.folder.glob("stage-*/checkpoint-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)

    def stage(self, stage: int) -> Path:
        """The folder of stage number `stage`, from 0."""
        return self.folder / f"stage-{stage}"

    @property
    def exists(self) -> bool:
        """Whether there is anything to resume from."""
        return self.folder.exists()

    def clear(self) -> None:
        """Deletes all states of the output folder, those of other recipes too; call it when healing is finished. Files
        of trackers (TensorBoard's `runs`) are moved to `runs` beside the output folder."""
        for run in sorted(self.folder.glob("stage-*/runs/*")):
            (self.out.parent / "runs").mkdir(exist_ok=True)
            shutil.move(run, self.out.parent / "runs" / f"{self.out.name}-{run.parts[-3]}-{run.name}")
        for folder in self.out.parent.glob(f".{self.out.name}.healing-*"):
            shutil.rmtree(folder, ignore_errors=True)
