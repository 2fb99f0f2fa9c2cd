"""Packed rows on a GPU: which kernels are taken, what they are given, and that no layer waits for the device."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any

import pytest
import torch
from packed_samples import split_inputs
from pretend import Pretend
from tiny import TINY
from torch.nn.attention import varlen as torch_varlen
from transformers.utils import generic
from varlen_kernels import Kernels

from interlace_cli.data.rows import Encoded, PackedRow, build_rows, pad
from interlace_cli.families import varlen
from interlace_cli.healing.layout import Layout, choose_layout

IS_TOWER_PACKED = hasattr(generic, "_FLASH_VARLEN_KWARGS")
"""Older releases of transformers hand the lengths of the text to the tower too, which then keeps its sdpa."""
TEXT_LAYERS, TOWER_LAYERS = 4, 3 * IS_TOWER_PACKED


def build(layers: int = TEXT_LAYERS) -> tuple[Any, list[Encoded], Kernels]:
    """A Qwen3-VL in bfloat16 on the GPU, two samples with a picture each, and kernels that know their lengths."""
    model = TINY["qwen3_vl"].build_model(layers).to("cuda", torch.bfloat16)
    samples = split_inputs(model, TINY["qwen3_vl"].build_inputs())
    tokens = [len(sample.targets_T) for sample in samples]
    return model, samples, Kernels({sum(tokens): tokens, 32: [16, 16], **{n: [n] for n in tokens}, 16: [16]})


def run(model: Any, samples: list[Encoded], layout: Layout) -> tuple[torch.Tensor, PackedRow]:
    """The logits at the labels of one packed row."""
    (row,) = build_rows(samples, True, 10_000, 4, lengths=layout.lengths)
    there = row.to("cuda", torch.bfloat16)
    return model(**there.arguments).logits[there.is_label_BK], there


def run_alone(model: Any, samples: list[Encoded]) -> torch.Tensor:
    rows = [pad([sample]).to("cuda", torch.bfloat16) for sample in samples]
    return torch.cat([model(**row.arguments).logits[row.is_label_BK] for row in rows])


@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
@torch.no_grad()
def test_kernels_are_given_the_lengths_that_were_made_once(
    kernel: str, gpu: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples, kernels = build()
    wanted = run_alone(model, samples)
    kernels.install_varlen(monkeypatch)
    if kernel == "flash_attention_2":
        kernels.install_flash(monkeypatch)
    layout = choose_layout(model, samples, torch.bfloat16)
    assert (layout.attention, layout.lengths) == (kernel, "device")
    tower = (kernel, varlen.TOWERS[varlen.VARLEN]) if IS_TOWER_PACKED else ("sdpa",)
    assert layout.implementations["vision_config"] in tower
    kernels.calls.clear()
    gpu.waits.clear()
    found, row = run(model, samples, layout)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
    starts = [bounds for bounds, _ in kernels.calls]
    assert len(starts) == TOWER_LAYERS + TEXT_LAYERS
    assert row.lengths is not None
    assert {id(bounds) for bounds in starts[TOWER_LAYERS:]} == {id(row.lengths.starts)}
    assert [given["max_q"] for _, given in kernels.calls] == [16] * TOWER_LAYERS + [18] * TEXT_LAYERS
    if kernel == "flash_attention_2":
        assert [given["causal"] for _, given in kernels.calls] == [False] * TOWER_LAYERS + [True] * TEXT_LAYERS
    else:
        windows = [given["window_size"] for _, given in kernels.calls]
        assert windows == [(-1, -1)] * TOWER_LAYERS + [(-1, 0)] * TEXT_LAYERS


@pytest.mark.parametrize("kernel", ["none", "varlen", "flash_attention_2"])
def test_no_layer_waits_for_the_device(kernel: str, gpu: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of twice the layers, the tower's too, waits as often, forward and backward."""
    waits = []
    for layers in (2, 4):
        model, samples, kernels = build(layers)
        if layers == 4 and IS_TOWER_PACKED:
            more = copy.deepcopy(model.model.visual.blocks)
            for block in more:
                block.attn.config = model.config.vision_config
            model.model.visual.blocks.extend(more)
        with monkeypatch.context() as patch:
            if kernel == "varlen":
                kernels.install_varlen(patch)
            elif kernel != "none":
                kernels.install_flash(patch)
            layout = choose_layout(model, samples, torch.bfloat16)
            assert layout.attention == ("segments" if kernel == "none" else kernel)
            gpu.waits.clear()
            logits, _ = run(model, samples, layout)
            logits.sum().backward()
        waits.append(Counter(gpu.waits))
    assert waits[0] == waits[1]
    read = sum(count for place, count in waits[0].items() if "varlen.py" in place)
    assert read == (kernel == "none" and IS_TOWER_PACKED), (
        "the tower's lengths, which the host does not know, are read once"
    )


@torch.no_grad()
def test_a_kernel_without_a_backward_pass_is_not_taken(gpu: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples, kernels = build()

    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, made: torch.Tensor) -> torch.Tensor:
            return made.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("This flash attention build does not support backward.")

    kernels.install_varlen(monkeypatch)
    forward = torch_varlen.varlen_attn

    @functools.wraps(forward)
    def attend(*args: Any, **named: Any) -> torch.Tensor:
        return Forward.apply(forward(*args, **named))

    monkeypatch.setattr(torch_varlen, "varlen_attn", attend)
    assert choose_layout(model, samples, torch.bfloat16).attention == "segments"
    assert kernels.calls, "it was tried"
    del gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_float32_and_old_cards_get_sdpa(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pretend(capability=(9, 0) if dtype == torch.float32 else (7, 5)):
        model, samples, kernels = build()
        kernels.install_varlen(monkeypatch)
        layout = choose_layout(model.to(dtype), samples, dtype)
        assert (layout.attention, layout.lengths) == ("segments", "host")
        assert not kernels.calls
