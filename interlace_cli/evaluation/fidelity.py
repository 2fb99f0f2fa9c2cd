"""Checks that a pruned checkpoint computes what it should.

The reference is the dense model with the dropped layers bypassed. Both models are loaded, one after the other, and
their outputs on the same inputs are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.batches import to_model
from interlace_cli.domain.checkpoint import Fidelity
from interlace_cli.errors import CheckpointError, InterlaceError
from interlace_cli.evaluation.generation import build_timed_config, generate
from interlace_cli.families.modules import bypassed
from interlace_cli.io.models import load_model, load_processor
from interlace_cli.io.placement import Placement
from interlace_cli.io.text_processor import TextProcessor
from interlace_cli.options.evaluate import GREEDY
from interlace_cli.runtime.accelerator import is_cuda, read_free
from interlace_cli.runtime.device import choose_device
from interlace_cli.runtime.memory import is_out_of_memory, read_available

TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}
"""dtype -> the largest absolute difference of any output value that passes."""
QUESTION, TEXT_QUESTION = "What is in the picture?", "What is the capital of France, and what is it known for?"
NEW_TOKENS = 6
_SHARE_OF_MEMORY = 0.7


@dataclass(frozen=True)
class Probe:
    """Model inputs by keyword, and a description of them for people."""

    inputs: dict[str, Tensor]
    description: str


def compare_checkpoints(
    dense: Path, pruned: Path, drop: Sequence[int], stack: str, parameters: int, device: str | Placement = "auto"
) -> Fidelity:
    """The largest absolute difference between the outputs of `pruned` and of `dense` without the layers in `drop`.

    `stack` says which layers `drop` indexes: the language model's or the vision tower's. `parameters` is the dense
    model's parameter count. It decides the device and dtype (`choose_device_and_dtype`). Raises CheckpointError if the
    model fits nowhere.
    """
    placement = Placement(device) if isinstance(device, str) else device
    chosen, dtype = choose_device_and_dtype(parameters, placement)
    placement = replace(placement, device=chosen)
    model = load_model(dense, dtype, placement)
    probe = build_probe(model, dense)
    inputs = to_model(probe.inputs, model)
    whole = _run(model, inputs)
    with bypassed(model, drop, stack):
        wanted = _run(model, inputs)
    found_dtype = str(model.dtype).removeprefix("torch.")
    del model
    model = load_model(pruned, dtype, placement)
    found = _run(model, inputs)
    alike = _generates_alike(model, inputs) if model.can_generate() and "decoder_input_ids" not in inputs else None
    if alike is False:
        del model
        model = load_model(dense, dtype, placement)
        with bypassed(model, drop, stack):
            # Models with an indexer (sparse attention) generate other tokens with the cache than without it, even when
            # dense. The test says nothing about pruning then.
            alike = None if not _generates_alike(model, inputs) else False
    return Fidelity(
        difference=_distance(found, wanted),
        effect=_distance(whole, wanted),
        tolerance=TOLERANCES.get(found_dtype, 1e-2),
        generates_alike=alike,
        inputs=probe.description,
        device=chosen,
        dtype=found_dtype,
    )


def choose_device_and_dtype(parameters: int, placement: Placement) -> tuple[str, str]:
    """The first device and dtype at which `parameters` weights take at most 70% of the free memory.

    Tried in this order: float32 on the GPU, the checkpoint's own dtype ("native", counted as 2 bytes) on the GPU, then
    the same two on the CPU. With a `device` other than "auto" only that one is tried. A model that may be dispatched
    fits always: on the disk, if nowhere else. Raises CheckpointError if none fits.
    """
    device = placement.device
    wanted = choose_device(device)
    if placement.is_dispatched:
        fits = 4 * parameters <= _SHARE_OF_MEMORY * placement.count_bytes()
        return wanted, "float32" if fits else "native"
    candidates = [wanted] if wanted == "cpu" or device != "auto" else [wanted, "cpu"]
    for candidate in candidates:
        for dtype, size in (("float32", 4), ("native", 2)):
            if parameters * size <= _SHARE_OF_MEMORY * _free_memory(candidate):
                return candidate, dtype
    raise CheckpointError(
        f"{parameters:,} parameters do not fit into the memory here.",
        "Add --device-map auto, which takes all GPUs, the host's memory and the disk.",
    )


def build_probe(model: Any, folder: Path) -> Probe:
    """Inputs that `model` accepts, built from the files in `folder`.

    Tried in this order: a picture and a question through the checkpoint's own processor (of a language model a question
    alone); random tokens (2 samples of 12
    tokens); the same with random pixels. Raises InterlaceError if the model accepts none of them.
    """
    try:
        processor = load_processor(folder)
        inputs = _ask(processor)
        _run(model, to_model(inputs, model))
        shown = "a question" if isinstance(processor, TextProcessor) else "a picture and a question"
        return Probe(_add_start(model, inputs), f"{shown}, {inputs['input_ids'].shape[1]} tokens")
    # Processors fail in as many ways as there are processors; the probe below needs none.
    except Exception:
        pass
    generator = torch.Generator().manual_seed(0)
    config = model.config.get_text_config(decoder=True)
    ids = torch.randint(3, min(config.vocab_size, 1000), (2, 12), generator=generator)
    inputs = _add_start(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    side = getattr(getattr(model.config, "vision_config", None), "image_size", None)
    candidates = [Probe(inputs, "random tokens of text, 2 × 12")]
    if isinstance(side, int):
        picture = torch.rand(2, 3, side, side, generator=generator)
        candidates.append(Probe({**inputs, "pixel_values": picture}, "random tokens and pixels, 2 × 12 tokens"))
    for probe in candidates:
        try:
            _run(model, to_model(probe.inputs, model))
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            if is_out_of_memory(error):
                raise
            continue
        return probe
    raise InterlaceError(f"{type(model).__name__} accepts none of the inputs that were tried.", "Compare it by hand.")


def _add_start(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds `decoder_input_ids` [B, 6] for an encoder-decoder, which needs them to return logits."""
    if not model.config.is_encoder_decoder:
        return inputs
    ids = torch.arange(3, 9).expand(inputs["input_ids"].shape[0], -1)
    return {**inputs, "decoder_input_ids": ids}


