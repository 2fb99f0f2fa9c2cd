"""The span similarities of each sample of a split, measured in batches, for any stack.

Shape legend: L layers, P span lengths, M modalities (all, image, text), N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interlace_cli.data.batches import Batcher, Inputs, order_by_length, to_model
from interlace_cli.data.oom import Halving
from interlace_cli.data.padding import Padding, find_padding
from interlace_cli.data.prefetch import cut, read_ahead
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import DatasetError
from interlace_cli.families.finite import explain_not_finite
from interlace_cli.families.modules import find_image_token
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.importance.means import Arrays
from interlace_cli.importance.similarity import MODALITIES, SpanHook
from interlace_cli.importance.span_lengths import SPAN_LENGTHS
from interlace_cli.runtime.processes import find_processes, gather, shard
from interlace_cli.runtime.wide import to_wide

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SampleSimilarity:
    """One sample: `similarity` [P, L, M], averaged over its `tokens`, of which `image_tokens` are of images."""

    similarity: Any
    tokens: int
    image_tokens: int


Measured = tuple[list[SampleSimilarity | None], "np.ndarray | None", int]
"""Of a batch: the similarities of its samples (None for one that does not reach the layers), the angular distances
[L+1, L+1] summed over them (None if they are not measured), and the number of vision patches."""


@dataclass(frozen=True)
class SampleSimilarities:
    """`rows[i]` belongs to the sample `indices[i]` of the split. `angles` [L+1, L+1] are angular distances summed over
    the samples, None for a stack whose tokens are not a prompt's. `patches` is the number of vision patches of all
    samples."""

    indices: list[int]
    rows: list[SampleSimilarity]
    angles: np.ndarray | None
    patches: int


def measure_rows(
    model: PreTrainedModel,
    layers: torch.nn.ModuleList,
    stack: str,
    batcher: Batcher,
    samples: Sequence[Sample],
    batch_size: int,
    text: str,
    advance: Advance,
    say: Callable[[str], None],
    threads: int | None = None,
) -> SampleSimilarities:
    """Measures all `samples`. `text` is `prompt`, or anything else for whole conversations. `threads` threads prepare
    batches in advance (`data/prefetch.py`). Raises DatasetError if no sample reaches the layers of the stack."""
    image_token = find_image_token(model)
    order = order_by_length(samples)
    # Except in a text decoder, the layers' tokens are not the prompt's: one sample at a time, averaged over all tokens.
    is_text = stack in (LANGUAGE, "text") and not model.config.is_encoder_decoder
    padding = find_padding(model, batcher, samples, say) if is_text and batch_size > 1 else Padding()
    step = padding.limit(batch_size) if is_text else 1
    batches = cut(order, step)
    measured: list[Measured] = []

    def make(own: Batcher, chosen: Sequence[int]) -> tuple[Inputs]:
        return (padding.complete(_build_inputs(own, [samples[i] for i in chosen], text, model)),)

    mine = shard(batches)
    with SpanHook(layers) as hook, closing(read_ahead(mine, make, batcher, model, threads)) as made:

        def work(chosen: Sequence[int], batches: tuple[Inputs]) -> Measured:
            del chosen
            patches = count_patches(batches[0], model.config)
            inputs = to_model(batches[0], model)
            if not is_text:
                one = _measure_all(hook, model, inputs, is_image=stack == "vision")
                _check_finite([one], hook, model, inputs)
                return [one], None, patches
            found = _measure_prompts(hook, model, inputs, batches[0], -1 if image_token is None else image_token)
            _check_finite(found, hook, model, inputs)
            assert hook.angles is not None
            return found, to_wide(hook.angles).sum(0, dtype=torch.float64).cpu().numpy(), patches

        halving = Halving(batcher, make, say)
        for chosen, batch in zip(mine, made, strict=True):
            measured.append(_join(halving.run(chosen, batch, work)))
            advance(len(chosen) * find_processes().size)
    return _put_together(batches, gather(measured), stack)


def _check_finite(
    rows: Sequence[SampleSimilarity | None], hook: SpanHook, model: PreTrainedModel, inputs: Inputs
) -> None:
    """Raises NotFiniteError, at the first batch that it happens in."""
    if not all(np.isfinite(row.similarity).all() for row in rows if row is not None):
        # Its hooks would end the forward that looks for the layer.
        hook.__exit__(None, None, None)
        raise explain_not_finite(model, hook.layers, inputs, "a hidden state")


def _join(parts: Sequence[Measured]) -> Measured:
    """Joins the parts of a batch that was split on out-of-memory."""
    totals = [total for _, total, _ in parts if total is not None]
    rows = [row for found, _, _ in parts for row in found]
    return rows, sum(totals[1:], totals[0]) if totals else None, sum(patches for _, _, patches in parts)


def _put_together(batches: Sequence[Sequence[int]], measured: Sequence[Measured], stack: str) -> SampleSimilarities:
    """Joins all batches. Angles are summed in the order of the batches, whichever process measured them, so that the
    sum is the same bit for bit for any number of processes."""
    rows: dict[int, SampleSimilarity | None] = {}
    angles: np.ndarray | None = None
    for chosen, (found, total, _) in zip(batches, measured, strict=True):
        rows.update(zip(chosen, found, strict=True))
        if total is not None:
            angles = total if angles is None else angles + total
    patches = sum(count for _, _, count in measured)
    indices = [index for index in sorted(rows) if rows[index] is not None]
    if not indices:
        raise DatasetError(f"no calibration sample reaches the {stack} layers.", "Give samples with images.")
    return SampleSimilarities(indices, [row for index in indices if (row := rows[index]) is not None], angles, patches)


def build_arrays(found: SampleSimilarities, num_layers: int) -> Arrays:
    """The similarities as `means.Arrays`: float arrays [N, L-p+1] by modality and span length, and counts [N]."""
    similarity = np.stack([row.similarity for row in found.rows])
    arrays = {
        "sample": np.array(found.indices, dtype=np.int32),
        "tokens": np.array([row.tokens for row in found.rows], dtype=np.int32),
        "image_tokens": np.array([row.image_tokens for row in found.rows], dtype=np.int32),
    }
    for m, modality in enumerate(MODALITIES):
        for p in SPAN_LENGTHS:
            arrays[f"{modality}_s{p}"] = np.ascontiguousarray(similarity[:, p - 1, : num_layers - p + 1, m])
    return arrays


def count_patches(inputs: dict[str, torch.Tensor], config: Any) -> int:
    """Number of vision patches (vision tokens before merging), for the count of FLOPs. From `image_grid_thw` if there
    is one, else from the size of the pixels [..., height, width] and the tower's patch size; 0 if neither tells."""
    if "image_grid_thw" in inputs:
        return int(inputs["image_grid_thw"].prod(-1).sum())
    # Some models have no vision tower: Fuyu's patches and Chameleon's picture tokens enter the language model itself.
    vision = getattr(config, "vision_config", None)
    pixels, patch = inputs.get("pixel_values"), getattr(vision, "patch_size", None)
    if pixels is None or pixels.ndim < 4 or not isinstance(patch, int):
        return 0
    *_, height, width = pixels.shape
    images = pixels.shape[0] if pixels.ndim == 4 else pixels.shape[0] * pixels.shape[1]
    return int(images * (height // patch) * (width // patch))


def _build_inputs(batcher: Batcher, samples: list[Sample], text: str, model: PreTrainedModel) -> Inputs:
    if text == "prompt":
        inputs = batcher.build_prompts(samples)
    else:
        inputs = batcher.build_conversations(samples)
        inputs.pop("labels")
    if model.config.is_encoder_decoder:
        start = model.generation_config.decoder_start_token_id or 0
        inputs["decoder_input_ids"] = torch.full((len(samples), 1), start)
    return inputs


def _measure_prompts(
    hook: SpanHook, model: PreTrainedModel, inputs: Inputs, on_host: Inputs, image_token: int
) -> list[SampleSimilarity | None]:
    """`on_host` is the batch as it was made: counting there waits for no device."""
    similarity = hook.run(model, inputs, inputs["input_ids"] == image_token).cpu().numpy()
    mask, is_image = on_host["attention_mask"].bool(), on_host["input_ids"] == image_token
    tokens, image_tokens = mask.sum(-1).tolist(), (mask & is_image).sum(-1).tolist()
    return [SampleSimilarity(similarity[:, :, i], tokens[i], image_tokens[i]) for i in range(len(tokens))]


def _measure_all(hook: SpanHook, model: PreTrainedModel, inputs: Inputs, is_image: bool) -> SampleSimilarity | None:
    """One sample, over all tokens that the layers see. None if it does not reach them: text has nothing for a vision
    tower."""
    similarity = hook.run_on_all(model, inputs, is_image)
    if similarity is None:
        return None
    return SampleSimilarity(similarity[:, :, 0].cpu().numpy(), hook.tokens, hook.tokens if is_image else 0)
