"""Packed rows, which hold several samples end to end: their position ids, and an attention that stays inside each
sample.

transformers recognises the samples of a packed row by position ids that start again at 0. Its own sdpa attention then
builds a mask over all pairs of tokens of the row. `segments` computes only the blocks of that mask that are not empty,
as flash-attn's varlen kernels do on GPUs. It is registered through transformers' AttentionInterface.

Shape legend: N tokens of a row, A query heads, D head dimension; R rows of position ids (1, or 4 for M-RoPE).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

Inputs = dict[str, Tensor]
SEGMENTS = "interlace_segments"
"""The value of `attn_implementation` that selects this attention."""
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "cache", "head_mask")
"""Arguments of attention functions that this one does not implement; it accepts them only as None."""
_cuts: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Position ids -> what `_find_cuts` found in them, so that it is computed once for all layers."""


class SegmentsError(Exception):
    """Raised when a model asks `attend_segments` for anything but plain causal attention inside each sample."""


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


def register_segments() -> None:
    """Registers `attend_segments` in transformers as `attn_implementation="interlace_segments"`."""
    from transformers import AttentionInterface

    AttentionInterface.register(SEGMENTS, attend_segments)


def attend_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: Tensor | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sample of one row: `query` [1, A, N, D] -> [1, N, A, D].

    A sample begins where `position_ids` [1, N] is 0. The signature is that of transformers' attention functions. Raises
    SegmentsError if the model asks for any other kind of attention (a mask, a sliding window, a batch of rows).
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    strange = [name for name in _UNKNOWN if more.get(name) is not None]
    if strange or attention_mask is not None or position_ids is None or not causal or len(query) != 1:
        raise SegmentsError(f"{type(module).__name__} attends in a way of its own: {', '.join(strange) or 'masked'}.")
    # Neighbouring samples of equal length are one batch.
    outputs = []
    for start, count, length in _find_cuts(position_ids):
        stop = start + count * length
        q, k, v = (_split_samples(tensor[0, :, start:stop], count) for tensor in (query, key, value))
        made = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=dropout if module.training else 0.0,
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(made.transpose(1, 2).reshape(stop - start, *made.shape[1::2]))
    return torch.cat(outputs)[None], None


def _split_samples(tensor_AND: Tensor, count: int) -> Tensor:
    """[A, n * T, D] -> [n, A, T, D]."""
    heads, tokens, width = tensor_AND.shape
    return tensor_AND.reshape(heads, count, tokens // count, width).transpose(0, 1)


def _find_cuts(position_ids_1N: Tensor) -> list[tuple[int, int, int]]:
    """Runs of neighbouring samples of equal length, as `(start of the first, number of samples, tokens in each)`.
    Example: positions 0 1 2 0 1 2 0 1 -> [(0, 2, 3), (6, 1, 2)]. Waits for the device, hence the cache."""
    found: list[tuple[int, int, int]] | None = _cuts.get(position_ids_1N)  # type: ignore[no-untyped-call]
    if found is None:
        starts = (position_ids_1N[0] == 0).nonzero()[:, 0].tolist()
        found = []
        for start, stop in zip(starts, [*starts[1:], position_ids_1N.shape[1]], strict=True):
            if found and found[-1][2] == stop - start:
                found[-1] = (found[-1][0], found[-1][1] + 1, stop - start)
            else:
                found.append((start, 1, stop - start))
        _cuts[position_ids_1N] = found
    return list(found)