def _ask(processor: Any) -> dict[str, Tensor]:
    from PIL import Image

    if isinstance(processor, TextProcessor):
        messages = [{"role": "user", "content": TEXT_QUESTION}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return dict(processor(text=[text], return_tensors="pt"))

    picture = Image.effect_mandelbrot((96, 96), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    text = QUESTION
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    encoded = processor(text=[text], images=[picture], return_tensors="pt")
    return {name: value for name, value in encoded.items() if isinstance(value, Tensor)}


@torch.inference_mode()
def _run(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The logits as float32 on the CPU; of a model without logits, all tensors that it returns."""
    options = {"use_cache": False} if model.can_generate() else {}
    output = model(**inputs, **options)
    logits = getattr(output, "logits", None)
    tensors = [logits] if logits is not None else [value for value in output.values() if isinstance(value, Tensor)]
    return [tensor.float().cpu() for tensor in tensors]


def _distance(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest absolute difference over all values of all outputs."""
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


@torch.inference_mode()
def _generates_alike(model: Any, inputs: dict[str, Tensor]) -> bool:
    """Whether greedy generation gives the same tokens with the key/value cache as without it."""
    config = build_timed_config(model, GREEDY, NEW_TOKENS)
    cached = generate(model, inputs, config)
    config.use_cache = False
    return torch.equal(cached, generate(model, inputs, config))


def _free_memory(device: str) -> int:
    """Free bytes on the device; for the CPU, the memory that is available."""
    return read_free(device) if is_cuda(device) else read_available()
