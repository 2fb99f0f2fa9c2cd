"""`analyze`: one pass over the calibration split; how similar hidden states are across 1, 2 and 3 layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interlace_cli.core.opened import open_model
from interlace_cli.domain.analysis import Analysis, Calibration, SpanSimilarity
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import DatasetError
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.arrays import save_arrays
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.io.datasets import hash_dataset, load_split
from interlace_cli.io.scores import save_scores

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from interlace_cli.core.tensors import SpanTap
    from interlace_cli.data.batches import Batcher, Inputs


@dataclass(frozen=True)
class AnalyzeOptions:
    """`text`: `prompt` is the first human turn with the generation prompt, as the released scripts measure."""

    samples: int | None = None
    batch_size: int = 8
    text: Literal["prompt", "conversation"] = "prompt"
    dtype: str = "auto"
    device: str = "auto"
    attention: str | None = None
    stack: str = LANGUAGE


def build_settings(options: AnalyzeOptions) -> Settings:
    """What the figures depend on; the batch size moves them by rounding alone."""
    return {
        "samples": options.samples,
        "text": options.text,
        "dtype": options.dtype,
        "device": options.device,
        "attention": options.attention,
        "batch_size": options.batch_size,
        "stack": options.stack,
    }


def analyze_model(
    location: str,
    dataset: Path,
    out: Path,
    options: AnalyzeOptions,
    progress: Progress,
    scores_folder: Path | None = None,
) -> Analysis:
    """Measures the model at `location` and writes `out`, with the per-sample arrays beside it."""
    opened = open_model(location, options.stack)
    samples = load_split(dataset, "calibration")[: options.samples]
    rows, patches = _measure(opened.checkpoint.path, dataset, samples, options, progress)
    arrays = _to_arrays(rows, opened.facts.num_layers)
    similarity = _mean_over_samples(arrays, "all")
    assert similarity is not None
    analysis = Analysis(
        kind=Analysis.KIND,
        schema_version=Analysis.SCHEMA,
        created_by=build_origin("analyze", build_settings(options)),
        inputs={"model": opened.facts.fingerprint, "dataset": hash_dataset(dataset)},
        model=opened.facts,
        calibration=Calibration(
            samples=len(samples),
            tokens=float(arrays["tokens"].mean()),
            image_tokens=float(arrays["image_tokens"].mean()),
            vision_patches=patches / len(samples),
        ),
        similarity=similarity,
        image=_mean_over_samples(arrays, "image"),
        text=_mean_over_samples(arrays, "text"),
    )
    save_arrays(arrays, out.with_suffix(".safetensors"))
    save_artifact(analysis, out)
    if scores_folder is not None:
        save_scores(scores_folder, [arrays[f"all_s{p}"] for p in (1, 2, 3)])
    return analysis


@dataclass(frozen=True)
class _Row:
    """One sample: `similarity` [P, L, M], and how many tokens it was the mean of."""

    similarity: Any
    tokens: int
    image_tokens: int


def _measure(
    model_path: Path, dataset: Path, samples: list[Sample], options: AnalyzeOptions, progress: Progress
) -> tuple[list[_Row], int]:
    """A row a sample, in the samples' order, and the number of vision patches in all."""
    from interlace_cli.core.tensors import SpanTap
    from interlace_cli.data.batches import Batcher, order_by_length, to_device
    from interlace_cli.families.modules import find_image_token, find_layers
    from interlace_cli.io.models import load_model, load_processor

    model = load_model(model_path, options.dtype, options.device, options.attention)
    batcher = Batcher(load_processor(model_path), dataset)
    image_token = find_image_token(model)
    rows: list[_Row | None] = [None] * len(samples)
    patches = 0
    order = order_by_length(samples)
    # Elsewhere than in a decoder of text a layer's tokens are not the prompt's: one sample at a time, all of them.
    is_text = options.stack in (LANGUAGE, "text") and not model.config.is_encoder_decoder
    batch_size = options.batch_size if is_text else 1
    layers = find_layers(model, options.stack)
    with SpanTap(layers) as tap, progress.task("analyze", len(samples), "samples") as advance:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            inputs = _build_inputs(batcher, [samples[i] for i in chosen], options.text, model)
            patches += _count_patches(inputs, model.config)
            inputs = to_device(inputs, model.device, model.dtype)
            found: list[_Row | None]
            if is_text:
                is_image = inputs["input_ids"] == (-1 if image_token is None else image_token)
                found = _measure_prompts(tap, model, inputs, is_image)
            else:
                found = [_measure_all(tap, model, inputs, is_image=options.stack == "vision")]
            for index, row in zip(chosen, found, strict=True):
                rows[index] = row
            advance(len(chosen))
    if not any(rows):
        raise DatasetError(f"no calibration sample reaches the {options.stack} layers.", "Give samples with images.")
    return [row for row in rows if row is not None], patches


def _build_inputs(batcher: Batcher, samples: list[Sample], text: str, model: PreTrainedModel) -> Inputs:
    if text == "prompt":
        inputs = batcher.build_prompts(samples)
    else:
        inputs = batcher.build_conversations(samples)
        inputs.pop("labels")
    if model.config.is_encoder_decoder:
        import torch

        start = model.generation_config.decoder_start_token_id or 0
        inputs["decoder_input_ids"] = torch.full((len(samples), 1), start)
    return inputs


def _measure_prompts(tap: SpanTap, model: PreTrainedModel, inputs: Inputs, is_image: torch.Tensor) -> list[_Row | None]:
    similarity = tap.run(model, inputs, is_image).cpu().numpy()
    mask = inputs["attention_mask"].bool()
    tokens, image_tokens = mask.sum(-1).tolist(), (mask & is_image).sum(-1).tolist()
    return [_Row(similarity[:, :, place], tokens[place], image_tokens[place]) for place in range(len(tokens))]


def _measure_all(tap: SpanTap, model: PreTrainedModel, inputs: Inputs, is_image: bool) -> _Row | None:
    """None for a sample that does not reach the layers: text alone has nothing for a vision tower."""
    similarity = tap.run_on_all(model, inputs, is_image)
    if similarity is None:
        return None
    return _Row(similarity[:, :, 0].cpu().numpy(), tap.tokens, tap.tokens if is_image else 0)


def _count_patches(inputs: dict[str, torch.Tensor], config: Any) -> int:
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


def _to_arrays(rows: list[_Row], num_layers: int) -> dict[str, np.ndarray]:
    import numpy as np

    similarity = np.stack([row.similarity for row in rows])
    arrays = {
        "tokens": np.array([row.tokens for row in rows], dtype=np.int32),
        "image_tokens": np.array([row.image_tokens for row in rows], dtype=np.int32),
    }
    for m, modality in enumerate(("all", "image", "text")):
        for p in (1, 2, 3):
            arrays[f"{modality}_s{p}"] = np.ascontiguousarray(similarity[:, p - 1, : num_layers - p + 1, m])
    return arrays


def _mean_over_samples(arrays: dict[str, np.ndarray], modality: str) -> SpanSimilarity | None:
    """Mean over the samples that have tokens of the modality; None if there is none."""
    import numpy as np

    image = arrays["image_tokens"]
    counts = {"all": arrays["tokens"], "image": image, "text": arrays["tokens"] - image}[modality]
    present = counts > 0
    if not present.any():
        return None
    means = [arrays[f"{modality}_s{p}"][present].mean(0, dtype=np.float64).tolist() for p in (1, 2, 3)]
    return SpanSimilarity(s1=means[0], s2=means[1], s3=means[2])
