"""A step of healing our way and the released recipe's way, on one random model, timed in turns.

The released way (method.md): the embeddings are made to require gradients, so that the backward pass goes through every
layer; every layer is checkpointed; logits of all tokens; samples in a padded batch. Both train the same layers of the
same model, in the same precision, with the same optimizer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.data.batches import IGNORE
from interlace_cli.data.rows import Encoded, Row, build_rows, pad
from interlace_cli.domain.benchmark import HealBenchmark, Side
from interlace_cli.families.modules import find_layers
from interlace_cli.families.packing import find_positions
from interlace_cli.healing.head import choose_loss
from interlace_cli.healing.layout import Layout, apply_layout, choose_layout
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.step import RowLoss, Weights
from interlace_cli.healing.trainable import apply_checkpointing, apply_trainable_set
from interlace_cli.io.models import import_transformers

SIDE, PATCH, MERGE = 224, 16, 2
"""Each sample has a square image of 224 pixels, the largest of the recipe: 196 patches, 49 tokens."""


@dataclass(frozen=True)
class Shape:
    """Of a dense Qwen3-VL; `tuned` of `kept` layers train, every third of them, as after dropping a quarter."""

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
        """Layers left when a quarter is dropped."""
        return self.layers - self.layers // 4

    @property
    def tuned(self) -> list[int]:
        """As many as were dropped: the first of each kept two of a triplet, from behind DeepStack's on."""
        first = len(self.deepstack)
        return list(range(first, self.kept - 1, 2))[: self.layers // 4]


SHAPES = {
    "tiny": Shape(256, 768, 8, 2, 32, 16, 8192, 64, 2, 4, (0, 1), True),
    "4b": Shape(2560, 9728, 32, 8, 128, 36, 151936, 1024, 24, 16, (5, 11, 17), True),
    "8b": Shape(4096, 12288, 32, 8, 128, 36, 151936, 1152, 27, 16, (8, 16, 24), False),
}


def build_model(shape: Shape, dtype: torch.dtype, device: str) -> Any:
    """Random weights, made on the device: what they are changes neither time nor memory."""
    transformers = import_transformers()
    image = shape.vocabulary - 1
    section = shape.head_dim // 2 // 3
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.kept,
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
        image_token_id=image,
        video_token_id=image - 1,
        vision_start_token_id=image - 2,
        vision_end_token_id=image - 3,
        tie_word_embeddings=shape.is_tied,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)


def build_samples(shape: Shape, tokens: int, model: Any) -> list[Encoded]:
    """Samples of 128 to 512 tokens, `tokens` together: an image, a question, and an answer of a third of them."""
    generator = torch.Generator().manual_seed(0)
    positions, samples, left = find_positions(model), [], tokens
    image_tokens = (SIDE // PATCH // MERGE) ** 2
    while left > 0:
        length = int(torch.randint(128, 513, (1,), generator=generator))
        length = left if left - length < 128 else length
        ids = torch.randint(0, shape.vocabulary - 8, (length,), generator=generator)
        ids[1 : 1 + image_tokens] = shape.vocabulary - 1
        targets = torch.full((length,), IGNORE)
        answer = length // 3
        targets[-answer - 1 : -1] = ids[-answer:]
        fields = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == shape.vocabulary - 1).int(),
        }
        patches = (SIDE // PATCH) ** 2
        whole = {
            "pixel_values": torch.randn(patches, 3 * 2 * PATCH * PATCH, generator=generator),
            "image_grid_thw": torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]]),
        }
        inputs = {name: value[None] for name, value in fields.items()} | whole
        samples.append(Encoded(fields, whole, targets, positions(inputs)[:, 0], 0))
        left -= length
    return samples


