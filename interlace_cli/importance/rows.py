"""The similarities of each sample of a split: a row a sample, in batches, whatever the stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interlace_cli.data.batches import Batcher, Inputs, order_by_length, to_device
from interlace_cli.data.oom import Halving
from interlace_cli.data.prefetch import cut, read_ahead
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import DatasetError
from interlace_cli.families.modules import find_image_token
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.importance.means import Arrays
from interlace_cli.importance.similarity import MODALITIES, SPANS, SpanHook
from interlace_cli.runtime.processes import find_processes, gather, shard

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SampleSimilarity:
    """One sample: `similarity` [P, L, M], and how many tokens it was the mean of."""

    similarity: Any
    tokens: int
    image_tokens: int


Measured = tuple[list[SampleSimilarity | None], "np.ndarray | None", int]
"""The rows of a batch, the sum of its angles, its vision patches."""


@dataclass(frozen=True)
class SampleSimilarities:
    """`rows[i]` is of sample `indices[i]`; `angles` [L+1, L+1] is summed over samples, None for a stack whose tokens
    are not a prompt's; `patches` counts all vision patches."""

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
    """`threads` read ahead (data/ahead.py). Raises DatasetError if no sample reaches the layers."""
    image_token = find_image_token(model)
    order = order_by_length(samples)
    # Elsewhere than in a decoder of text a layer's tokens are not the prompt's: one sample at a time, all of them.
    is_text = stack in (LANGUAGE, "text") and not model.config.is_encoder_decoder
    step = batch_size if is_text else 1
    batches = cut(order, step)
    measured: list[Measured] = []

    def make(own: Batcher, chosen: Sequence[int]) -> tuple[Inputs]:
        return (_build_inputs(own, [samples[i] for i in chosen], text, model),)

    mine = shard(batches)
    with SpanHook(layers) as tap, closing(read_ahead(mine, make, batcher, model, threads)) as made:

        def work(chosen: Sequence[int], batches: tuple[Inputs]) -> Measured:
            del chosen
            patches = count_patches(batches[0], model.config)
            inputs = to_device(batches[0], model.device, model.dtype)
            if not is_text:
                return [_measure_all(tap, model, inputs, is_image=stack == "vision")], None, patches
            is_image = inputs["input_ids"] == (-1 if image_token is None else image_token)
            found = _measure_prompts(tap, model, inputs, is_image)
            assert tap.angles is not None
            return found, tap.angles.sum(0, dtype=torch.float64).cpu().numpy(), patches

        halving = Halving(batcher, make, say)
        for chosen, batch in zip(mine, made, strict=True):
            measured.append(_join(halving.run(chosen, batch, work)))
            advance(len(chosen) * find_processes().size)
    return _put_together(batches, gather(measured), stack)


def _join(parts: Sequence[Measured]) -> Measured:
    """Of the parts of one batch."""
    totals = [total for _, total, _ in parts if total is not None]
    rows = [row for found, _, _ in parts for row in found]
    return rows, sum(totals[1:], totals[0]) if totals else None, sum(patches for _, _, patches in parts)


def _put_together(batches: Sequence[Sequence[int]], measured: Sequence[Measured], stack: str) -> SampleSimilarities:
    """In the order of the batches, whichever process measured them: the sums are the same to the bit."""
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
    """The similarities as `importance.means.Arrays` names them."""
    similarity = np.stack([row.similarity for row in found.rows])
    arrays = {
        "sample": np.array(found.indices, dtype=np.int32),
        "tokens": np.array([row.tokens for row in found.rows], dtype=np.int32),
        "image_tokens": np.array([row.image_tokens for row in found.rows], dtype=np.int32),
    }
    for m, modality in enumerate(MODALITIES):
        for p in SPANS:
            arrays[f"{modality}_s{p}"] = np.ascontiguousarray(similarity[:, p - 1, : num_layers - p + 1, m])
    return arrays


def count_patches(inputs: dict[str, torch.Tensor], config: Any) -> int:
    """Vision tokens before merging, for the count of FLOPs: from the grids where there are any, else from the size of
    the pixel tensors [..., height, width] and the tower's patch size."""
    if "image_grid_thw" in inputs:
        return int(inputs["image_grid_thw"].prod(-1).sum())
    pixels, patch = inputs.get("pixel_values"), getattr(config.vision_config, "patch_size", None)
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
    tap: SpanHook, model: PreTrainedModel, inputs: Inputs, is_image: torch.Tensor
) -> list[SampleSimilarity | None]:
    similarity = tap.run(model, inputs, is_image).cpu().numpy()
    mask = inputs["attention_mask"].bool()
    tokens, image_tokens = mask.sum(-1).tolist(), (mask & is_image).sum(-1).tolist()
    return [
        SampleSimilarity(similarity[:, :, place], tokens[place], image_tokens[place]) for place in range(len(tokens))
    ]


def _measure_all(tap: SpanHook, model: PreTrainedModel, inputs: Inputs, is_image: bool) -> SampleSimilarity | None:
    """None for a sample that does not reach the layers: text alone has nothing for a vision tower."""
    similarity = tap.run_on_all(model, inputs, is_image)
    if similarity is None:
        return None
    return SampleSimilarity(similarity[:, :, 0].cpu().numpy(), tap.tokens, tap.tokens if is_image else 0)
