"""The kernels that packed rows take on a GPU, beside plain float32 products of each sample alone. Needs torch and
transformers alone."""

from __future__ import annotations

from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from varlen_kernels import attend_rows

from interlace_cli.families.varlen import SegmentsError, attend_segments, attend_varlen

pytestmark = pytest.mark.gpu
LENGTHS = [300, 17, 17, 1, 129]
FORMS = {
    "8b text": {"heads": (32, 8), "width": 128},
    "8b tower": {"heads": (16, 16), "width": 72, "is_causal": False},
    "window": {"heads": (8, 4), "width": 128, "window": 64},
    "gemma": {"heads": (8, 4), "width": 256},
    "odd width": {"heads": (4, 4), "width": 20},
    "mla": {"heads": (4, 4), "width": 192, "value_width": 128},
}
LIMIT = {torch.bfloat16: 0.02, torch.float16: 0.004, torch.float32: 1e-4}
"""Largest relative error, of results and gradients."""


class Layer(torch.nn.Module):
    is_causal = True


def compare(attend: Any, form: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    heads, width, window = form["heads"], form["width"], form.get("window")
    shapes = [(heads[0], width), (heads[1], width), (heads[1], form.get("value_width", width))]
    tensors = [
        torch.randn(1, count, sum(LENGTHS), size).to(device, dtype).requires_grad_(True) for count, size in shapes
    ]
    starts = torch.tensor([0, *accumulate(LENGTHS)], dtype=torch.int32).to(device)
    is_causal = form.get("is_causal", True)
    made, _ = attend(
        Layer(),
        *tensors,
        None,
        sliding_window=window,
        is_causal=is_causal,
        cu_seq_lens_q=starts,
        cu_seq_lens_k=starts,
        max_length_q=max(LENGTHS),
        max_length_k=max(LENGTHS),
    )
    plain = [tensor.detach().float().requires_grad_(True) for tensor in tensors]
    sees = (-1 if window is None else window - 1, 0) if is_causal else (-1, -1)
    wanted = attend_rows(*(tensor[0].transpose(0, 1) for tensor in plain), LENGTHS, width**-0.5, sees)[None]
    pull = torch.randn(wanted.shape).to(device)
    pairs = [(made.float(), wanted)]
    gradients = torch.autograd.grad(made, tensors, pull.to(made.dtype)), torch.autograd.grad(wanted, plain, pull)
    pairs += zip(*gradients, strict=True)
    for found, truth in pairs:
        assert float((found.float() - truth).norm() / truth.norm()) < LIMIT[dtype]


@pytest.mark.parametrize("dtype", list(LIMIT), ids=str)
@pytest.mark.parametrize("form", list(FORMS))
def test_sdpa_sample_by_sample(form: str, dtype: torch.dtype, device: str, is_pretended: bool) -> None:
    if is_pretended and form == "mla":
        pytest.skip("a CPU's sdpa makes a mask of its own for values of another width, and the pretend GPU refuses it")
    compare(attend_segments, FORMS[form], dtype, device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", list(FORMS))
def test_torchs_varlen_kernel(form: str, dtype: torch.dtype, device: str, is_pretended: bool) -> None:
    if is_pretended:
        with pytest.raises(NotImplementedError):
            compare(attend_varlen, FORMS[form], dtype, device)
        return
    if torch.cuda.get_device_capability() < (8, 0):
        with pytest.raises(SegmentsError):
            compare(attend_varlen, FORMS[form], dtype, device)
        return
    compare(attend_varlen, FORMS[form], dtype, device)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("form", ["8b text", "8b tower", "window"])
def test_flash_attn(form: str, version: int, device: str, is_pretended: bool) -> None:
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    installed = {2: is_flash_attn_2_available, 3: is_flash_attn_3_available}[version]
    if is_pretended or not installed():
        pytest.skip(f"flash-attn {version} is not installed")

    def attend(module: Any, *tensors: Any, **more: Any) -> Any:
        module.config = SimpleNamespace(_attn_implementation=f"flash_attention_{version}")
        return flash_attention_forward(module, *tensors, **more)

    compare(attend, FORMS[form], torch.bfloat16, device)


def test_the_kernel_does_not_wait_for_the_gpu(device: str, is_pretended: bool) -> None:
    """CUDA itself says so."""
    if is_pretended or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no kernel")
    tensors = [torch.randn(1, 8, 256, 64, device=device, dtype=torch.bfloat16) for _ in range(3)]
    starts = torch.tensor([0, 100, 256], dtype=torch.int32, device=device)
    attend_varlen(Layer(), *tensors, None, cu_seq_lens_q=starts, max_length_q=156)
    torch.cuda.set_sync_debug_mode("error")
    try:
        attend_varlen(Layer(), *tensors, None, cu_seq_lens_q=starts, max_length_q=156)
    finally:
        torch.cuda.set_sync_debug_mode("default")
