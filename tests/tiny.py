"""Builders of tiny random models, one for each family, and the inputs they take. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interlace_cli.io.models import import_transformers

IMAGE, VIDEO, VISION_START, VISION_END = 5, 6, 7, 8
VOCABULARY = 96
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


@dataclass(frozen=True)
class Tiny:
    """A family's configuration and a function that makes inputs with an image in each row."""

    name: str
    build_config: Callable[[int, bool], Any]
    build_inputs: Callable[[], dict[str, Tensor]]

    def build_model(self, layers: int = 8, tied: bool = False, seed: int = 0) -> Any:
        """A random model in float32 whose every parameter (norms too) differs from its initial value."""
        transformers = import_transformers()
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(self.build_config(layers, tied))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.eval()

    def save(self, folder: Path, layers: int = 8, tied: bool = False, shard: str = "50GB", seed: int = 0) -> Any:
        model = self.build_model(layers, tied, seed)
        model.save_pretrained(folder, max_shard_size=shard)
        return model


def _text(layers: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        **more,
    }


def _qwen_tokens() -> dict[str, int]:
    return {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }


def _qwen2(layers: int, tied: bool) -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "mlp_ratio": 2}
    text = _text(layers, rope_parameters=MROPE, use_sliding_window=True, sliding_window=6, max_window_layers=4)
    return import_transformers().Qwen2VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, **_qwen_tokens()
    )


def _qwen2_5(layers: int, tied: bool) -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    text = _text(layers, rope_parameters=MROPE, use_sliding_window=True, sliding_window=6, max_window_layers=5)
    return import_transformers().Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, **_qwen_tokens()
    )


def _qwen3(layers: int, tied: bool) -> Any:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text = _text(layers, head_dim=8, rope_parameters={**MROPE, "mrope_interleaved": True}, tie_word_embeddings=tied)
    return import_transformers().Qwen3VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, **_qwen_tokens()
    )


