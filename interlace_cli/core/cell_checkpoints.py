"""What makes the checkpoint of each cell of a comparison: functions of the place to work in, which say where it
lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from interlace_cli.core import finetune, prune
from interlace_cli.core.shared_cuts import Cut, SharedCuts
from interlace_cli.core.step import Step
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.progress import Progress
from interlace_cli.options.compare import CompareOptions
from interlace_cli.options.prune import PruneOptions

Layers = tuple[int, ...]


@dataclass(frozen=True)
class Workplace:
    """`out` is for the cell's own checkpoint; what it borrows is its to the end."""

    out: Path
    cuts: SharedCuts
    _held: ExitStack = field(default_factory=ExitStack)

    def borrow(self, cut: Cut) -> Path:
        """A pruned checkpoint, shared with other cells."""
        return self._held.enter_context(self.cuts.borrow(cut))

    @contextmanager
    def opened(self) -> Iterator[Workplace]:
        """What is borrowed during the block is given back behind it."""
        with self._held:
            yield self


Make = Callable[[Workplace], Path]
"""Makes a checkpoint, and says where it lies."""


@dataclass(frozen=True)
class CheckpointMakers:
    """All layers are dense indices."""

    options: CompareOptions
    stack: str
    progress: Progress

    def build_cut(self, folder: Path, cut: Cut) -> Step[CheckpointCard]:
        """The step that cuts."""
        drop, compensation = cut.drop, cut.compensation
        return prune.build_step(
            self._prune_options(folder, drop_layers=drop, stack=self.stack, compensate=compensation)
        )

    def _prune_options(self, out: Path, **more: Any) -> PruneOptions:
        model = str(self.options.model)
        return replace(self.options.prune, model=model, out=out, workspace=self.options.workspace, force=True, **more)

    def prune(self, cut: Cut) -> Make:
        """Without some layers; what is in front of a gap may make up for it."""
        return lambda place: place.borrow(cut)

    def sparsify(self, method: str) -> Make:
        """With all layers, and weights dropped inside them."""

        def make(place: Workplace) -> Path:
            return self._make(
                prune.build_step(self._prune_options(place.out, method=method, sparsity=self.options.sparsity)), place
            )

        return make

    def heal(self, cut: Cut, tune: Layers, seed: int, objective: str) -> Make:
        """Without some layers, and others tuned in their place."""

        def make(place: Workplace) -> Path:
            short = place.borrow(cut)
            return self._finetune(place, checkpoint=short, tune_layers=tune, seed=seed, objective=objective)

        return make

    def heal_dense(self, tune: Layers, seed: int) -> Make:
        """With all layers, these tuned."""

        def make(place: Workplace) -> Path:
            model = Path(str(self.options.model))
            return self._finetune(place, checkpoint=model, dense=True, stack=self.stack, tune_layers=tune, seed=seed)

        return make

    def _finetune(self, place: Workplace, **more: Any) -> Path:
        options = replace(self.options.finetune, out=place.out, workspace=self.options.workspace, force=True, **more)
        return self._make(finetune.build_step(options), place)

    def _make(self, step: Step[CheckpointCard], place: Workplace) -> Path:
        """Unless a process that was killed behind it has left it whole."""
        if not step.find_state().is_current:
            step.make(self.progress, True)
        return place.out
