"""What makes the checkpoint of each cell of a comparison: functions of the folder to write, which say where it lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interlace_cli.core import finetune, prune
from interlace_cli.domain.progress import Progress
from interlace_cli.options.compare import CompareOptions
from interlace_cli.options.prune import PruneOptions

Layers = tuple[int, ...]
Make = Callable[[Path], Path]
"""Makes a checkpoint in a folder, and says where it lies."""


@dataclass(frozen=True)
class CheckpointMakers:
    """`work` is a folder for what is needed on the way; all layers are dense indices."""

    options: CompareOptions
    work: Path
    stack: str
    progress: Progress

    def _prune_options(self, out: Path, **more: Any) -> PruneOptions:
        model = str(self.options.model)
        return replace(self.options.prune, model=model, out=out, workspace=self.options.workspace, force=True, **more)

    def prune(self, drop: Layers, compensation: str) -> Make:
        """Without these layers; what is in front of a gap may make up for it."""

        def make(out: Path) -> Path:
            options = self._prune_options(out, drop_layers=drop, stack=self.stack, compensate=compensation)
            prune.build_step(options).make(self.progress, True)
            return out

        return make

    def sparsify(self, method: str) -> Make:
        """With all layers, and weights dropped inside them."""

        def make(out: Path) -> Path:
            options = self._prune_options(out, method=method, sparsity=self.options.sparsity)
            prune.build_step(options).make(self.progress, True)
            return out

        return make

    def heal(self, drop: Layers, tune: Layers, seed: int, objective: str, compensation: str) -> Make:
        """Without these layers, and others tuned in their place."""

        def make(out: Path) -> Path:
            short = self.prune(drop, compensation)(self.work / "to-heal")
            return self._finetune(out, checkpoint=short, tune_layers=tune, seed=seed, objective=objective)

        return make

    def heal_dense(self, tune: Layers, seed: int) -> Make:
        """With all layers, these tuned."""

        def make(out: Path) -> Path:
            model = Path(str(self.options.model))
            return self._finetune(out, checkpoint=model, dense=True, stack=self.stack, tune_layers=tune, seed=seed)

        return make

    def _finetune(self, out: Path, **more: Any) -> Path:
        options = replace(self.options.finetune, out=out, workspace=self.options.workspace, force=True, **more)
        finetune.build_step(options).make(self.progress, True)
        return out
