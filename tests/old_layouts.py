"""Checkpoints in the layouts that custom code and older releases published: the fields of their config.json that
speak of sizes and layers, and the names of their tensors. Small numbers, no hub; transformers knows none of them, or
knows another layout under the same name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

LAYERS, TOWER = 6, 4
Config = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """`count_paths`: every place of the config, dots between keys, where the number of language layers stands. `layers`
    and `tower` are what the layers' tensors are numbered under; `inside` are the names in one layer."""

    config: Config
    layers: str
    tower: str
    count_paths: tuple[str, ...]
    inside: tuple[str, ...] = ("self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight")
    others: tuple[str, ...] = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight")
    beside: dict[str, int] = field(default_factory=dict)

    def names(self) -> Iterable[str]:
        """All tensors."""
        yield from self.others
        for prefix, count in {self.layers: LAYERS, self.tower: TOWER, **self.beside}.items():
            for number in range(count):
                yield from (f"{prefix}.{number}.{name}" for name in self.inside)

    def save(self, folder: Path, change: Callable[[Config], None] = lambda _: None) -> dict[str, torch.Tensor]:
        """Writes the folder; each tensor has values of its own. Returns them."""
        from safetensors.torch import save_file

        folder.mkdir()
        config = json.loads(json.dumps(self.config))
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        tensors = {name: torch.full((4, 4), float(number)) for number, name in enumerate(self.names())}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return tensors


_QWEN2 = {
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": LAYERS,
    "max_window_layers": 5,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "vocab_size": 4,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
}
_DEEPSEEK = {
    "hidden_size": 4,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 4,
    "vocab_size": 4,
    "model_type": "deepseek_v2",
}
_SIGLIP = {"hidden_size": 4, "num_hidden_layers": TOWER, "model_type": "siglip_vision_model", "patch_size": 14}
_AUTO = {"AutoConfig": "configuration.Config", "AutoModel": "modeling.Model"}

