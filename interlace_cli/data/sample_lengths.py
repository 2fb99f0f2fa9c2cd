"""Where the samples of a packed row lie, as the model is told: the arguments that transformers hands down to attention
functions (FlashAttentionKwargs; `DataCollatorWithFlattening(return_flash_attn_kwargs=True)` makes the same). They are
made once, on the host, when the row is packed. An attention that has to find them in the position ids waits for the
device in each layer.

Shape legend: N tokens of a row, S samples in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from interlace_cli.data.transfer import send

Reader = Literal["device", "host"]
"""Where the lengths are read: by a kernel on the device, or by a loop over the samples on the host."""


@dataclass(frozen=True)
class SampleLengths:
    """`starts` [S + 1], int32: sample i is the tokens `starts[i]` to `starts[i + 1]` of the row. `longest`: tokens of
    the longest sample."""

    starts: Tensor
    longest: int
    reader: Reader

    @classmethod
    def build(cls, lengths: Sequence[int], reader: Reader) -> SampleLengths:
        """Those of samples of `lengths` tokens, end to end."""
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(starts, max(lengths), reader)

    def to(self, device: torch.device | str) -> SampleLengths:
        """The same for a row on `device`."""
        if self.reader == "host":
            return self
        return replace(self, starts=send(self.starts, device))

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the model."""
        return {
            "cu_seq_lens_q": self.starts,
            "cu_seq_lens_k": self.starts,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }
