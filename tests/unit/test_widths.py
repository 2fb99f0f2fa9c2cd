"""The widths of a layer that the memory formula takes from config.json and headers: those of the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from zoo import build_config, build_model

from interlace_cli.families.counts import Experts
from interlace_cli.families.model_files import open_model
from interlace_cli.families.widths import find_widths
from interlace_cli.io.headers import TensorInfo

QWEN3_8B = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
}


def build_layer(**shapes: tuple[int, ...]) -> list[TensorInfo]:
    return [
        TensorInfo(f"l.0.{name.replace('__', '.')}.weight", "BF16", shape, Path("x"), 0, 0)
        for name, shape in shapes.items()
    ]


def test_qwen3_says_all() -> None:
    layer = build_layer(
        self_attn__q_proj=(4096, 4096),
        self_attn__k_proj=(1024, 4096),
        self_attn__q_norm=(128,),
        mlp__gate_proj=(12288, 4096),
        mlp__up_proj=(12288, 4096),
        mlp__down_proj=(4096, 12288),
    )
    found = find_widths(layer, QWEN3_8B, Experts(), 4096)
    assert found is not None
    assert found.model_dump() == {
        "hidden": 4096,
        "query": 4096,
        "key_value": 1024,
        "heads": 32,
        "intermediate": 12288,
        "vocabulary": 151936,
        "is_gated": True,
        "has_query_norm": True,
        "scales_logits": False,
    }


@pytest.mark.parametrize(
    ("layer", "fields", "inner", "is_gated"),
    [
        (build_layer(fc1=(256, 64), fc2=(64, 256)), {"ffn_dim": 256}, 256, False),
        (build_layer(mlp__gate_up_proj=(400, 64), mlp__down_proj=(64, 200)), {}, 200, True),
        (build_layer(mlp__dense_h_to_4h=(256, 64), mlp__dense_4h_to_h=(64, 256)), {}, 256, False),
        (
            build_layer(mlp__experts__gate_up_proj=(8, 64, 96), mlp__experts__down_proj=(8, 48, 64)),
            {"moe_intermediate_size": 48},
            96,
            True,
        ),
        (
            build_layer(**{f"mlp__experts__{i}__{w}": (48, 64) for i in range(8) for w in ("w1", "w3", "w2")}),
            {"intermediate_size": 48, "shared_expert_intermediate_size": 30},
            126,
            True,
        ),
    ],
    ids=["two matrices", "gate and up in one", "four times", "fused experts", "numbered experts"],
)
def test_the_mlp_is_what_a_token_meets(
    layer: list[TensorInfo], fields: dict[str, Any], inner: int, is_gated: bool
) -> None:
    described = {"hidden_size": 64, "vocab_size": 100, "num_attention_heads": 4, **fields}
    found = find_widths(layer, described, Experts(frozenset({8}), 2), 64)
    assert found is not None
    assert (found.intermediate, found.is_gated, found.key_value, found.has_query_norm) == (inner, is_gated, 64, False)


@pytest.mark.parametrize(("value", "scales"), [(30.0, True), (1.0, False), (None, False)])
def test_logits_that_are_scaled_are_seen(value: float | None, scales: bool) -> None:
    found = find_widths([], {**QWEN3_8B, "final_logit_softcapping": value}, Experts(), 4096)
    assert found is not None
    assert found.scales_logits == scales


def test_nothing_is_made_up() -> None:
    assert find_widths([], {"vocab_size": 10, "num_attention_heads": 4}, Experts(), 64) is None
    assert find_widths([], {"hidden_size": 64, "num_attention_heads": 4}, Experts(), 64) is None


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_vl", "llava"])
def test_a_saved_model_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    model = build_model(build_config(name))
    model.save_pretrained(tmp_path)
    found = open_model(tmp_path).facts.widths
    text = model.config.get_text_config()
    assert found is not None
    assert (found.hidden, found.intermediate, found.vocabulary) == (
        text.hidden_size,
        text.intermediate_size,
        text.vocab_size,
    )
    assert found.key_value * text.num_attention_heads == found.query * text.num_key_value_heads
    assert found.is_gated
    assert found.has_query_norm == (name == "qwen3_vl")
