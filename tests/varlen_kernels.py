"""Stand-ins for the kernels of flash-attn and of `torch.nn.attention.varlen`, which run on GPUs alone: plain products
of each sample's tokens, with the signature and the conditions of the real ones. What they were called with is kept."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

REAL_VARLEN = varlen.varlen_attn


def attend_plainly(q_NAD: Tensor, k_NGD: Tensor, v_NGD: Tensor, scale: float, window: tuple[int, int]) -> Tensor:
    """Softmax attention [N, A, D] of one sample; a token sees `window` tokens to the left and to the right, -1: all."""
    groups = q_NAD.shape[1] // k_NGD.shape[1]
    k, v = (tensor.repeat_interleave(groups, 1).transpose(0, 1) for tensor in (k_NGD, v_NGD))
    scores = q_NAD.transpose(0, 1) @ k.transpose(1, 2) * scale
    places = torch.arange(scores.shape[-1], device=scores.device)
    ahead = places[None] - places[:, None]
    hidden = torch.zeros_like(ahead, dtype=torch.bool)
    if window[0] >= 0:
        hidden |= ahead < -window[0]
    if window[1] >= 0:
        hidden |= ahead > window[1]
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1)


def attend_rows(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float, window: tuple[int, int]) -> Tensor:
    """The samples of a row, each alone."""
    parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    return torch.cat([attend_plainly(*part, scale, window) for part in parts])


@dataclass
class Kernels:
    """The calls that were made: the bounds of the samples, and all other arguments by name. `lengths` are those of the
    samples of a row, known beforehand: a kernel that read them from the device would wait."""

    lengths: dict[int, list[int]]
    calls: list[tuple[Tensor, dict[str, Any]]] = field(default_factory=list)

    def varlen(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `torch.nn.attention.varlen.varlen_attn` of the torch that is installed."""
        given = dict(inspect.signature(REAL_VARLEN).bind(*args, **kwargs).arguments)
        q, k, v, starts = (given.pop(name) for name in ("query", "key", "value", "cu_seq_q"))
        assert given.pop("cu_seq_k") is starts
        assert given["max_q"] == given["max_k"]
        self.check(q, k, v, starts, given["max_q"])
        self.calls.append((starts, given))
        if "enable_gqa" in inspect.signature(REAL_VARLEN).parameters:
            assert given.get("enable_gqa") or q.shape[1] == k.shape[1]
        return attend_rows(q, k, v, self.lengths[len(q)], given["scale"], given["window_size"])

    def flash(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: Tensor | None = None,
    ) -> Tensor:
        """As `flash_attn.flash_attn_varlen_func` of flash-attn 2."""
        assert cu_seqlens_q is cu_seqlens_k
        assert max_seqlen_q == max_seqlen_k
        assert not dropout_p
        assert not softcap
        assert alibi_slopes is None
        assert block_table is None
        assert not return_attn_probs
        self.check(q, k, v, cu_seqlens_q, max_seqlen_q)
        self.calls.append((cu_seqlens_q, {"max_q": max_seqlen_q, "causal": causal, "deterministic": deterministic}))
        scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        window = (window_size[0], 0) if causal else window_size
        return attend_rows(q, k, v, self.lengths[len(q)], scale, window)

    def check(self, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> None:
        """The conditions of both kernels."""
        assert q.dtype == k.dtype == v.dtype
        assert q.ndim == k.ndim == v.ndim == 3
        assert q.shape[-1] == k.shape[-1] == v.shape[-1]
        assert q.shape[-1] % 8 == 0
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        assert starts.dtype == torch.int32
        assert starts.device == q.device
        assert starts.is_contiguous()
        assert type(longest) is int
        assert longest == max(self.lengths[len(q)])
        assert len(starts) == len(self.lengths[len(q)]) + 1

    def install_varlen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """torch's kernel, with its signature."""

        @functools.wraps(REAL_VARLEN)
        def attend(*args: Any, **kwargs: Any) -> Tensor:
            return self.varlen(*args, **kwargs)

        monkeypatch.setattr(varlen, "varlen_attn", attend)

    def install_flash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """flash-attn 2 seems to be installed, for transformers too."""
        from transformers import PreTrainedModel, modeling_flash_attention_utils, utils

        monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda: True)
        monkeypatch.setitem(
            modeling_flash_attention_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2],
            "general_availability_check",
            lambda *args, **kwargs: True,
        )
        monkeypatch.setattr(PreTrainedModel, "_flash_attn_import_error", lambda self, **kwargs: None)
        monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
        functions = (self.flash, self.flash, None, None, None)
        monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *args, **kwargs: functions)
