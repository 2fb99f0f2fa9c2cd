"""The folder that holds unfinished healing, so that the same command resumes it.

It lies beside the output folder. Its name contains a hash of everything that decides the result, so that another recipe
or another checkpoint never resumes from it. Incomplete files in it are ignored.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interlace_cli.io.integrity import is_complete
from interlace_cli.runtime.exchange import take_from_main
from interlace_cli.runtime.processes import find_processes

FORMAT = 2
"""Part of the key: a state that another version wrote in another form is not gone on from."""
COMPLETE = "complete"
PROGRESS = "trainer_state.json"
"""File of a checkpoint that the Trainer reads in each process."""
WAY = "way.json"
"""File that says how the states beside it were made."""


class State:
    """The unfinished healing of the output folder `out`. `key` is the hash of everything that decides the result."""

    def __init__(self, out: Path, key: str) -> None:
        self.out, self.folder = out, out.parent / f".{out.name}.healing-{key}"

    def find_checkpoint(self, stage: int) -> Path | None:
        """The stage's latest Trainer checkpoint that is complete and undamaged; None if there is none."""
        found = self.stage(stage).glob("checkpoint-*")
        latest_first = sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))
        return next((path for path in latest_first if is_complete(path, COMPLETE)), None)

    @contextmanager
    def shared_checkpoint(self, stage: int) -> Iterator[Path | None]:
        """What `find_checkpoint` finds in the first process, for all of them: they call it together. The others get a
        folder of their own with what each has to read, since they may be on a machine that lacks the first one's."""
        found: Path | None = None

        def find() -> tuple[str, bytes]:
            nonlocal found
            found = self.find_checkpoint(stage)
            return (found.name, (found / PROGRESS).read_bytes()) if found else ("", b"")

        name, progress = take_from_main("the state of healing", find)
        if find_processes().is_main or not name:
            yield found
            return
        with tempfile.TemporaryDirectory() as folder:
            own = Path(folder) / name
            own.mkdir()
            (own / PROGRESS).write_bytes(progress)
            yield own

    def find_others(self) -> list[Path]:
        """Unfinished healing of the same output folder by another recipe, or of another checkpoint."""
        return sorted(path for path in self.out.parent.glob(f".{self.out.name}.healing-*") if path != self.folder)

    def remove_incomplete(self) -> None:
        """Deletes checkpoints that an interrupted run has not finished writing."""
        for path in self.folder.glob("stage-*/checkpoint-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)

    def stage(self, stage: int) -> Path:
        """The folder of stage number `stage`, from 0."""
        return self.folder / f"stage-{stage}"

    def save_way(self, engine: str, is_checkpointed: bool) -> None:
        """Notes by which engine this healing is done, and whether layers are checkpointed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{WAY}.draft"
        draft.write_text(json.dumps({"engine": engine, "gradient_checkpointing": is_checkpointed}))
        draft.replace(self.folder / WAY)

    def load_way(self) -> tuple[str, bool] | None:
        """What `save_way` noted, if there is a state to resume from."""
        if not any(self.folder.glob("stage-*/*")):
            return None
        try:
            noted = json.loads((self.folder / WAY).read_text())
            return str(noted["engine"]), bool(noted["gradient_checkpointing"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def clear(self) -> None:
        """Deletes all states of the output folder, those of other recipes too; call it when healing is finished. Files
        of trackers (TensorBoard's `runs`) are moved to `runs` beside the output folder."""
        for run in sorted(self.folder.glob("stage-*/runs/*")):
            (self.out.parent / "runs").mkdir(exist_ok=True)
            shutil.move(run, self.out.parent / "runs" / f"{self.out.name}-{run.parts[-3]}-{run.name}")
        for folder in self.out.parent.glob(f".{self.out.name}.healing-*"):
            shutil.rmtree(folder, ignore_errors=True)
