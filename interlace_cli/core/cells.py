"""What makes the checkpoint of each cell of a comparison: functions of the folder to write, which say where it lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from interlace_cli.core import finetune, prune
from interlace_cli.core.prune_weights import prune_weights
from interlace_cli.core.run import RunOptions
from interlace_cli.domain.progress import Progress
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.healing.recipe import Execution
from interlace_cli.io.workspace import Workspace
from interlace_cli.sparsity.pattern import Pattern

Make = Callable[[Path], Path]
Layers = tuple[int, ...]


@dataclass(frozen=True)
class Makers:
    """`work` is a folder for what is needed on the way; all layers are dense indices."""

    space: Workspace
    run: RunOptions
    dense: OpenedModel
    work: Path
    progress: Progress

    def prune(self, drop: Layers, is_compensated: bool = False) -> Make:
        """Without these layers; what is in front of a gap may make up for it."""

        def make(out: Path) -> Path:
            how = self.run.analyze
            compensation = prune.Compensation(self.space.dataset, dtype=how.dtype, device=how.device)
            prune.prune_layers(
                self.run.model,
                list(drop),
                out,
                self.progress,
                force=True,
                stack=self.dense.facts.stack,
                compensation=compensation if is_compensated else None,
            )
            return out

        return make

    def heal(self, drop: Layers, tune: Layers, seed: int, objective: str, is_compensated: bool) -> Make:
        """Without these layers, and others tuned in their place."""

        def make(out: Path) -> Path:
            short = self.prune(drop, is_compensated)(self.work / "to-heal")
            finetune.heal_model(
                short,
                self.space.dataset,
                out,
                replace(self.run.recipe, seed=seed, objective=objective),
                self.progress,
                tune_layers=tune,
                how=Execution(device=self.run.analyze.device),
                force=True,
            )
            return out

        return make

    def heal_dense(self, tune: Layers, seed: int) -> Make:
        """With all layers, these tuned."""

        def make(out: Path) -> Path:
            finetune.heal(
                finetune.choose_dense(self.run.model, tune, self.dense.facts.stack),
                self.space.dataset,
                out,
                replace(self.run.recipe, seed=seed, objective="ce"),
                self.progress,
                how=Execution(device=self.run.analyze.device),
                force=True,
            )
            return out

        return make

    def sparsify(self, method: str, pattern: Pattern) -> Make:
        """With all layers, and weights dropped inside them."""

        def make(out: Path) -> Path:
            prune_weights(
                self.run.model,
                method,
                pattern,
                out,
                self.progress,
                self.space.dataset,
                dtype=self.run.analyze.dtype,
                device=self.run.analyze.device,
                force=True,
            )
            return out

        return make
