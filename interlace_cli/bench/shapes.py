"""Qwen3-VL models of several sizes with random weights, and random samples for them.

The values of the weights change neither time nor memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from interlace_cli.bench.depth import choose_tuned
from interlace_cli.data.batches import IGNORE
from interlace_cli.data.rows import Encoded
from interlace_cli.demo.model import IMAGE_TOKEN, SPECIAL_TOKENS
from interlace_cli.demo.model import build_processor as build_demo_processor
from interlace_cli.errors import UsageError
from interlace_cli.families.packing import find_positions
from interlace_cli.io.models import import_transformers
from interlace_cli.runtime.device import choose_dtype

IMAGE = SPECIAL_TOKENS.index(IMAGE_TOKEN)
SIDE, PATCH, MERGE = 224, 16, 2
"""The default image of a sample is 224 x 224 pixels, the largest of INTERLACE's recipe: 196 patches of 16 x 16 pixels,
merged 2 x 2 to 49 tokens."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a dense Qwen3-VL.

    `kept` and `tuned` describe the same model after a quarter of its layers was dropped. `deepstack` are the vision
    layers whose features are added to the first decoder layers; `is_tied`: the head shares the embedding's weights.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    deepstack: tuple[int, ...]
    is_tied: bool

    @property
    def kept(self) -> int:
        """The number of layers left after dropping a quarter."""
        return self.layers - self.layers // 4

    @property
    def tuned(self) -> list[int]:
        """The positions of the layers that are trained after dropping a quarter."""
        return list(choose_tuned(self.kept, self.layers // 4, len(self.deepstack)))


SHAPES = {
    "tiny": ModelShape(256, 768, 8, 2, 32, 16, 8192, 64, 2, 4, (0, 1), True),
    "4b": ModelShape(2560, 9728, 32, 8, 128, 36, 151936, 1024, 24, 16, (5, 11, 17), True),
    "8b": ModelShape(4096, 12288, 32, 8, 128, 36, 151936, 1152, 27, 16, (8, 16, 24), False),
}


SHAPES |= {"qwen3-vl-4b": SHAPES["4b"], "qwen3-vl-8b": SHAPES["8b"]}


def build_model(shape: ModelShape, dtype: torch.dtype, device: str, layers: int | None = None) -> Any:
    """A model with random weights, created on `device`, with `layers` layers; None takes `shape.kept`."""
    transformers = import_transformers()
    section = shape.head_dim // 2 // 3
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.kept if layers is None else layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [shape.head_dim // 2 - 2 * section, section, section],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": shape.is_tied,
    }
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "out_hidden_size": shape.hidden,
        "intermediate_size": 4 * shape.vision_hidden,
        "num_heads": shape.vision_heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": list(shape.deepstack),
    }
    config = transformers.Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=SPECIAL_TOKENS.index("<|video_pad|>"),
        vision_start_token_id=SPECIAL_TOKENS.index("<|vision_start|>"),
        vision_end_token_id=SPECIAL_TOKENS.index("<|vision_end|>"),
        tie_word_embeddings=shape.is_tied,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)


def build_dense(shape: ModelShape, device: str) -> Any:
    """The model with all its layers, in eval mode; bfloat16 on a GPU."""
    return build_model(shape, choose_dtype("auto", device), device, shape.layers).eval()


def find_shape(name: str) -> ModelShape:
    """The shape called `name`. Raises UsageError if there is none."""
    if name not in SHAPES:
        raise UsageError(f"--shape does not take {name!r}.", f"It takes {', '.join(SHAPES)}.")
    return SHAPES[name]


def build_processor(side: int) -> Any:
    """The demo's processor with Qwen3-VL's patch size; it scales every picture to `side` x `side` pixels."""
    import_transformers()
    processor: Any = build_demo_processor()
    processor.image_processor.patch_size = PATCH
    processor.image_processor.size = {"shortest_edge": side * side, "longest_edge": side * side}
    return processor


def build_samples(shape: ModelShape, tokens: int, model: Any) -> list[Encoded]:
    """Random samples of 128 to 512 tokens, `tokens` together; see `build_sample`."""
    generator = torch.Generator().manual_seed(0)
    samples, left = [], tokens
    while left > 0:
        length = int(torch.randint(128, 513, (1,), generator=generator))
        length = left if left - length < 128 else length
        samples.append(build_sample(shape, length, SIDE, model, generator))
        left -= length
    return samples


def build_sample(shape: ModelShape, length: int, side: int, model: Any, generator: torch.Generator) -> Encoded:
    """A random sample of `length` tokens: one of text, a square image of `side` pixels, text.

    The last third of the tokens is the answer.
    """
    patches = side // PATCH // MERGE * MERGE
    image_tokens = (patches // MERGE) ** 2
    ids = torch.randint(len(SPECIAL_TOKENS), shape.vocabulary, (length,), generator=generator)
    ids[1 : 1 + image_tokens] = IMAGE
    targets = torch.full((length,), IGNORE)
    answer = length // 3
    targets[-answer - 1 : -1] = ids[-answer:]
    fields = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }
    whole = {
        "pixel_values": torch.randn(patches**2, 3 * 2 * PATCH * PATCH, generator=generator),
        "image_grid_thw": torch.tensor([[1, patches, patches]]),
    }
    inputs = {name: value[None] for name, value in fields.items()} | whole
    return Encoded(fields, whole, targets, find_positions(model)(inputs)[:, 0], 0)
