"""Attention that stays inside each sample of a packed row, registered through transformers' AttentionInterface.

transformers' own sdpa attention builds a mask over all pairs of tokens of the row. The two here compute only the blocks
of that mask that are not empty:

    segments    torch's sdpa, once for each run of neighbouring samples of equal length; on every device
    varlen      torch's flash kernel (`torch.nn.attention.varlen`), once for the row; on CUDA, in 16 bits

Where the samples lie comes with the call, under the names of transformers' FlashAttentionKwargs (`cu_seq_lens_q`,
`max_length_q`); `segments` can do without, and finds where the position ids start again at 0.

Shape legend: N tokens of a row, S samples, A query heads, G key heads, D head dimension.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

SEGMENTS, VARLEN = "interlace_segments", "interlace_varlen"
"""Values of `attn_implementation`, for language models."""
TOWERS = {SEGMENTS: "interlace_flash_segments", VARLEN: "interlace_flash_varlen"}
"""The same attention under the name for vision towers. A tower that packs its images hands them on whole, with their
`cu_seq_lens`, if "flash" is in the name of its attention (transformers' `is_flash_attention_requested`). For any other
it splits them in each layer, and waits for the device three times to do so."""
_UNKNOWN = ("softcap", "s_aux", "cache", "head_mask")
"""Arguments of attention functions that these do not implement; they accept them only as None."""
MAX_WIDTH = 256
"""Largest head dimension of torch's flash kernels, forward and backward (ATen's flash_api.cpp, `mha_varlen_fwd`)."""
_cuts: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Position ids or `cu_seq_lens` -> the runs of samples in them, so that they are read once for all layers."""
_watched: list[Call] = []
_watching = 0


class SegmentsError(Exception):
    """Raised when a model asks for an attention that this module does not implement."""


@dataclass(frozen=True)
class Call:
    """What one layer asked for: causal attention or full, with a window of so many tokens (the token itself is one of
    them) or without; and whether it told the lengths of the samples."""

    is_causal: bool
    window: int | None
    is_told: bool = True


@contextmanager
def watch_calls() -> Iterator[list[Call]]:
    """Yields the list of the calls that are made in the block."""
    global _watching
    _watching += 1
    begun = len(_watched)
    found: list[Call] = []
    try:
        yield found
    finally:
        found += _watched[begun:]
        del _watched[begun:]
        _watching -= 1


def register(name: str) -> None:
    """Registers SEGMENTS or VARLEN in transformers, and its name for towers. Masks are not: an attention without one of
    its own gets none (`masking_utils`)."""
    from transformers import AttentionInterface

    for key in (name, TOWERS[name]):
        AttentionInterface.register(key, attend_segments if name == SEGMENTS else attend_varlen)


