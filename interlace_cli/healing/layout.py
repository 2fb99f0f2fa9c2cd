"""Whether a model is trained on packed rows or on padded batches. Packing is verified on the user's samples before step
1: if it would change the logits, length-grouped padded batches are used instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.padding import HARMLESS, Padding
from interlace_cli.data.rows import Encoded, PackedRow, complete_row, pack, pad
from interlace_cli.families.packing import SEGMENTS, SegmentsError, register_segments
from interlace_cli.healing.loss import LogitsLoss

SAMPLES = 3
"""Samples that packing is verified on."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""dtype -> largest relative difference of the logits, |packed - alone| / |alone|. If samples attend to each other, it
is more than 0.5."""


@dataclass(frozen=True)
class Layout:
    """`attention` is `flash` (flash-attn's varlen kernels), `segments` (`families/packing.py`), `sdpa` (transformers'
    mask over the whole row) or `padded`; `padding`: what the model needs then."""

    attention: str
    padding: Padding = HARMLESS

    @property
    def is_packed(self) -> bool:
        """Whether rows hold several samples end to end."""
        return self.attention != "padded"


@torch.no_grad()
def choose_layout(model: Any, samples: Sequence[Encoded], dtype: torch.dtype) -> Layout:
    """The fastest layout that leaves the logits of `samples` as they are. Afterwards the model uses its attention."""
    probe = [sample for sample in samples if sample.length][:SAMPLES]
    original = _read_attention(model)
    alone = torch.cat([_run(model, pad([sample]), dtype) for sample in probe])
    for attention in ("flash", "segments", "sdpa"):
        if not _set_attention(model, attention, original):
            continue
        try:
            packed = _run(model, pack(probe), dtype)
        except torch.OutOfMemoryError:
            raise
        # What models and attention functions raise for a packed row that they do not support.
        except (SegmentsError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, ImportError):
            continue
        if packed.shape == alone.shape and _differ(packed, alone) < TOLERANCE[dtype]:
            return Layout(attention)
    _set_attention(model, "sdpa", original)
    return Layout("padded", _choose_padding(model, [sample for sample in samples if sample.length], dtype))


def _choose_padding(model: Any, samples: Sequence[Encoded], dtype: torch.dtype) -> Padding:
    """What leaves the logits as they are: nothing, positions from the mask, or one sample a batch. Samples with the
    same fields alone share a batch."""
    fields = Counter(sample.fields for sample in samples).most_common(1)[0][0]
    probe = [sample for sample in samples if sample.fields == fields][:SAMPLES]
    if len(probe) < 2:
        return Padding(is_harmless=False)
    alone = torch.cat([_run(model, pad([sample]), dtype) for sample in probe])
    row = pad(probe)
    for padding in (HARMLESS, Padding(needs_positions=True)):
        try:
            error = _differ(_run(model, complete_row(row, padding), dtype), alone)
        except torch.OutOfMemoryError:
            raise
        # What models raise that know no positions of ours.
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
            continue
        if error < TOLERANCE[dtype]:
            return padding
    return Padding(is_harmless=False)


def apply_layout(model: Any, layout: Layout) -> None:
    """Sets the attention of a layout in another model (the teacher)."""
    if layout.attention in ("flash", "segments"):
        _set_attention(model, layout.attention, _read_attention(model))


def _run(model: Any, row: PackedRow, dtype: torch.dtype) -> Tensor:
    """Logits [K, V] at the K labels."""
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        return LogitsLoss().teacher_targets(model, row.to(model.device, dtype)).float()


def _differ(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def _read_attention(model: Any) -> dict[str, str]:
    """Name of each sub-config -> its attention implementation; the empty name is that of the whole model."""
    config = model.config
    names = [name for name in config.sub_configs if getattr(config, name, None) is not None]
    return {"": config._attn_implementation} | {name: getattr(config, name)._attn_implementation for name in names}


def _set_attention(model: Any, attention: str, original: dict[str, str]) -> bool:
    """Sets the language model's attention. Returns False if it is not available here; then nothing has changed."""
    from transformers.utils import is_flash_attn_2_available

    text = model.config.get_text_config()
    name = next((name for name in original if name and getattr(model.config, name) is text), "")
    if attention == "flash":
        is_half = model.dtype in (torch.bfloat16, torch.float16)
        if not (is_half and model.device.type == "cuda" and is_flash_attn_2_available()):
            return False
        wanted = "flash_attention_2"
    elif attention == "segments":
        # A sliding window or a chunk may be expressed in the mask alone, which `segments` does not get. The trial would
        # not show it if its samples are shorter than the window.
        if not _is_full_attention(text):
            return False
        register_segments()
        wanted = SEGMENTS
    else:
        wanted = original[name]
    try:
        model.set_attn_implementation({**original, name: wanted})
    except (ValueError, ImportError):
        return False
    return True


def _is_full_attention(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(config, "attention_chunk_size", None)
