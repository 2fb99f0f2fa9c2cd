"""A tiny random Llama 3.2 Vision with transformers' own processor for it and the demo's words: every step can run on
it. Its processor gives each token a mask of the picture tiles that it attends to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from interlace_cli.io.models import import_transformers

IMAGE_MARK = "<|image_pad|>"


def build_mllama_processor() -> Any:
    from interlace_cli.demo.model import build_processor

    transformers = import_transformers()
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    demo = build_processor()
    tokenizer = demo.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<|begin_of_text|>"})
    tokenizer.image_token, tokenizer.image_token_id = IMAGE_MARK, tokenizer.convert_tokens_to_ids(IMAGE_MARK)
    template = demo.chat_template.replace("<|vision_start|>", "").replace("<|vision_end|>", "")
    images = MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4)
    return transformers.MllamaProcessor(images, tokenizer, chat_template=template)


def save_mllama_chain_model(folder: Path) -> None:
    """8 layers, of which 2 and 5 attend to the picture and to nothing else."""
    import zoo

    processor = build_mllama_processor()
    words = len(processor.tokenizer)

    def change(fields: dict[str, Any]) -> None:
        fields["text_config"].update(vocab_size=words, pad_token_id=processor.tokenizer.pad_token_id)
        fields["vision_config"].update(image_size=32, patch_size=8)
        fields["image_token_index"] = words

    torch.manual_seed(0)
    model = zoo.build_model(zoo.build_config("mllama", change))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
