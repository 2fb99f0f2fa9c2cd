"""The parts of the demo model: its configuration, tokenizer and processor.

A Qwen3-VL in miniature: 16 decoder layers, a vision tower of three blocks with DeepStack, one image token for each
16 x 16 pixel cell of the world's pictures. All parts are built from the world itself; nothing is downloaded.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.demo.questions import KINDS
from interlace_cli.demo.world import SIZE, build_picture

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLConfig

IMAGE_TOKEN = "<|image_pad|>"
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    IMAGE_TOKEN,
    "<|video_pad|>",
)
VOCABULARY = 448
PATCH = 8

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build_config() -> Qwen3VLConfig:
    """The configuration: about two million parameters in 16 decoder layers."""
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 4, 4],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": SPECIAL_TOKENS.index("<|endoftext|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 96,
            "num_position_embeddings": (SIZE // PATCH) ** 2,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=SPECIAL_TOKENS.index(IMAGE_TOKEN),
        video_token_id=SPECIAL_TOKENS.index("<|video_pad|>"),
        vision_start_token_id=SPECIAL_TOKENS.index("<|vision_start|>"),
        vision_end_token_id=SPECIAL_TOKENS.index("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of 448 tokens, trained on the world's questions.

    Each word of the questions is one token and each digit is one token. Any other text can be encoded, too.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_iter_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "image_token": IMAGE_TOKEN,
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )


def build_processor() -> ProcessorMixin:
    """Qwen2-VL's image processor with the tokenizer above.

    The class is `PaddleOCRVLProcessor`. It treats images exactly as `Qwen3VLProcessor` does but needs no video
    processor, so `AutoProcessor` can load the folder without torchvision.
    """
    from transformers import PaddleOCRVLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        size={"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE},
    )
    return PaddleOCRVLProcessor(image_processor, build_tokenizer(), chat_template=CHAT_TEMPLATE)


def save_processor(folder: Path) -> ProcessorMixin:
    """Saves the processor to `folder`, and the settings of a video processor, which `Qwen3VLProcessor` needs."""
    processor: Any = build_processor()
    processor.save_pretrained(folder)
    image = processor.image_processor.to_dict()
    shared = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "size")
    video = {"video_processor_type": "Qwen3VLVideoProcessor", **{name: image[name] for name in shared}}
    text = json.dumps(video, indent=2, sort_keys=True) + "\n"
    (folder / "video_preprocessor_config.json").write_text(text, encoding="utf-8")
    return processor


def _iter_text() -> Iterator[str]:
    """The tokenizer's training text: 400 random examples of each kind of question, with answers and role names."""
    rng = random.Random("vocabulary")
    for _ in range(400):
        for kind in KINDS.values():
            question, answer = kind.ask(build_picture(kind.family, rng), rng)
            yield f"{question}\n{answer}\nuser\nassistant\nsystem\n"
