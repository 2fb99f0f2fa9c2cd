"""N:M sparsity: of every M neighbouring weights in a row, N stay (Mishra et al. 2021, arXiv 2104.08378). NVIDIA's
sparse tensor cores take 2:4.

Shape legend: O outputs, I inputs of a linear layer; G groups of M weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interlace_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """N:M pattern: keep `keep` (N) of every `group` (M) neighbouring weights of an output."""

    keep: int
    group: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parses N:M, such as "2:4". Raises UsageError for anything else, and unless 0 < N < M."""
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
        """The mask [O, I] of the weights to drop: in each group the M - N with the lowest metric, of equals the first.
        Example: 2:4 and the metric [[3, 1, 2, 4]] -> [[False, True, True, False]]."""
        import torch

        groups_OGM = metric_OI.reshape(len(metric_OI), -1, self.group)
        order = torch.argsort(groups_OGM, dim=-1, stable=True)[..., : self.group - self.keep]
        return torch.zeros_like(groups_OGM, dtype=torch.bool).scatter_(-1, order, True).reshape(metric_OI.shape)