def _qwen_inputs() -> dict[str, Tensor]:
    """Two rows, each with an image of 4 x 4 patches that merge to 4 tokens."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(10, VOCABULARY, (2, 12), generator=generator)
    image = torch.tensor([VISION_START, *[IMAGE] * 4, VISION_END]).expand(2, -1)
    input_ids = torch.cat([text[:, :4], image, text[:, 4:]], 1)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == IMAGE).int(),
        "pixel_values": torch.randn(2 * 16, 3 * 2 * 4 * 4, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]]),
    }


def _clip() -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 8,
        "patch_size": 4,
        "projection_dim": 32,
    }


def _llava(layers: int, tied: bool) -> Any:
    return import_transformers().LlavaConfig(
        text_config={**_text(layers), "model_type": "llama"},
        vision_config=_clip(),
        image_token_index=IMAGE,
        tie_word_embeddings=tied,
    )


def _llava_qwen2(layers: int, tied: bool) -> Any:
    text = _text(layers, model_type="qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=3)
    return import_transformers().LlavaConfig(
        text_config=text, vision_config=_clip(), image_token_index=IMAGE, tie_word_embeddings=tied
    )


def _llava_next(layers: int, tied: bool) -> Any:
    return import_transformers().LlavaNextConfig(
        text_config={**_text(layers), "model_type": "llama"},
        vision_config=_clip(),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[8, 8]],
        tie_word_embeddings=tied,
    )


def _llava_onevision(layers: int, tied: bool) -> Any:
    vision = {**_clip(), "model_type": "siglip_vision_model"}
    vision.pop("projection_dim")
    text = _text(layers, model_type="qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=3)
    return import_transformers().LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[8, 8]],
        tie_word_embeddings=tied,
    )


def _clip_inputs(count: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(10, VOCABULARY, (2, 12), generator=generator)
    input_ids = torch.cat([text[:, :4], torch.full((2, count), IMAGE), text[:, 4:]], 1)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(2, 3, 8, 8, generator=generator),
    }


def _tiled_inputs() -> dict[str, Tensor]:
    """LLaVA-NeXT: a base tile and one tile of 4 features each, and a newline feature behind each of two rows."""
    inputs = _clip_inputs(4 + 4 + 2)
    pixels = inputs["pixel_values"]
    return {
        **inputs,
        "pixel_values": torch.stack([pixels, pixels.flip(-1)], 1),
        "image_sizes": torch.tensor([[8, 8]] * 2),
    }


TINY = {
    tiny.name: tiny
    for tiny in (
        Tiny("qwen2_vl", _qwen2, _qwen_inputs),
        Tiny("qwen2_5_vl", _qwen2_5, _qwen_inputs),
        Tiny("qwen3_vl", _qwen3, _qwen_inputs),
        Tiny("llava", _llava, _clip_inputs),
        Tiny("llava-qwen2", _llava_qwen2, _clip_inputs),
        Tiny("llava_next", _llava_next, _tiled_inputs),
        Tiny("llava_onevision", _llava_onevision, _tiled_inputs),
    )
}


def save_chain_model(folder: Path, layers: int = 8, tower: int | None = None) -> None:
    """A random Qwen3-VL of `layers` layers with the demo's vocabulary and processor: every step can run on it. With a
    vision tower `tower` layers deep, if that is said, and features taken from its first."""
    from interlace_cli.demo.model import build_config, build_processor

    transformers = import_transformers()
    config = build_config()
    config.text_config.num_hidden_layers = layers
    config.text_config.hidden_size = config.vision_config.out_hidden_size = 32
    config.text_config.intermediate_size = 48
    if tower is not None:
        config.vision_config.depth, config.vision_config.deepstack_visual_indexes = tower, [0]
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    processor = build_processor()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_servable_model(folder: Path) -> None:
    """As `save_chain_model`, with heads of a width that servers' attention takes, the part for videos that they ask
    for, and weights that give more than one answer."""
    from interlace_cli.demo.model import build_config, build_processor

    transformers = import_transformers()
    config = build_config()
    text, side = config.text_config, {"shortest_edge": 256, "longest_edge": 65536}
    text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.head_dim = 8, 64, 96, 32
    text.rope_parameters["mrope_section"] = [6, 5, 5]
    config.vision_config.out_hidden_size = 64
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    processor = build_processor()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    video = {"video_processor_type": "Qwen3VLVideoProcessor", "patch_size": 8, "merge_size": 2, "size": side}
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**video, "temporal_patch_size": 2}))


def save_llava_chain_model(folder: Path) -> None:
    """A random LLaVA, 8 layers deep with 6 in its CLIP tower, with CLIP's way with images and the demo's words."""
    from interlace_cli.demo.model import build_processor

    transformers = import_transformers()
    demo = build_processor()
    tokenizer, image_token = demo.tokenizer, "<|image_pad|>"
    config = _llava(8, False)
    config.text_config.vocab_size, config.text_config.max_position_embeddings = len(tokenizer), 512
    config.image_token_index = tokenizer.convert_tokens_to_ids(image_token)
    config.vision_config.image_size, config.vision_config.patch_size, config.vision_config.num_hidden_layers = 32, 8, 6
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    template = demo.chat_template.replace("<|vision_start|>", "").replace("<|vision_end|>", "")
    side = {"height": 32, "width": 32}
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=image_token,
        chat_template=template,
    ).save_pretrained(folder)


def save_clip(folder: Path) -> None:
    """A random CLIP with the demo's words, and CLIP's own processor."""
    from interlace_cli.demo.model import build_processor

    transformers = import_transformers()
    side, tokenizer = 32, build_processor().tokenizer
    tokenizer.model_max_length = 24
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 24,
            "projection_dim": 16,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": 0,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**text, "image_size": side, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)


def save_qwen_with_real_words(folder: Path, llama: Path) -> None:
    """A random Qwen3-VL with the vocabulary of Qwen2, as llama.cpp's own tests carry it: its converter knows tokenizers
    by what they make of a text, and takes no other."""
    import sys

    sys.path.insert(0, str(llama / "gguf-py"))
    from gguf import GGUFReader

    transformers = import_transformers()
    fields = GGUFReader(llama / "models/ggml-vocab-qwen2.gguf").fields
    words = [str(word) for word in fields["tokenizer.ggml.tokens"].contents()]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {word: number for number, word in enumerate(words) if word not in special and not word.startswith("[PAD")}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocab, merges=merges)
    vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:] + vision})
    config = _qwen3(6, True)
    config.text_config.vocab_size = len(tokenizer)
    for name, word in zip(("vision_start", "vision_end", "image", "video"), vision, strict=True):
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(word))
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    images = transformers.Qwen2VLImageProcessor(patch_size=config.vision_config.patch_size, merge_size=2)
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
        "{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    processor = transformers.Qwen3VLProcessor(images, tokenizer, chat_template=template)
    processor.save_pretrained(folder)


def bypass(model: Any, layers: list[int]) -> None:
    """Lets the hidden state pass through these decoder layers unchanged, by other means than the package's own."""
    from interlace_cli.families.modules import find_layers

    found = find_layers(model)
    for index in layers:
        found[index].forward = lambda hidden_states, *args, **kwargs: hidden_states