LAYOUTS = {
    "minicpmv": Layout(
        {
            "model_type": "minicpmv",
            "architectures": ["MiniCPMV"],
            "auto_map": _AUTO,
            **_QWEN2,
            "query_num": 64,
            "drop_vision_last_layer": False,
            "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
            "vision_config": _SIGLIP,
        },
        "llm.model.layers",
        "vpm.encoder.layers",
        ("num_hidden_layers",),
        others=("llm.model.embed_tokens.weight", "llm.lm_head.weight", "llm.model.norm.weight", "resampler.query"),
    ),
    "phi4mm": Layout(
        {
            "model_type": "phi4mm",
            "architectures": ["Phi4MMForCausalLM"],
            "auto_map": _AUTO,
            **_QWEN2,
            "embd_layer": {
                "embedding_cls": "image_audio",
                "image_embd_layer": {"crop_size": 448, "use_hd_transform": True},
            },
            "rope_scaling": {"type": "longrope", "long_factor": [1.0] * LAYERS, "short_factor": [1.0] * LAYERS},
            "vision_lora": {"dp": 0.0, "layer": "layers.*((self_attn\\.(qkv_proj|o_proj)))", "r": 4},
        },
        "model.layers",
        "model.embed_tokens_extend.image_embed.img_processor.encoder.layers",
        ("num_hidden_layers",),
        inside=("self_attn.qkv_proj.base_layer.weight", "self_attn.qkv_proj.lora_A.vision.weight"),
        beside={"model.embed_tokens_extend.audio_embed.encoder.encoders": 3},
    ),
    "llava_qwen": Layout(
        {
            "model_type": "llava_qwen",
            "architectures": ["LlavaQwenForCausalLM"],
            **_QWEN2,
            "image_grid_pinpoints": [[384 * i, 384] for i in range(1, LAYERS + 1)],
            "mm_projector_type": "mlp2x_gelu",
            "mm_spatial_pool_stride": 2,
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "google/siglip-so400m-patch14-384",
        },
        "model.layers",
        "model.vision_tower.vision_tower.vision_model.encoder.layers",
        ("num_hidden_layers",),
        beside={"model.mm_projector": 1},
    ),
    # transformers knows another llava, whose config is not flat.
    "llava-original": Layout(
        {
            "model_type": "llava",
            "architectures": ["LlavaLlamaForCausalLM"],
            **_QWEN2,
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        },
        "model.layers",
        "model.vision_tower.vision_tower.vision_model.encoder.layers",
        ("num_hidden_layers",),
        beside={"model.mm_projector": 1},
    ),
    "internvl_chat": Layout(
        {
            "model_type": "internvl_chat",
            "architectures": ["InternVLChatModel"],
            "auto_map": _AUTO,
            "llm_config": {**_QWEN2, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "pruned_heads": {}},
            "vision_config": {**_SIGLIP, "model_type": "intern_vit_6b"},
            "select_layer": -1,
            "max_dynamic_patch": 12,
            "tie_word_embeddings": False,
        },
        "language_model.model.layers",
        "vision_model.encoder.layers",
        ("llm_config.num_hidden_layers",),
        others=("language_model.model.embed_tokens.weight", "language_model.lm_head.weight", "mlp1.1.weight"),
    ),
    "deepseek_vl_v2": Layout(
        {
            "model_type": "deepseek_vl_v2",
            "architectures": ["DeepseekVLV2ForCausalLM"],
            "language_config": _DEEPSEEK,
            "vision_config": {"layers": TOWER, "mlp_ratio": 3.7, "model_name": "siglip", "model_type": "vision"},
            "projector_config": {"model_type": "mlp_projector", "depth": 2, "n_embed": 4},
            "candidate_resolutions": [[384, 384 * i] for i in range(1, LAYERS + 1)],
        },
        "language.model.layers",
        "vision.blocks",
        ("language_config.num_hidden_layers",),
        others=("language.model.embed_tokens.weight", "language.lm_head.weight", "projector.layers.0.weight"),
    ),
    "chatglm": Layout(
        {
            "model_type": "chatglm",
            "architectures": ["ChatGLMModel"],
            "auto_map": _AUTO,
            "hidden_size": 4,
            "num_layers": LAYERS,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "apply_query_key_layer_scaling": True,
            "padded_vocab_size": 4,
            "vision_config": {"hidden_size": 4, "num_hidden_layers": TOWER, "patch_size": 14},
        },
        "transformer.encoder.layers",
        "transformer.vision.transformer.layers",
        ("num_layers", "num_hidden_layers"),
        inside=("self_attention.query_key_value.weight", "mlp.dense_4h_to_h.weight"),
        others=("transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"),
    ),
    "ovis": Layout(
        {
            "model_type": "ovis",
            "architectures": ["Ovis"],
            "num_hidden_layers": LAYERS,
            "llm_config": {**_QWEN2, "model_type": "qwen2"},
            "visual_tokenizer_config": {"backbone_config": _SIGLIP, "depths": None, "vocab_size": 4},
        },
        "llm.model.layers",
        "visual_tokenizer.backbone.vision_model.encoder.layers",
        ("num_hidden_layers", "llm_config.num_hidden_layers"),
        others=("llm.model.embed_tokens.weight", "llm.lm_head.weight", "vte.weight"),
    ),
    "minicpmo": Layout(
        {
            "model_type": "minicpmo",
            "architectures": ["MiniCPMO"],
            **_QWEN2,
            "vision_config": {**_SIGLIP, "num_hidden_layers": LAYERS},
            "audio_config": {"encoder_layers": LAYERS, "num_hidden_layers": LAYERS, "model_type": "whisper"},
            "tts_config": {"num_hidden_layers": LAYERS, "model_type": "conditional_chattts"},
        },
        "llm.model.layers",
        "vpm.encoder.layers",
        ("num_hidden_layers",),
        others=("llm.model.embed_tokens.weight", "llm.lm_head.weight"),
        beside={"vpm.encoder.layers": LAYERS, "apm.layers": LAYERS, "tts.model.layers": LAYERS},
    ),
}
"""Name, mostly the model_type -> layout. MiniCPM-o's four stacks are equally deep here."""