def measure(
    shape: Shape,
    tokens: int,
    batch_size: int,
    repeats: int,
    optim: str,
    is_checkpointed: bool,
    device: str,
    advance: Callable[[], None],
) -> HealBenchmark:
    """Times both ways in turns; the first of each warms up and is not counted."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model = build_model(shape, dtype, device)
    layers = find_layers(model)
    apply_trainable_set(model, layers, shape.tuned)
    samples = build_samples(shape, tokens, model)
    layout = choose_layout(model, samples, dtype)
    rows = build_rows(samples, layout.is_packed, tokens, batch_size)
    loss = RowLoss(Stage(("ce",)), choose_loss(model, rows[0].to(device, dtype)), Weights(0.0, 0.0))
    ours = _Ours(layout, loss, model, layers, shape.tuned, rows, is_checkpointed)
    groups = [samples[i : i + batch_size] for i in range(0, len(samples), batch_size)]
    theirs = _Released(model, layers, [pad(group) for group in groups], len(samples))
    ways = {"ours": ours.step, "released": theirs.step}
    optimizers = {name: _build_optimizer(model, optim) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, int | None] = dict.fromkeys(ways)
    for turn in range(repeats + 1):
        for name, step in ways.items():
            taken, peak = _time(step, optimizers[name], device)
            # The other way's turn: its peak is not to count this one's moments.
            optimizers[name].state.clear()
            peaks[name] = peak if turn == 0 else peaks[name]
            if turn:
                seconds[name].append(taken)
            advance()
    ratios = [a / b for a, b in zip(seconds["released"], seconds["ours"], strict=True)]
    sides = {
        name: Side(
            tokens_per_second=tokens / statistics.median(seconds[name]),
            seconds_per_step=statistics.median(seconds[name]),
            peak_memory_bytes=peaks[name],
        )
        for name in ways
    }
    return HealBenchmark(
        shape=next(name for name, known in SHAPES.items() if known is shape),
        layers=shape.kept,
        tuned=len(shape.tuned),
        tokens=tokens,
        samples=len(samples),
        layout=layout.attention,
        optim=optim,
        machine=torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        ours=sides["ours"],
        released=sides["released"],
        speedup=statistics.median(ratios),
    )


@dataclass
class _Ours:
    layout: Layout
    loss: RowLoss
    model: Any
    layers: nn.ModuleList
    tuned: Sequence[int]
    rows: Sequence[Row]
    is_checkpointed: bool

    def step(self) -> None:
        """Forward and backward of all rows."""
        _forget_checkpoints(self.model)
        apply_layout(self.model, self.layout)
        if self.is_checkpointed:
            apply_checkpointing(self.model, self.layers, self.tuned)
        device, dtype = self.model.device, self.model.dtype
        for row in self.rows:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                token = self.loss.compute(self.model, row.to(device, dtype)).token
            token.backward()  # type: ignore[no-untyped-call]


@dataclass
class _Released:
    model: Any
    layers: nn.ModuleList
    rows: Sequence[Row]
    samples: int

    def step(self) -> None:
        """Forward and backward of all batches."""
        model, device, dtype = self.model, self.model.device, self.model.dtype
        _forget_checkpoints(model)
        model.set_attn_implementation("sdpa")
        apply_checkpointing(model, self.layers, [0])
        handle = model.get_input_embeddings().register_forward_hook(_require_gradients)
        for row in self.rows:
            there = row.to(device, dtype)
            inputs = dict(there.inputs)
            labels = torch.full_like(inputs["input_ids"], IGNORE)
            labels[:, inputs.pop("logits_to_keep") + 1] = there.targets_BK
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(**inputs, labels=labels, use_cache=False).loss
            loss.backward()
        handle.remove()


def _require_gradients(module: nn.Module, args: Any, output: Tensor) -> None:
    del module, args
    output.requires_grad_(True)


def _forget_checkpoints(model: Any) -> None:
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False


def _build_optimizer(model: Any, optim: str) -> torch.optim.Optimizer:
    transformers = import_transformers()
    arguments = transformers.TrainingArguments(output_dir="none", optim=optim, learning_rate=1e-5, report_to="none")
    make, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return make([p for p in model.parameters() if p.requires_grad], **options)


def _time(step: Callable[[], None], optimizer: torch.optim.Optimizer, device: str) -> tuple[float, int | None]:
    """Seconds of a whole step, the optimizer's included, and the peak of the device's memory."""
    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    step()
    optimizer.step()
    optimizer.zero_grad()
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() if is_cuda else None