def attend_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention inside each sample of one row: `query` [1, A, N, D] -> [1, N, A, D]. The signature is that of
    transformers' attention functions. Raises SegmentsError if the model asks for any other kind of attention (a mask, a
    batch of rows), or does not say where the samples lie."""
    call = _read_call(module, query, key, attention_mask, more)
    outputs = []
    # Neighbouring samples of equal length are one batch.
    for start, count, length in _find_cuts(query.shape[2], more):
        stop = start + count * length
        q, k, v = (_split_samples(tensor[0, :, start:stop], count) for tensor in (query, key, value))
        is_windowed = call.window is not None and call.window < length
        made = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_build_band(length, call.window or 0, query.device) if is_windowed else None,
            dropout_p=dropout if module.training else 0.0,
            is_causal=call.is_causal and not is_windowed,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(made.transpose(1, 2).reshape(stop - start, *made.shape[1::2]))
    return torch.cat(outputs)[None], None


def attend_varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """As `attend_segments`, by torch's flash kernel. Raises SegmentsError also if the kernel cannot take these tensors,
    and ImportError if torch has none. It knows no dropout and needs the lengths of the samples: a call with dropout, or
    without lengths, goes to `attend_segments`."""
    starts, longest = more.get("cu_seq_lens_q"), more.get("max_length_q")
    if dropout or starts is None or longest is None:
        return attend_segments(module, query, key, value, attention_mask, scaling, dropout, **more)
    call = _read_call(module, query, key, attention_mask, more)
    dtype = _choose_dtype(query)
    obstacle = find_obstacle(
        query.device.type,
        torch.cuda.get_device_capability(query.device) if query.device.type == "cuda" else (0, 0),
        dtype,
        (query.shape[-1], value.shape[-1]),
        (query.shape[1], key.shape[1]),
    )
    if obstacle:
        raise SegmentsError(obstacle)
    width = round_width(max(query.shape[-1], value.shape[-1]))
    q, k, v = (_to_rows(tensor, width, dtype) for tensor in (query, key, value))
    from torch.nn.attention import varlen

    options: dict[str, Any] = {}
    # Before torch 2.12 the kernel takes grouped heads without a word.
    if "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    starts = starts.to(torch.int32)
    made: Any = varlen.varlen_attn(
        q,
        k,
        v,
        starts,
        starts,
        int(longest),
        int(longest),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window_size=choose_window(call),
        **options,
    )
    return made[None, ..., : value.shape[-1]], None


def find_obstacle(
    device: str, capability: tuple[int, int], dtype: torch.dtype, widths: tuple[int, int], heads: tuple[int, int]
) -> str | None:
    """Why torch's flash kernel cannot take tensors like these; None if it can. `widths`: head dimensions of queries and
    values; `heads`: the numbers A of query and G of key heads. The conditions are those of ATen's flash_api.cpp
    (`mha_varlen_fwd`, `mha_varlen_bwd`); widths are padded here."""
    if device != "cuda":
        return f"there is no flash kernel for {device}."
    if capability < (8, 0):
        return "flash kernels need compute capability 8.0 (Ampere) or newer."
    if dtype not in (torch.float16, torch.bfloat16):
        return f"flash kernels take float16 and bfloat16, not {str(dtype).removeprefix('torch.')}."
    if round_width(max(widths)) > MAX_WIDTH:
        return f"flash kernels take head dimensions up to {MAX_WIDTH}, not {max(widths)}."
    if heads[0] % heads[1]:
        return f"{heads[0]} query heads are no multiple of {heads[1]} key heads."
    return None


def round_width(width: int) -> int:
    """The next multiple of 8: flash kernels take no other head dimension."""
    return -(-width // 8) * 8


def choose_window(call: Call) -> tuple[int, int]:
    """The tokens to the left and to the right that a token attends to, besides itself; -1: all. A window of
    transformers counts the token itself."""
    if not call.is_causal:
        return (-1, -1)
    return (-1, 0) if call.window is None else (call.window - 1, 0)


def _read_call(
    module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, more: dict[str, Any]
) -> Call:
    """What is asked for. Raises SegmentsError if it is none of what this module does."""
    asked = more.get("is_causal")
    is_causal = bool(getattr(module, "is_causal", True) if asked is None else asked)
    window = more.get("sliding_window")
    strange = [name for name in _UNKNOWN if more.get(name) is not None]
    # Without `cu_seq_lens` an attention to later tokens is that of a tower, to whom position ids say nothing.
    is_full = not is_causal and (window is not None or more.get("cu_seq_lens_q") is None)
    if strange or attention_mask is not None or is_full or len(query) != 1 or query.shape[2] != key.shape[2]:
        raise SegmentsError(f"{type(module).__name__} attends in a way of its own: {', '.join(strange) or 'masked'}.")
    call = Call(is_causal, window, more.get("cu_seq_lens_q") is not None)
    if _watching:
        _watched.append(call)
    return call


def _choose_dtype(query: Tensor) -> torch.dtype:
    """The dtype in which torch's sdpa would compute: that of autocast, where it is on."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _to_rows(tensor_1AND: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[1, A, N, D] -> [N, A, width], padded with zeros: they add nothing to a product of queries and keys."""
    tensor = tensor_1AND[0].transpose(0, 1).to(dtype)
    tensor = functional.pad(tensor, (0, width - tensor.shape[-1])) if width > tensor.shape[-1] else tensor
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _build_band(length: int, window: int, device: torch.device) -> Tensor:
    """[T, T]: True where a token attends, to itself and the `window - 1` tokens before it."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window)


def _split_samples(tensor_AND: Tensor, count: int) -> Tensor:
    """[A, n * T, D] -> [n, A, T, D]."""
    heads, tokens, width = tensor_AND.shape
    return tensor_AND.reshape(heads, count, tokens // count, width).transpose(0, 1)


def _find_cuts(tokens: int, more: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Runs of neighbouring samples of equal length in a row of N = `tokens`, as `(start of the first, number of
    samples, tokens in each)`. Raises SegmentsError if the call does not tell. Waits for the device, hence the cache,
    unless `cu_seq_lens_q` is on the host."""
    given, positions = more.get("cu_seq_lens_q"), more.get("position_ids")
    source = positions if given is None else given
    if source is None:
        raise SegmentsError("the layers do not hand on where the samples of a row lie.")
    found: list[tuple[int, int, int]] | None = _cuts.get(source)  # type: ignore[no-untyped-call]
    if found is None:
        is_start = None if given is not None else source[0] == 0
        bounds = source.tolist() if is_start is None else [*is_start.nonzero()[:, 0].tolist(), source.shape[1]]
        found = list(iter_runs(bounds))
        _cuts[source] = found
    if not found or found[0][0] != 0 or sum(count * length for _, count, length in found) != tokens:
        raise SegmentsError(f"the samples do not fill the row of {tokens} tokens.")
    return found


def iter_runs(bounds: list[int]) -> Iterator[tuple[int, int, int]]:
    """`(start, count, length)` of each run of samples of equal length; sample i is the tokens `bounds[i]` to
    `bounds[i + 1]`. Samples of no token are passed over. Example: 0 3 6 8 -> (0, 2, 3), (6, 1, 2)."""
    run: tuple[int, int, int] | None = None
    for start, stop in pairwise(bounds):
        if stop == start:
            continue
        if run is not None and run[2] == stop - start:
            run = (run[0], run[1] + 1, run[2])
            continue
        if run is not None:
            yield run
        run = (start, 1, stop - start)
    if run is not None:
        yield run
