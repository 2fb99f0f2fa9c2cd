"""What tensors stand for, and what one token uses of them, by numbers that are reckoned by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interlace_cli.families.counts import (
    Experts,
    count_active,
    count_parameters,
    find_attention_width,
    find_experts,
)
from interlace_cli.io.headers import DTYPE_BITS, TensorInfo

Layout = dict[str, tuple[str, tuple[int, ...]]]


def build_tensors(layout: Layout) -> list[TensorInfo]:
    tensors = []
    for name, (dtype, shape) in layout.items():
        size = DTYPE_BITS[dtype] // 8
        for axis in shape:
            size *= axis
        tensors.append(TensorInfo(name, dtype, shape, Path("x"), 0, size))
    return tensors


GPTQ: Layout = {
    "l.0.q_proj.qweight": ("I32", (512, 4096)),
    "l.0.q_proj.qzeros": ("I32", (32, 512)),
    "l.0.q_proj.scales": ("F16", (32, 4096)),
    "l.0.q_proj.g_idx": ("I32", (4096,)),
    "l.0.q_proj.bias": ("F16", (4096,)),
    "l.0.norm.weight": ("F16", (4096,)),
}
AWQ: Layout = {
    "l.0.q_proj.qweight": ("I32", (4096, 512)),
    "l.0.q_proj.qzeros": ("I32", (32, 512)),
    "l.0.q_proj.scales": ("F16", (32, 4096)),
}
BNB: Layout = {
    "l.0.q_proj.weight": ("U8", (4096 * 4096 // 2, 1)),
    "l.0.q_proj.weight.absmax": ("U8", (4096 * 4096 // 64,)),
    "l.0.q_proj.weight.nested_absmax": ("F32", (1024,)),
    "l.0.q_proj.weight.quant_map": ("F32", (16,)),
    "l.0.q_proj.weight.quant_state.bitsandbytes__nf4": ("U8", (140,)),
}
BNB8: Layout = {
    "l.0.q_proj.weight": ("I8", (4096, 4096)),
    "l.0.q_proj.SCB": ("F32", (4096,)),
}
PACKED: Layout = {
    "l.0.q_proj.weight_packed": ("I32", (4096, 512)),
    "l.0.q_proj.weight_scale": ("BF16", (4096, 32)),
    "l.0.q_proj.weight_shape": ("I64", (2,)),
}
NVFP4: Layout = {
    "l.0.q_proj.weight_packed": ("U8", (4096, 2048)),
    "l.0.q_proj.weight_scale": ("F8_E4M3", (4096, 256)),
    "l.0.q_proj.weight_global_scale": ("F32", (1,)),
}
FP8: Layout = {
    "l.0.q_proj.weight": ("F8_E4M3", (4096, 4096)),
    "l.0.q_proj.weight_scale_inv": ("F32", (32, 32)),
}
MXFP4: Layout = {
    "l.0.experts.gate_up_proj_blocks": ("U8", (8, 64, 4, 16)),
    "l.0.experts.gate_up_proj_scales": ("U8", (8, 64, 4)),
    "l.0.experts.gate_up_proj_bias": ("BF16", (8, 64)),
    "l.0.experts.down_proj_blocks": ("U8", (8, 128, 1, 16)),
    "l.0.experts.down_proj_scales": ("U8", (8, 128, 1)),
}
WHOLE = 4096 * 4096


@pytest.mark.parametrize(
    ("layout", "settings", "expected"),
    [
        pytest.param(GPTQ, {"quant_method": "gptq", "bits": 4}, WHOLE + 2 * 4096, id="gptq"),
        pytest.param(AWQ, {"quant_method": "awq", "bits": 4}, WHOLE, id="awq"),
        pytest.param(AWQ, {"quant_method": "awq", "w_bit": 4}, WHOLE, id="awq of older files"),
        pytest.param(BNB, {"quant_method": "bitsandbytes", "_load_in_4bit": True}, WHOLE, id="bitsandbytes 4"),
        pytest.param(BNB8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, WHOLE, id="bitsandbytes 8"),
        pytest.param(
            PACKED,
            {"config_groups": {"g": {"weights": {"num_bits": 4}, "input_activations": {"num_bits": 8}}}},
            WHOLE,
            id="compressed-tensors",
        ),
        pytest.param(NVFP4, {"config_groups": {"g": {"weights": {"num_bits": 4}}}}, WHOLE, id="nvfp4"),
        pytest.param(FP8, {"quant_method": "fp8"}, WHOLE, id="fp8"),
        # 8 experts, 64 rows of 4 blocks of 32, 128 rows of one block; 64 biases each.
        pytest.param(MXFP4, {"quant_method": "mxfp4"}, 8 * (64 * 128 + 64 + 128 * 32), id="mxfp4"),
    ],
)
def test_packed_weights_count_as_what_they_stand_for(layout: Layout, settings: Any, expected: int) -> None:
    counted = count_parameters(build_tensors(layout), {"text_config": {"quantization_config": settings}})
    assert counted.keys() == layout.keys()
    assert sum(counted.values()) == expected


def test_integers_of_an_unquantized_model_count_one_each() -> None:
    layout: Layout = {"vision.position_ids": ("I64", (1, 50)), "vision.class_embedding": ("F32", (8,))}
    for config in ({}, {"quantization_config": {"bits": 4}}):
        assert sum(count_parameters(build_tensors(layout), config).values()) == 58


def test_modules_may_have_bits_of_their_own() -> None:
    layout: Layout = {"l.3.up.qweight": ("I32", (8, 16)), "l.4.up.qweight": ("I32", (16, 16))}
    settings = {"bits": 4, "dynamic": {r"+:.*\.4\..*": {"bits": 8}, r"-:.*vision.*": {}}}
    counted = count_parameters(build_tensors(layout), {"quantization_config": settings})
    assert counted == {"l.3.up.qweight": 64 * 16, "l.4.up.qweight": 64 * 16}


ATTENTION: Layout = {"l.0.q_proj.weight": ("BF16", (32, 16)), "l.0.mlp.gate.weight": ("BF16", (8, 16))}
NUMBERED: Layout = {f"l.0.mlp.experts.{number}.up.weight": ("BF16", (16, 16)) for number in range(8)}
FUSED: Layout = {"l.0.mlp.experts.up": ("BF16", (8, 16, 16)), "l.0.mlp.experts.up_bias": ("BF16", (8, 16))}
UNNAMED: Layout = {"l.0.moe.input_linear.weight": ("BF16", (8, 16, 16))}
SHARED: Layout = {"l.0.mlp.shared_experts.up.weight": ("BF16", (16, 16))}
CONVOLUTION: Layout = {"l.0.conv1d.weight": ("BF16", (8, 1, 4))}


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        pytest.param(ATTENTION, 512 + 128, id="dense"),
        pytest.param({**ATTENTION, **NUMBERED}, 512 + 128 + 2 * 256, id="numbered"),
        pytest.param({**ATTENTION, **FUSED}, 512 + 128 + 2 * (256 + 16), id="fused"),
        pytest.param({**ATTENTION, **UNNAMED}, 512 + 128 + 2 * 256, id="fused under another name"),
        pytest.param({**NUMBERED, **SHARED}, 2 * 256 + 256, id="shared"),
        pytest.param({**CONVOLUTION, **ATTENTION}, 32 + 512 + 128, id="convolution"),
    ],
)
def test_a_token_uses_the_best_experts_and_all_else(layout: Layout, expected: int) -> None:
    tensors = build_tensors(layout)
    plain = {tensor.name: tensor.parameters for tensor in tensors}
    assert count_active(tensors, plain, Experts(frozenset({8}), 2)) == expected
    assert count_active(tensors, plain, Experts(frozenset(), 0)) == sum(plain.values())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True}, ({128}, 8)),
        ({"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "topk_group": 1}, ({64}, 6)),
        ({"num_local_experts": 16, "num_experts_per_tok": 1, "expert_layer_period": 2}, ({16}, 1)),
        ({"moe_num_experts": [64, 64], "moe_k": 6, "moe_intermediate_size": [1536, 512]}, ({64}, 6)),
        ({"num_experts": 64, "moe_topk": [8, 8], "num_shared_expert": [1, 1]}, ({64}, 8)),
        ({"num_experts": 128, "top_k_experts": 8, "expert_intermediate_size": 704}, ({128}, 8)),
        ({"num_experts": None, "hidden_size": 64, "intermediate_size": 128}, (set(), 0)),
    ],
)
def test_experts_are_found_in_the_config(fields: dict[str, Any], expected: tuple[set[int], int]) -> None:
    assert find_experts(fields) == Experts(frozenset(expected[0]), expected[1])


@pytest.mark.parametrize(
    ("layout", "width"),
    [({"l.0.self_attn.q_proj.weight": ("BF16", (96, 64))}, 96), (AWQ, 64), ({"l.0.qkv.weight": ("BF16", (9, 9))}, 64)],
    ids=["query", "packed", "with others"],
)
def test_the_width_of_attention(layout: Layout, width: int) -> None:
    described = {"num_attention_heads": 4, "hidden_size": 64}
    assert find_attention_width(build_tensors(layout), described) == width
    if width == 64:
        assert find_attention_width(build_tensors(layout), {**described, "head_dim": 32}) == 128
