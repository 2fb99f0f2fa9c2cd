"""Loads checkpoints and measures them by the options of `eval`: answers, their scores, and speed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Speed
from interlace_cli.domain.progress import Progress
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.text_processor import tell_format
from interlace_cli.io.workspace import METADATA
from interlace_cli.options.evaluate import EvaluateOptions
from interlace_cli.runtime.accelerator import is_cuda, read_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from interlace_cli.evaluation.answering import Answered

SPARSE_KERNELS = "2:4"
"""The pattern that GPUs have kernels for."""
BATCH_SIZE = 32


def measure_checkpoints(
    opened: Sequence[tuple[str, OpenedModel]], tasks: Sequence[EvalTask], options: EvaluateOptions, progress: Progress
) -> tuple[list[Answered], list[Speed | None]]:
    """The answers and the speed of each checkpoint, `(name, model)`. Speeds are None where none was asked for, or where
    a model generates nothing."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.evaluation.retrieval import is_dual_encoder
    from interlace_cli.evaluation.speed import measure_speed

    models: list[Any] = []
    answered: list[Answered] = []
    processor = None
    for name, model in opened:
        loaded, processor = _load(model.checkpoint.path, options)
        if not answered:
            tell_format(processor, progress.say)
        answered.append(_answer(name, loaded, processor, tasks, options, progress))
        if options.speed and not is_dual_encoder(loaded):
            models.append(loaded)
    speeds: list[Speed | None] = [None] * len(opened)
    if len(models) == len(opened):
        _use_kernels([model.checkpoint.path for _, model in opened], models, progress)
        task = next((task for task in tasks if any(sample.image for sample in task.samples)), tasks[0])
        prompt = Batcher(processor, task.folder).build_prompts([_find_prompt(task.samples)])
        speeds = list(measure_speed(models, prompt, options.repeats, options.generation_config))
    return answered, speeds


def answer_samples(
    name: str, opened: OpenedModel, tasks: Sequence[EvalTask], options: EvaluateOptions, progress: Progress
) -> Answered:
    """One checkpoint's answers to the tasks, scored."""
    return _answer(name, *_load(opened.checkpoint.path, options), tasks, options, progress)


def time_checkpoints(
    paths: Sequence[Path],
    dataset: Path,
    samples: Sequence[Sample],
    options: EvaluateOptions,
    repeats: int,
    progress: Progress,
) -> list[list[float]]:
    """Seconds to the first token, `[repeat][checkpoint]`. All checkpoints are loaded at once and take turns; 2:4 sparse
    ones run on kernels for that."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.evaluation.speed import time_first_token

    loaded = [_load(path, options) for path in paths]
    models = [model for model, _ in loaded]
    _use_kernels(paths, models, progress)
    prompt = Batcher(loaded[0][1], dataset).build_prompts([_find_prompt(samples)])
    return time_first_token(models, prompt, repeats, options.generation_config)


def has_sparse_kernels(options: EvaluateOptions) -> bool:
    """Whether the device has kernels for 2:4 sparse weights."""
    from interlace_cli.evaluation.sparse_kernels import has_kernels
    from interlace_cli.runtime.device import choose_device

    return has_kernels(choose_device(options.device))


def describe_machine(options: EvaluateOptions) -> tuple[str, str]:
    """The device and the dtype that `options` come to."""
    from interlace_cli.runtime.device import choose_device, choose_dtype

    device = choose_device(options.device)
    return _describe_device(device), str(choose_dtype(options.dtype, device)).removeprefix("torch.")


def _describe_device(device: str) -> str:
    """The GPU's name, or the processor's with the number of threads."""
    import torch

    if is_cuda(device):
        return read_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _load(path: Path, options: EvaluateOptions) -> tuple[PreTrainedModel, Any]:
    from interlace_cli.io.models import load_model, load_processor
    from interlace_cli.io.placement import Placement

    model = load_model(path, options.dtype, Placement.of(options), options.attention)
    return model, load_processor(path, options.min_pixels, options.max_pixels)


def _answer(
    name: str,
    model: PreTrainedModel,
    processor: Any,
    tasks: Sequence[EvalTask],
    options: EvaluateOptions,
    progress: Progress,
) -> Answered:
    from interlace_cli.evaluation.answering import answer_tasks

    size, limit = options.batch_size or BATCH_SIZE, options.max_new_tokens
    way, seed = options.generation_config, options.seed
    with progress.task(f"eval {name}", sum(len(task.samples) for task in tasks), "samples") as advance:
        answered = answer_tasks(model, processor, tasks, size, limit, advance, progress.say, way, seed)
    for line in answered.describe_losses():
        progress.say(f"{name}: {line}.")
    return answered


def _use_kernels(paths: Sequence[Path], models: Sequence[PreTrainedModel], progress: Progress) -> None:
    from interlace_cli.evaluation.sparse_kernels import use_sparse_kernels

    for path, model in zip(paths, models, strict=True):
        if _find_sparsity(path) == SPARSE_KERNELS:
            use_sparse_kernels(model, progress)


def _find_sparsity(path: Path) -> str | None:
    """The pattern in which a checkpoint of ours lacks weights."""
    card = path / METADATA
    return load_artifact(card, CheckpointCard).sparsity if card.exists() else None


def _find_prompt(samples: Sequence[Sample]) -> Sample:
    return next((sample for sample in samples if sample.image), samples[0])
