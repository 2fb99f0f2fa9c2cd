"""Which samples each optimizer step takes: an order of the samples for each epoch, and not a list for each step."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

if TYPE_CHECKING:
    import numpy as np


Steps = Sequence[Sequence[int]]
"""For each optimizer step the indices of its samples."""


class StepPlan(Sequence[Sequence[int]]):
    """The steps `chosen` of a run with `seed`: the indices of the samples of each, `size` of `samples` (the last step
    of an epoch may have fewer), or the `share` (rank, processes) of them. A slice is such a plan again."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, seed: int, samples: int, size: int, chosen: range, share: tuple[int, int] = (0, 1)) -> None:
        self.seed, self.samples, self.size, self.chosen, self.share = seed, samples, size, chosen, share
        self.per_epoch = -(-samples // size)

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: SupportsIndex) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> StepPlan: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return StepPlan(self.seed, self.samples, self.size, self.chosen[index], self.share)
        epoch, step = divmod(self.chosen[index], self.per_epoch)
        rank, processes = self.share
        chosen = slice(step * self.size + rank, min((step + 1) * self.size, self.samples), processes)
        return list(_order(self.seed, epoch, self.samples)[chosen])

    def find_samples(self) -> np.ndarray:
        """Whether each sample is in one of these steps: bool [samples]."""
        import numpy as np

        found = np.zeros(self.samples, bool)
        for step in self:
            found[step] = True
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(own == list(one) for own, one in zip(self, other, strict=True))


def share_steps(steps: Steps, rank: int, processes: int) -> Steps:
    """What one of several processes does of each step."""
    if isinstance(steps, StepPlan):
        return StepPlan(steps.seed, steps.samples, steps.size, steps.chosen, (rank, processes))
    return [step[rank::processes] for step in steps]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, samples: int) -> array[int]:
    """Eight bytes a sample. That of an epoch is made anew when it is asked for again after two others."""
    order = array("q", range(samples))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
