"""Whether a model is trained on packed rows or on padded batches, and with which attention. Packing is verified on the
user's samples before step 1: if it would change the logits, length-grouped padded batches are used instead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.padding import HARMLESS, Padding
from interlace_cli.data.rows import Encoded, PackedRow, complete_row, pack, pad
from interlace_cli.data.sample_lengths import Reader
from interlace_cli.domain.dataset import Sample
from interlace_cli.families.varlen import SEGMENTS, TOWERS, VARLEN, Call, SegmentsError, register, watch_calls
from interlace_cli.healing.loss import LogitsLoss
from interlace_cli.healing.precision import autocast
from interlace_cli.healing.sharding import find_device
from interlace_cli.io.samples import find_pictured
from interlace_cli.runtime.divided import is_divided, is_partitioned
from interlace_cli.runtime.memory import is_out_of_memory

SAMPLES = 3
"""Samples that packing is verified on."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""dtype -> largest relative difference of the logits, |packed - alone| / |alone|. If samples attend to each other, it
is more than 0.5."""


FLASH = ("flash_attention_3", "flash_attention_2")
OURS = {"varlen": VARLEN, "segments": SEGMENTS}
CANDIDATES: Sequence[tuple[str, Reader | None]] = (
    *((name, "device") for name in FLASH),
    ("varlen", "device"),
    ("segments", "host"),
    # Of models that do not take the lengths of the samples.
    *((name, None) for name in FLASH),
    ("segments", None),
    ("sdpa", None),
    # Of models whose linear attention goes by them.
    ("sdpa", "device"),
)
"""Attention of the language model, and where it reads the lengths of the samples; the fastest first."""
_UNSUPPORTED = (SegmentsError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, ImportError)
"""What models and attention functions raise for a packed row that they do not support."""


@dataclass(frozen=True)
class Layout:
    """`attention` of the language model: `flash_attention_3`, `flash_attention_2` (flash-attn's kernels), `varlen`,
    `segments` (`families/varlen.py`), `sdpa` (transformers' mask over the whole row) or `padded`; `lengths`: where it
    reads the lengths of the samples, None if the model is not told; `implementations`: what transformers calls the
    attention of each sub-config; `padding`: what the model needs if rows are padded."""

    attention: str
    padding: Padding = HARMLESS
    lengths: Reader | None = None
    implementations: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_packed(self) -> bool:
        """Whether rows hold several samples end to end."""
        return self.attention != "padded"


@torch.no_grad()
def choose_layout(model: Any, samples: Sequence[Encoded], dtype: torch.dtype) -> Layout:
    """The fastest layout that leaves the logits of `samples` as they are. Afterwards the model uses its attention."""
    usable = [sample for sample in samples if sample.length]
    probe = choose_probe(usable)
    original = _read_attention(model)
    alone = torch.cat([_run(model, pad([sample]), dtype) for sample in probe])
    for attention, lengths in CANDIDATES:
        if not _is_available(attention, find_device(model).type, dtype):
            continue
        layout = Layout(attention, lengths=lengths, implementations=_name_attention(model, attention, original))
        if _is_exact(model, layout, probe, alone, dtype):
            return _choose_tower(model, layout, probe, alone, dtype)
    apply_layout(model, Layout("padded", implementations=original))
    return Layout("padded", _choose_padding(model, usable, dtype))


def choose_trial(samples: Sequence[Sample], step: Sequence[int]) -> list[int]:
    """Indices of the samples of a trial: those of an optimizer step, and one with a picture if there is one elsewhere
    alone. What a model does to pictures (it may let their tokens see each other) shows with pictures only."""
    is_pictured = find_pictured(samples)
    if not is_pictured.any() or is_pictured[list(step)].any():
        return list(step)
    return [*step, int(is_pictured.argmax())]


def choose_probe(samples: Sequence[Encoded]) -> list[Encoded]:
    """Samples that share a row: of those with the most fields (with pictures, if any has one), the first SAMPLES; or
    one of them twice, as a row of one sample shows nothing."""
    most = max((sample.fields for sample in samples), key=len)
    found = [sample for sample in samples if sample.fields == most][:SAMPLES]
    return found if len(found) > 1 else found * 2


def _is_exact(
    model: Any,
    layout: Layout,
    probe: Sequence[Encoded],
    alone: Tensor,
    dtype: torch.dtype,
    is_tower: bool = False,
) -> bool:
    """Whether a packed row has the logits of its samples alone, and gradients. Sets the attention."""
    try:
        apply_layout(model, layout)
        row = pack(probe, layout.lengths)
        with watch_calls() as calls:
            packed = _run(model, row, dtype)
        if packed.shape != alone.shape or not _differ(packed, alone) < TOLERANCE[dtype]:
            return False
        is_told = all(call.is_told for call in calls) or layout.lengths is None
        if layout.attention in OURS and not (is_told and knows_windows(model.config.get_text_config(), calls)):
            return False
        # The kernels of a GPU may have a forward and no backward. A tower's are not asked for one.
        return is_tower or find_device(model).type == "cpu" or _has_gradients(model, row, dtype)
    except _UNSUPPORTED as error:
        if is_out_of_memory(error):
            raise
        return False


def _choose_tower(model: Any, layout: Layout, probe: Sequence[Encoded], alone: Tensor, dtype: torch.dtype) -> Layout:
    """The layout with the same attention for the towers that pack their pictures, if that is exact too. On a CPU, which
    nothing waits for, it is no faster."""
    text = _find_text(model)
    if find_device(model).type == "cpu" or layout.attention not in (*FLASH, *OURS) or not probe[0].whole:
        return layout
    wanted = TOWERS[OURS[layout.attention]] if layout.attention in OURS else layout.attention
    for name in layout.implementations:
        if name in ("", text):
            continue
        trial = replace(layout, implementations={**layout.implementations, name: wanted})
        if _is_exact(model, trial, probe, alone, dtype, is_tower=True):
            layout = trial
    apply_layout(model, layout)
    return layout


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
            difference = _differ(_run(model, complete_row(row, padding), dtype), alone)
        # What models raise that know no positions of ours.
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            continue
        if difference < TOLERANCE[dtype]:
            return padding
    return Padding(is_harmless=False)


def apply_layout(model: Any, layout: Layout) -> None:
    """Sets the attention of a layout, in this model or in another one (the teacher). Raises ValueError or ImportError
    if the model does not support it."""
    if layout.attention in OURS:
        register(OURS[layout.attention])
    if layout.implementations:
        model.set_attn_implementation(dict(layout.implementations))


def _run(model: Any, row: PackedRow, dtype: torch.dtype) -> Tensor:
    """Logits [K, V] at the K labels."""
    device = find_device(model)
    with autocast(device, dtype):
        return LogitsLoss().teacher_targets(model, row.to(device, dtype)).float()


def _has_gradients(model: Any, row: PackedRow, dtype: torch.dtype) -> bool:
    """Whether a backward pass to the first trained parameter, if there is one, gives finite numbers."""
    trained = next((parameter for parameter in model.parameters() if parameter.requires_grad), None)
    if trained is None:
        return True
    if is_partitioned(trained):
        # DeepSpeed runs no backward pass before training.
        return True
    with torch.enable_grad():
        total = _run(model, row, dtype).sum()
        if is_divided(trained):
            # `fully_shard` computes with other tensors than those that it trains.
            total.backward()  # type: ignore[no-untyped-call]
            gradient = trained.grad.full_tensor()
            model.zero_grad()
        else:
            (gradient,) = torch.autograd.grad(total, [trained])
    return math.isfinite(float(gradient.sum()))


def _differ(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def _read_attention(model: Any) -> dict[str, str]:
    """Name of each sub-config -> its attention implementation; the empty name is that of the whole model."""
    config = model.config
    names = [name for name in config.sub_configs if getattr(config, name, None) is not None]
    return {"": config._attn_implementation} | {name: getattr(config, name)._attn_implementation for name in names}


def _find_text(model: Any) -> str:
    """Name of the language model's sub-config; empty if it is the whole config."""
    text = model.config.get_text_config()
    return next((name for name in model.config.sub_configs if getattr(model.config, name, None) is text), "")


def _name_attention(model: Any, attention: str, original: dict[str, str]) -> dict[str, str]:
    """Sub-config -> implementation, with `attention` for the language model."""
    text = _find_text(model)
    return {**original, text: original[text] if attention == "sdpa" else OURS.get(attention, attention)}


def _is_available(attention: str, device: str, dtype: torch.dtype) -> bool:
    """Whether this machine has the kernels, which compute in 16 bits. What a model supports shows in the trial."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if attention in ("segments", "sdpa"):
        return True
    installed = {
        "flash_attention_3": is_flash_attn_3_available,
        "flash_attention_2": is_flash_attn_2_available,
        "varlen": lambda: True,
    }
    return device == "cuda" and dtype != torch.float32 and bool(installed[attention]())


def knows_windows(config: Any, calls: Sequence[Call]) -> bool:
    """Whether the layers have told the attention their windows. If a window is expressed in a mask alone, an attention
    without masks does not get it, and samples shorter than the window do not show it. Chunks, and layers that are no
    attention, are not known either."""
    windows = Counter(call.window for call in calls if call.is_causal)
    kinds = Counter(getattr(config, "layer_types", None) or [])
    width = getattr(config, "sliding_window", None)
    if getattr(config, "attention_chunk_size", None) or set(kinds) - {"full_attention", "sliding_attention"}:
        return False
    if not kinds["sliding_attention"]:
        return set(windows) == {None if kinds else width}
    return windows[None] == kinds["full_attention"] and windows[width] == kinds["sliding_attention"]
