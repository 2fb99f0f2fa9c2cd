"""A tiny random model of every architecture that interlace is tested with: the config class's own defaults, shrunk by
rules, with what an architecture needs beyond them. Kinds of layers are mixed on purpose, windows are shorter than the
inputs. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interlace_cli.families.architectures import ARCHITECTURES, LANGUAGE_MODELS, NEEDS
from interlace_cli.io.models import choose_auto_class, import_transformers

LAYERS, VOCABULARY, IMAGE = 8, 128, 100
NAMES = list(ARCHITECTURES)
TEXT_NAMES = list(LANGUAGE_MODELS)
Fields = dict[str, Any]

COMMON = {
    **dict.fromkeys(["hidden_size", "d_model", "embed_dim", "n_embd"], 32),
    **dict.fromkeys(["intermediate_size", "intermediate_size_mlp", "ffn_dim", "ffn_hidden_size", "d_ff"], 48),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], 48),
    **dict.fromkeys(["num_attention_heads", "num_heads", "attention_heads", "n_head"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads", "mamba_num_heads"], 4),
    **dict.fromkeys(["head_dim", "d_kv", "v_head_dim", "qk_head_dim", "index_head_dim", "mamba_head_dim"], 8),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim"], 8),
    **dict.fromkeys(["num_key_value_heads", "linear_num_key_heads", "index_n_heads"], 2),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_k", "moe_topk"], 2),
    **dict.fromkeys(["n_shared_experts", "moe_num_shared_experts", "n_group", "topk_group", "n_groups"], 1),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["moe_shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"], 16),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "index_topk", "linear_conv_kernel_dim"], 4),
    **dict.fromkeys(["vocab_size", "vocab_size_per_layer_input"], VOCABULARY),
    **dict.fromkeys(["sliding_window", "window_size"], 6),
    **dict.fromkeys(["ssm_state_size", "chunk_size", "attention_chunk_size", "hidden_size_per_layer_input"], 8),
    "linear_num_value_heads": 4,
    "conv_kernel": 4,
    "max_position_embeddings": 256,
    "max_window_layers": 4,
    "first_k_dense_replace": 2,
    "num_kv_shared_layers": 2,
}
TEXT = {
    **COMMON,
    **dict.fromkeys(["num_hidden_layers", "num_layers", "n_layer", "n_layers", "layers"], LAYERS),
    **dict.fromkeys(["decoder_layers", "num_decoder_layers"], LAYERS),
    "encoder_layers": 4,
}
VISION = {
    **COMMON,
    **dict.fromkeys(["num_hidden_layers", "depth", "num_layers", "n_layers", "encoder_layers"], 2),
    **dict.fromkeys(["out_hidden_size", "projection_dim", "hidden_dim", "output_dim"], 32),
    **dict.fromkeys(["patch_size", "num_key_value_heads"], 4),
    **dict.fromkeys(["image_size", "num_position_embeddings"], 16),
    **dict.fromkeys(["spatial_merge_size", "temporal_patch_size"], 2),
    "num_channels": 3,
}
BESIDE = ("vision", "visual", "audio", "image", "vq", "qformer", "perceiver", "projector")
REDONE = ("transformers_version", "architectures", "_name_or_path", "dtype", "model_type")
DERIVED = ("layer_types", "mlp_layer_types", "per_layer_config", "no_rope_layers", "moe_layers")

TOWERS: list[tuple[str, dict[str, Any], list[int], dict[str, Any]]] = [
    ("qwen2_vl", {}, [1, 4], {}),
    ("qwen2_5_vl", {"fullatt_block_indexes": [1, 3, 5]}, [0, 3], {"fullatt_block_indexes": [0, 3]}),
    ("qwen3_vl", {"deepstack_visual_indexes": [1, 3]}, [0, 2, 4], {"deepstack_visual_indexes": [0, 1]}),
    ("qwen3_vl", {"deepstack_visual_indexes": [1, 3]}, [3], {"deepstack_visual_indexes": [1, 2]}),
    ("llava", {"vision_feature_layer": -2}, [1, 2], {"vision_feature_layer": -2}),
    ("llava", {"vision_feature_layer": [1, 3, -2]}, [2, 4], {"vision_feature_layer": [1, 2, -2]}),
    ("llava_next", {"vision_feature_layer": 4}, [0, 3], {"vision_feature_layer": 2}),
    ("llava_onevision", {"vision_feature_layer": -1}, [0, 5], {"vision_feature_layer": -1}),
]
"""Family, what its config says besides, the dropped vision layers, what the config is to say afterwards."""

DUAL = [("clip",), ("siglip",)]
TESTED_STACKS: dict[str, list[Any]] = {
    "vision": [*TOWERS, ("mllama",), *DUAL],
    "text": DUAL,
    "encoder": [("florence2",)],
    "decoder": [("florence2",)],
}


def build_config(name: str, change: Callable[[Fields], None] | None = None) -> Any:
    """The config of the architecture, `LAYERS` layers deep; `change` may edit its fields at the end. Skips the
    test where transformers does not have it, or not the package that it needs."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name not in import_transformers().CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {name}")
    cls = type(import_transformers().AutoConfig.for_model(name))
    fields = _shrink(cls().to_dict(), is_beside=False)
    CHANGES.get(name, lambda _: None)(fields)
    if change:
        change(fields)
    return cls(**fields)


