"""Attention inside the samples of a packed row, beside plain products of each sample alone."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from varlen_kernels import Kernels, attend_rows

from interlace_cli.data.sample_lengths import SampleLengths
from interlace_cli.families import varlen
from interlace_cli.families.varlen import Call, SegmentsError, attend_segments, attend_varlen, find_obstacle, iter_runs
from interlace_cli.healing.layout import knows_windows

LENGTHS = [5, 3, 3, 1, 9]
FORMS = {
    "causal": {},
    "grouped": {"key_heads": 2},
    "window": {"window": 4},
    "window of all": {"window": 9},
    "window of itself": {"window": 1},
    "scale": {"scale": 0.3},
    "odd width": {"width": 7},
    "narrow values": {"value_width": 6},
    "wide values": {"value_width": 17},
    "tower": {"is_causal": False},
}


class Layer(torch.nn.Module):
    is_causal = True


def draw(key_heads: int, width: int, value_width: int | None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(4, width), (key_heads, width), (key_heads, value_width or width)]
    return [torch.randn(1, heads, sum(LENGTHS), d, requires_grad=True) for heads, d in shapes]


@pytest.mark.parametrize("attend", [attend_segments, attend_varlen])
@pytest.mark.parametrize("form", list(FORMS))
def test_a_packed_row_attends_as_its_samples_alone(attend: Any, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward."""
    given = {"key_heads": 4, "width": 8, "value_width": None, "window": None, "scale": None, "is_causal": True}
    given |= FORMS[form]
    kernels = Kernels({sum(LENGTHS): LENGTHS})
    kernels.install_varlen(monkeypatch)
    monkeypatch.setattr(varlen, "find_obstacle", lambda *args: None)
    tensors = draw(given["key_heads"], given["width"], given["value_width"])
    more = SampleLengths.build(LENGTHS, "device").arguments
    made, _ = attend(
        Layer(),
        *tensors,
        None,
        scaling=given["scale"],
        sliding_window=given["window"],
        is_causal=given["is_causal"],
        **more,
    )
    window = (-1 if given["window"] is None else given["window"] - 1, 0) if given["is_causal"] else (-1, -1)
    rows = [tensor[0].transpose(0, 1) for tensor in tensors]
    wanted = attend_rows(*rows, LENGTHS, given["scale"] or given["width"] ** -0.5, window)[None]
    torch.testing.assert_close(made, wanted, atol=1e-6, rtol=1e-5)
    pull = torch.randn_like(wanted)
    for found, plain in zip(
        torch.autograd.grad(made, tensors, pull), torch.autograd.grad(wanted, tensors, pull), strict=True
    ):
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert len(kernels.calls) == (attend is attend_varlen)


def test_dropout_is_left_to_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "find_obstacle", lambda *args: pytest.fail("the kernel knows no dropout"))
    tensors = draw(4, 8, None)
    made, _ = attend_varlen(Layer(), *tensors, None, dropout=0.5, **SampleLengths.build(LENGTHS, "device").arguments)
    assert made.shape == (1, sum(LENGTHS), 4, 8)


@pytest.mark.parametrize(
    "more",
    [
        {"softcap": 30.0},
        {"s_aux": torch.ones(4)},
        {"attention_mask": torch.ones(1, 1, 21, 21)},
        {"is_causal": False, "sliding_window": 3},
        {"cu_seq_lens_q": None},
        {"cu_seq_lens_q": None, "is_causal": False, "position_ids": torch.arange(21)[None]},
        {"cu_seq_lens_q": torch.tensor([0, 20], dtype=torch.int32)},
        {"cu_seq_lens_q": torch.tensor([1, 21], dtype=torch.int32)},
        {"cu_seq_lens_q": None, "position_ids": torch.arange(1, 22)[None]},
    ],
    ids=str,
)
def test_what_is_not_implemented_is_refused(more: dict[str, Any]) -> None:
    lengths = SampleLengths.build(LENGTHS, "host").arguments
    given = {"attention_mask": None, **lengths, **more}
    with pytest.raises(SegmentsError):
        attend_segments(Layer(), *draw(4, 8, None), **given)


def test_attention_to_another_sequence_is_refused() -> None:
    query, key, value = draw(4, 8, None)
    longer = torch.cat([key, key], 2), torch.cat([value, value], 2)
    with pytest.raises(SegmentsError):
        attend_segments(Layer(), query, *longer, None, **SampleLengths.build(LENGTHS, "host").arguments)


