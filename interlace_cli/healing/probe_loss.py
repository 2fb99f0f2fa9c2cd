"""The loss before and after healing, on the same few training samples: the steps' own losses are of other samples each,
and in some stages of another kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.io.files import write_atomically
from interlace_cli.runtime.accelerator import release_memory
from interlace_cli.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch

    from interlace_cli.data.rows import PackedRow
    from interlace_cli.healing.step import TokenLoss

SAMPLES = 16
"""Training samples that the loss is measured on."""
FILE = "loss-before.json"


def choose_probes(count: int) -> list[int]:
    """Indices of at most SAMPLES of `count` samples, evenly spread."""
    wanted = min(count, SAMPLES)
    return [index * count // wanted for index in range(wanted)]


class ProbeLoss:
    """Measures the mean cross-entropy per label of `rows`, in nats, computed in `dtype`, before the first of the
    `stages` (their numbers) and after the last one; never, if there are no rows. What was measured before is kept in
    `folder`, so that a resumed run knows it. All processes have to call it together where they share the weights; the
    one that `writes` keeps it.

    Where memory is short, `shorten` returns rows of fewer tokens, or None if there are none; then nothing is measured,
    and `say` is told so: healing itself may still fit. Without `shorten` a shortage is raised.
    """

    def __init__(
        self,
        rows: Sequence[PackedRow],
        stages: Sequence[int],
        dtype: torch.dtype,
        folder: Path,
        writes: bool,
        shorten: Callable[[Sequence[PackedRow]], Sequence[PackedRow] | None] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.shorten, self.say = shorten, say
        self.rows, self.stages, self.dtype, self.file, self.writes = rows, stages, dtype, folder / FILE, writes
        self.before: float | None = None
        self.after: float | None = None

    def begin(self, stage: int, model: Any, loss: TokenLoss, device: torch.device, is_resumed: bool) -> None:
        """Called when a stage begins, or goes on. `device` is where the model computes."""
        if not self.rows or stage != self.stages[0]:
            return
        if is_resumed:
            self.before = float(json.loads(self.file.read_bytes())) if self.file.exists() else None
            return
        self.before = self.measure(model, loss, device)
        if self.writes and self.before is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(self.before).encode())

    def end(self, stage: int, model: Any, loss: TokenLoss, device: torch.device) -> None:
        """Called when a stage has ended."""
        if self.rows and stage == self.stages[-1]:
            self.after = self.measure(model, loss, device)

    def measure(self, model: Any, loss: TokenLoss, device: torch.device) -> float | None:
        """The loss now; None if memory does not do."""
        while self.rows:
            try:
                return self._measure(model, loss, device)
            except Exception as error:
                if self.shorten is None or not is_out_of_memory(error):
                    raise
            # Behind the handler: the error's traceback holds the activations.
            release_memory()
            shorter = self.shorten(self.rows)
            if shorter is None:
                self.say("out of memory: the loss before and after healing is not measured")
            self.rows = shorter or ()
        return None

    def _measure(self, model: Any, loss: TokenLoss, device: torch.device) -> float:
        import torch

        from interlace_cli.healing.precision import autocast

        was_training = model.training
        model.eval()
        total, labels = 0.0, 0
        try:
            with torch.no_grad(), autocast(device, self.dtype):
                for row in self.rows:
                    total += float(loss.compute(model, row.to(device, model.dtype))[1])
                    labels += int(row.is_label_BK.sum())
        finally:
            model.train(was_training)
        return total / max(labels, 1)