INSIDE: dict[str, Fields] = {
    "afmoe": {},
    "bamba": {
        "attn_layer_indices": [2, 5],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "ernie4_5_moe": {},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 8, "mamba_d_head": 4, "mamba_d_state": 8, "mamba_chunk_size": 8},
    "gpt_oss": {},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "layer_types": ["mamba", "attention"] * 4,
    },
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 1, "mamba_d_state": 4, "use_mamba_kernels": False},
    "mixtral": {},
    "qwen3_next": {},
    "smollm3": {},
}
"""Language models with fields of their own that depend on the layers, to be put inside a LLaVA."""


def build_llava_around(name: str) -> Any:
    """The config of a LLaVA with another language model inside."""
    transformers = import_transformers()
    fields = _shrink(type(transformers.AutoConfig.for_model(name))().to_dict(), is_beside=False)
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "image_size": 8}
    vision |= {"num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 4}
    text = {**fields, **INSIDE[name], "model_type": name}
    return transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=5)


def build_model(config: Any, seed: int = 0) -> Any:
    """A model in float32 whose every parameter, norms and gates too, differs from its initial value."""
    torch.manual_seed(seed)
    model = getattr(import_transformers(), choose_auto_class(config.model_type)).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config.eos_token_id = None
    return model


def build_inputs(name: str, config: Any) -> dict[str, Tensor]:
    """Two rows of text, and whatever else the architecture cannot do without."""
    ids = torch.randint(10, 50, (2, 12), generator=_generator())
    if name in IMAGE_TOKENS:
        ids = torch.cat([torch.full((2, IMAGE_TOKENS[name](config)), IMAGE), ids], 1)
    return add_inputs(name, config, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def add_inputs(name: str, config: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`inputs` [B, T] and whatever else the architecture cannot do without."""
    return INPUTS[name](inputs, config) if name in INPUTS else inputs


def _shrink(fields: Fields, is_beside: bool, name: str = "") -> Fields:
    rules, small = VISION if is_beside else TEXT, {}
    layers = fields.get("num_hidden_layers")
    for field, value in fields.items():
        is_per_layer = isinstance(value, list) and len(value) == layers and not is_beside
        if field in REDONE or field in DERIVED or (is_per_layer and field != "intermediate_size"):
            continue
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, dict) and (field.endswith("_config") or "model_type" in value):
            small[field] = _shrink(value, is_beside or any(word in field for word in BESIDE), field)
            small[field]["model_type"] = value.get("model_type", "")
        elif field in rules and (is_number or (field == "intermediate_size" and isinstance(value, list))):
            small[field] = rules[field]
        elif "token_id" in field and is_number and value >= VOCABULARY:
            small[field] = 60 + sum(map(ord, field)) % 40
        elif field.endswith("_token_index") and is_number and value >= VOCABULARY:
            small[field] = IMAGE
        elif field == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
            small[field] = {**value, "mrope_section": [2, 1, 1]}
        else:
            small[field] = value
    return {field: value for field, value in small.items() if field != "model_type" or value}


def _text(**more: Any) -> Callable[[Fields], None]:
    return lambda fields: fields["text_config"].update(more)


def _vision(**more: Any) -> Callable[[Fields], None]:
    return lambda fields: fields["vision_config"].update(more)


def _top(**more: Any) -> Callable[[Fields], None]:
    return lambda fields: fields.update(more)


def _all(*changes: Callable[[Fields], None]) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        for one in changes:
            one(fields)

    return change


def _rope(*section: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section), **more}


_GLM = _text(head_dim=8, rope_parameters=_rope(2, 1, 1, partial_rotary_factor=1.0))
_QWEN2 = _text(head_dim=8, rope_parameters=_rope(2, 1, 1), use_sliding_window=True)
_SMALL_ADAPTER = _top(out_hidden_size=128, projector_hidden_size=32)
_ALTERNATING = ["sliding_attention", "full_attention"] * 4
_SPARSE = ["dense", "sparse"] * 4
_QFORMER = _all(
    _top(image_token_index=IMAGE, num_query_tokens=4),
    _text(word_embed_proj_dim=32),
    lambda fields: fields["qformer_config"].update(encoder_hidden_size=32),
)

CHANGES: dict[str, Callable[[Fields], None]] = {
    "blip-2": _QFORMER,
    "chameleon": _all(
        _top(vocabulary_map={"<image>": 4, "IMGIMGA": 5}),
        lambda f: f["vq_config"].update(base_channels=32, latent_channels=32, num_embeddings=16, embed_dim=16),
    ),
    "cohere_compass": _text(
        layer_types=_ALTERNATING, rope_parameters={kind: _rope(2, 1, 1) for kind in _ALTERNATING[:2]}
    ),
    "deepseek_v3": _top(num_key_value_heads=4, head_dim=4),
    "deepseek_ocr2": _text(
        mlp_layer_types=_SPARSE, num_experts_per_tok=2, n_routed_experts=4, moe_intermediate_size=16
    ),
    "emu3": _all(
        _top(vocabulary_map={"<image>": 4, **{f"<|visual token {i:06}|>": 5 + i for i in range(4)}}),
        lambda f: f["vq_config"].update(
            base_channels=32, latent_channels=4, codebook_size=4, embed_dim=4, hidden_size=32
        ),
    ),
    "ernie4_5_vl_moe": _text(
        moe_intermediate_size=[16, 16], mlp_layer_types=_SPARSE, head_dim=8, rope_parameters=_rope(1, 1, 2)
    ),
    "florence2": _all(
        _text(vocab_size=VOCABULARY, d_model=32, encoder_layers=4, decoder_layers=LAYERS),
        _vision(embed_dim=[16] * 4, depths=[1] * 4, num_heads=[2] * 4, num_groups=[2] * 4, projection_dim=32),
    ),
    "gemma4": _text(num_kv_shared_layers=2, layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 2),
    **{name: _top(**fields) for name, fields in INSIDE.items() if name in LANGUAGE_MODELS},
    "glm46v": _GLM,
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "glm5_next": _text(num_key_value_heads=4, index_topk=16, qk_rope_head_dim=0, linear_num_heads=4, linear_head_dim=8),
    "glm_ocr": _GLM,
    "granite4_vision": _all(
        _top(deepstack_layer_map=[[-1, 1], [-2, 5]], spatial_target_layers=[3, 6], downsample_rate="1/2"),
        _vision(hidden_size=64),
        _text(embedding_multiplier=1.0, logits_scaling=1.0, residual_multiplier=1.0, attention_multiplier=1.0),
        lambda f: f["qformer_config"].update(hidden_size=64, encoder_hidden_size=64),
    ),
    "hunyuan_vl": _text(head_dim=8, rope_parameters=_rope(1, 1, 1, 1)),
    "idefics": _top(cross_layer_interval=2, use_resampler=False, additional_vocab_size=4),
    "instructblip": _QFORMER,
    "janus": lambda f: f["vq_config"].update(
        base_channels=32, embed_dim=8, num_embeddings=16, latent_channels=16, projection_dim=16
    ),
    "kimi_k25": _text(num_key_value_heads=4, head_dim=4, first_k_dense_replace=3),
    "kosmos-2": _top(latent_query_num=4),
    "llama4": _all(
        _text(moe_layers=[1, 4, 5]),
        _vision(vision_output_dim=32, projector_input_dim=32, projector_output_dim=32),
    ),
    "mistral4": _top(num_key_value_heads=4),
    "mistral_large4": _text(num_key_value_heads=4),
    "mllama": _all(
        _text(cross_attention_layers=[2, 5]),
        _vision(intermediate_layers_indices=[0, 1], vision_output_dim=96, num_global_layers=1),
    ),
    "molmo2": lambda f: f["adapter_config"].update(vision_feature_layer=[1, 0]),
    "muse_glimmer": _SMALL_ADAPTER,
    "muse_spark": _all(
        _SMALL_ADAPTER,
        _text(moe_hidden_size=32),
        lambda f: f["audio_config"].update(num_hidden_layers=4, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
    ),
    "nemotron_h": _top(layers_block_type=["mamba", "attention", "moe", "mamba", "attention", "moe", "mamba", "moe"]),
    "nemotron_h_omni": _all(
        _text(layers_block_type=["mamba", "attention", "moe", "mamba", "attention", "moe", "mamba", "moe"]),
        _top(projector_hidden_size=32, vision_hidden_size=32),
        _vision(max_img_size=64),
    ),
    "paddleocr_vl": _QWEN2,
    "perception_lm": _vision(
        architecture="vit_tiny_patch16_224", model_args={"embed_dim": 192, "depth": 2, "img_size": [32, 32]}
    ),
    "pix2struct": _vision(patch_embed_hidden_size=16, seq_len=16),
    "qwen2_5_omni_thinker": _all(_text(rope_parameters=_rope(2, 1, 1)), _top(vision_start_token_id=60)),
    "qwen2_5_vl": _QWEN2,
    "qwen2_vl": _QWEN2,
    "qwen3_omni_moe_thinker": _top(vision_start_token_id=60),
    "qwen3_vl_moe": _text(decoder_sparse_step=2),
    "step3p7": _text(sliding_window=6),
}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _with_pixels(inputs: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    side = config.vision_config.image_size
    return {**inputs, "pixel_values": _draw_pixels(len(inputs["input_ids"]), 3, side, side)}


def _draw_pixels(*shape: int) -> Tensor:
    """Every row has the same picture: a row alone is to be what it is in a batch."""
    return torch.randn(1, *shape[1:], generator=_generator()).expand(*shape)


def _idefics(inputs: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    side, (rows, tokens) = config.vision_config.image_size, inputs["input_ids"].shape
    mask = torch.ones(rows, tokens, 1, dtype=torch.long)
    return {**inputs, "pixel_values": _draw_pixels(rows, 1, 3, side, side), "image_attention_mask": mask}


def _kosmos2(inputs: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    return {**_with_pixels(inputs, config), "image_embeds_position_mask": inputs["input_ids"] == IMAGE}


def _mllama(inputs: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """With a picture of one tile, so that the layers that attend to it take part."""
    vision, (rows, tokens) = config.vision_config, inputs["input_ids"].shape
    tiles, side = vision.max_num_tiles, vision.image_size
    is_tile = (torch.arange(tiles) == 0).long().expand(rows, 1, tiles)
    return {
        **inputs,
        "pixel_values": _draw_pixels(rows, 1, tiles, 3, side, side),
        "aspect_ratio_ids": torch.ones(rows, 1, dtype=torch.long),
        "aspect_ratio_mask": is_tile,
        "cross_attention_mask": is_tile[:, None].expand(rows, tokens, 1, tiles),
    }


def _pix2struct(inputs: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    rows = len(inputs["input_ids"])
    places = torch.randint(1, 4, (1, 6, 2), generator=_generator()).float()
    values = torch.randn(1, 6, config.vision_config.patch_embed_hidden_size, generator=_generator())
    return {
        "flattened_patches": torch.cat([places, values], -1).expand(rows, -1, -1),
        "attention_mask": torch.ones(rows, 6),
        "decoder_input_ids": inputs["input_ids"],
    }


IMAGE_TOKENS: dict[str, Callable[[Any], int]] = {
    "blip-2": lambda config: config.num_query_tokens,
    "instructblip": lambda config: config.num_query_tokens,
    "kosmos-2": lambda config: config.latent_query_num,
}
"""How many tokens a picture takes in the text, where there must be one."""
INPUTS: dict[str, Callable[[dict[str, Tensor], Any], dict[str, Tensor]]] = {
    "blip": _with_pixels,
    "blip-2": _with_pixels,
    "idefics": _idefics,
    "instructblip": lambda inputs, config: {
        **_with_pixels(inputs, config),
        "qformer_input_ids": inputs["input_ids"],
        "qformer_attention_mask": inputs["attention_mask"],
    },
    "kosmos-2": _kosmos2,
    "mllama": _mllama,
    "pix2struct": _pix2struct,
    "t5gemma2": lambda inputs, _: {**inputs, "decoder_input_ids": inputs["input_ids"]},
}