def test_the_samples_are_found_in_the_positions_too() -> None:
    tensors = draw(4, 8, None)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    found, _ = attend_segments(Layer(), *tensors, None, position_ids=positions)
    told, _ = attend_segments(Layer(), *tensors, None, **SampleLengths.build(LENGTHS, "host").arguments)
    assert torch.equal(found, told)


def test_a_packed_row_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers, and the backward pass of checkpointed ones, share what the first one has found."""
    reads = []
    monkeypatch.setattr(varlen, "iter_runs", lambda bounds: reads.append(bounds) or iter_runs(bounds))
    more = SampleLengths.build(LENGTHS, "host").arguments
    for _ in range(3):
        attend_segments(Layer(), *draw(4, 8, None), None, **more)
    assert reads == [[0, 5, 8, 11, 12, 21]]


@given(st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=12))
@settings(max_examples=1000)
def test_runs_are_the_samples_in_order(lengths: list[int]) -> None:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    runs = list(iter_runs(bounds))
    spelled = [(start + i * length, length) for start, count, length in runs for i in range(count)]
    assert spelled == [(bounds[i], length) for i, length in enumerate(lengths) if length]
    assert all(a[2] != b[2] for a, b in pairwise(runs)), "runs are as long as can be"


def test_obstacles_are_those_of_the_kernel() -> None:
    """What a kernel takes, said in another way, and each reason for itself."""
    draw_from = random.Random(0)
    reasons: set[str] = set()
    for _ in range(5000):
        device = draw_from.choice(["cuda", "cuda", "cuda", "cpu", "mps", "xpu"])
        capability = draw_from.choice([(7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)])
        dtype = draw_from.choice([torch.float32, torch.float16, torch.bfloat16])
        widths = (draw_from.randint(1, 300), draw_from.randint(1, 300))
        heads = (draw_from.randint(1, 16), draw_from.randint(1, 16))
        found = find_obstacle(device, capability, dtype, widths, heads)
        can = device == "cuda" and capability[0] >= 8 and dtype.itemsize == 2 and max(widths) <= 256
        assert (found is None) == (can and heads[0] / heads[1] == heads[0] // heads[1])
        reasons.add(found or "")
    for word in ("for mps", "8.0", "not float32", f"not {257}", "16 query heads are no multiple of 3 key heads"):
        assert any(word in reason for reason in reasons), word


def test_an_obstacle_is_raised_before_the_kernel_runs() -> None:
    with pytest.raises(SegmentsError, match="no flash kernel for cpu"):
        attend_varlen(Layer(), *draw(4, 8, None), None, **SampleLengths.build(LENGTHS, "device").arguments)


def test_lengths_stay_on_the_host_where_a_loop_reads_them() -> None:
    lengths = SampleLengths.build(LENGTHS, "host")
    assert lengths.to("meta").starts.device.type == "cpu"
    moved = replace(lengths, reader="device").to("meta")
    assert moved.starts.device.type == "meta"
    assert moved.arguments["max_length_q"] == 9
    assert moved.arguments["cu_seq_lens_q"] is moved.arguments["cu_seq_lens_k"]
    assert lengths.starts.dtype == torch.int32


FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@pytest.mark.parametrize(
    ("kinds", "width", "windows", "knows"),
    [
        ([FULL, FULL], None, [None, None], True),
        ([FULL, FULL], 6, [None, None], True),
        ([FULL, SLIDING], 6, [None, 6], True),
        ([FULL, SLIDING], 6, [None, None], False),
        ([SLIDING, SLIDING], 6, [6, None], False),
        ([FULL, SLIDING], 6, [6, 6], False),
        ([FULL, FULL], 6, [None, 6], False),
        ([FULL, CHUNKED], None, [None, None], False),
        ([FULL, "linear_attention"], None, [None], False),
        (None, None, [None, None], True),
        (None, 6, [6, 6], True),
        (None, 6, [None, None], False),
        ([FULL], None, [], False),
    ],
)
def test_windows_are_told_or_the_attention_is_not_taken(
    kinds: list[str] | None, width: int | None, windows: list[int | None], knows: bool
) -> None:
    config = type("Config", (), {"layer_types": kinds, "sliding_window": width})
    calls = [Call(True, window) for window in windows] + [Call(False, None)]
    assert knows_windows(config, calls) == knows
