"""Pruned checkpoints that several cells of a comparison need: made once by whoever comes first, and gone when the last
cell that needs them is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from interlace_cli.core.step import Step
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.progress import Progress
from interlace_cli.runtime.lease import find_holder, leased, try_acquire

COMMAND = "compare"


@dataclass(frozen=True)
class Cut:
    """The layers that go (dense indices), and what makes up for them. `key` stands for all that its weights depend
    on."""

    drop: tuple[int, ...]
    compensation: str
    key: str


@dataclass(frozen=True)
class SharedCuts:
    """The pruned checkpoints in `root`; `build` is the step that makes one in a folder."""

    root: Path
    build: Callable[[Path, Cut], Step[CheckpointCard]]
    progress: Progress

    @contextmanager
    def borrow(self, cut: Cut) -> Iterator[Path]:
        """The checkpoint's folder. Nobody removes it during the block."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / f"pruned-{cut.key}"
        with leased(self._name_lease(folder), COMMAND, self.progress.say, "cutting the layers"):
            use = try_acquire(self.root / f".{folder.name}.use-{uuid4().hex}", COMMAND)
            assert use is not None
            try:
                step = self.build(folder, cut)
                if not step.find_state().is_current:
                    step.make(self.progress, True)
            except BaseException:
                use.release()
                raise
        try:
            yield folder
        finally:
            use.release()

    def remove(self, cut: Cut) -> None:
        """Removes the checkpoint, unless somebody is using it."""
        self._remove(self.root / f"pruned-{cut.key}")

    def remove_all(self) -> None:
        """Removes all that nobody is using: also those that a killed process has left."""
        for folder in sorted(self.root.glob("pruned-*")):
            self._remove(folder)
        with suppress(OSError):
            self.root.rmdir()

    def _remove(self, folder: Path) -> None:
        if not folder.exists():
            return
        with leased(self._name_lease(folder), COMMAND, self.progress.say, "cutting the layers"):
            uses = list(self.root.glob(f".{folder.name}.use-*"))
            if any(find_holder(use) is not None for use in uses):
                return
            shutil.rmtree(folder, ignore_errors=True)
            for use in uses:
                use.unlink(missing_ok=True)

    def _name_lease(self, folder: Path) -> Path:
        return self.root / f".{folder.name}.lease"
