"""Position ids of packed rows, which hold several samples end to end. transformers recognises the samples by position
ids that start again at 0. The attention that stays inside each sample is in `varlen.py`.

Shape legend: T tokens of a sample; R rows of position ids (1, or 4 for M-RoPE).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]


def find_positions(model: nn.Module) -> Callable[[Inputs], Tensor]:
    """A function from the inputs of one sample to its position ids [R, 1, T]. If the model has a rule of its own
    (`get_rope_index`, M-RoPE), R = 4: text positions, then time, height and width. Else R = 1: 0 ... T-1."""
    rule: Any = next((module.get_rope_index for module in model.modules() if hasattr(module, "get_rope_index")), None)
    if rule is None:
        return lambda inputs: torch.arange(inputs["input_ids"].shape[1])[None, None]
    names = set(inspect.signature(rule).parameters)

    def build(inputs: Inputs) -> Tensor:
        mrope_31T = rule(**{name: value for name, value in inputs.items() if name in names})[0]
        text_11T = torch.arange(mrope_31T.shape[-1]).expand(1, 1, -1)
        return torch.cat([text_11T, mrope_31T.to(text_11T)])

    return build
