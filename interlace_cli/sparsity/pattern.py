"""N:M sparsity: of every M neighbouring inputs of an output, N keep their weight (Mishra et al. 2021, arXiv 2104.08378;
2:4 is what NVIDIA's sparse tensor cores take)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interlace_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """`keep` of every `group` weights stay."""

    keep: int
    group: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """`"2:4"`. Raises UsageError for anything else."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise UsageError(f"--sparsity does not take {text!r}.", "Give how many of how many stay, such as 2:4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.keep}:{self.group}"

    def fits(self, weight_OI: Tensor) -> bool:
        """Whether the inputs of this weight [O, I] fall into whole groups."""
        return weight_OI.ndim == 2 and weight_OI.shape[1] % self.group == 0

    def find_dropped(self, metric_OI: Tensor) -> Tensor:
        """The mask [O, I] of the weights that go: in each group those with the lowest metric, of equals the first."""
        import torch

        groups_ONM = metric_OI.reshape(len(metric_OI), -1, self.group)
        order = torch.argsort(groups_ONM, dim=-1, stable=True)[..., : self.group - self.keep]
        return torch.zeros_like(groups_ONM, dtype=torch.bool).scatter_(-1, order, True).reshape(metric_OI.shape)
