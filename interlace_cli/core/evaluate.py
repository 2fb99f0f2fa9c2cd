"""`eval`: checkpoints side by side on the held-out split: quality, retention, size and speed."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.core.opened import OpenedModel, find_cut_stack, open_model
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Evaluation, Result, Speed
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import UsageError
from interlace_cli.evaluation.metrics import (
    is_exact_match,
    score_kinds,
    score_macro,
    score_retention,
)
from interlace_cli.evaluation.statistics import bootstrap_retention
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.arrays import save_arrays
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import hash_dataset, load_split
from interlace_cli.io.files import write_atomically
from interlace_cli.io.workspace import PASSPORT, REPORT, Workspace, require
from interlace_cli.report.html import build_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from interlace_cli.data.batches import Batcher
    from interlace_cli.evaluation.quality import Quality


SPARSE_KERNELS = "2:4"
"""The pattern that GPUs have kernels for."""


@dataclass(frozen=True)
class EvaluateOptions:
    """`speed` needs all checkpoints in memory at once; without it they are loaded one after another."""

    samples: int | None = None
    batch_size: int = 32
    max_new_tokens: int = 32
    dtype: str = "auto"
    device: str = "auto"
    attention: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    speed: bool = True
    repeats: int = 7
    seed: int = 0


def build_settings(options: EvaluateOptions) -> Settings:
    """Everything the figures depend on."""
    return dict(asdict(options))


def find_checkpoints(given: Sequence[str] | None, space: Workspace) -> list[tuple[str, str]]:
    """`(name, location)`: those given, named by their folders, or the workspace's dense, pruned and healed.

    Raises MissingInputError if neither is there, UsageError if two have one name.
    """
    if given:
        names = [Path(location).name or location for location in given]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"two checkpoints are called {twice}.", "Give folders of different names.")
        return list(zip(names, given, strict=True))
    card = load_artifact(require(require(space.pruned) / PASSPORT), CheckpointCard)
    found = [("dense", card.base.location), ("pruned", str(space.pruned)), ("healed", str(space.healed))]
    return [(name, location) for name, location in found if name != "healed" or space.healed.exists()]


def evaluate_checkpoints(
    checkpoints: Sequence[tuple[str, str]], dataset: Path, out: Path, options: EvaluateOptions, progress: Progress
) -> Evaluation:
    """Evaluates `(name, location)` pairs, the first being what the others are compared with, and writes `out`,
    with `report.html` beside it."""
    stacks = {find_cut_stack(location) for _, location in checkpoints} - {LANGUAGE}
    stack = stacks.pop() if len(stacks) == 1 else LANGUAGE
    opened = [(name, open_model(location, stack)) for name, location in checkpoints]
    samples = load_split(dataset, "heldout")[: options.samples]
    qualities, speeds, device, dtype = _measure(opened, dataset, samples, options, progress)
    correct = [_find_hits(quality, samples) for quality in qualities]
    results = _build_results(opened, samples, qualities, correct, speeds, options.seed)
    evaluation = Evaluation(
        kind=Evaluation.KIND,
        schema_version=Evaluation.SCHEMA,
        created_by=build_origin("eval", build_settings(options)),
        inputs={"dataset": hash_dataset(dataset), **{name: model.facts.fingerprint for name, model in opened}},
        device=device,
        dtype=dtype,
        samples=dict(sorted(Counter(sample.kind for sample in samples).items())),
        results=results,
    )
    _save_hits(opened, correct, out)
    write_atomically(out.with_name(REPORT), build_report(evaluation).encode())
    save_artifact(evaluation, out)
    return evaluation


def _measure(
    opened: Sequence[tuple[str, OpenedModel]],
    dataset: Path,
    samples: list[Sample],
    options: EvaluateOptions,
    progress: Progress,
) -> tuple[list[Quality], list[Speed | None], str, str]:
    from interlace_cli.evaluation.speed import measure_speed

    models: list[Any] = []
    qualities = []
    batcher = None
    for name, model in opened:
        loaded, batcher = _load(model.checkpoint.path, dataset, options)
        qualities.append(_answer(name, loaded, batcher, samples, options, progress))
        if options.speed:
            models.append(loaded)
    speeds: list[Speed | None] = [None] * len(opened)
    if options.speed and batcher is not None:
        _use_kernels([model.checkpoint.path for _, model in opened], models, progress)
        speeds = list(measure_speed(models, batcher.build_prompts([_find_prompt(samples)]), options.repeats))
    return qualities, speeds, *describe_place(options)


def answer_samples(
    name: str,
    opened: OpenedModel,
    dataset: Path,
    samples: Sequence[Sample],
    options: EvaluateOptions,
    progress: Progress,
) -> tuple[Quality, list[bool]]:
    """One checkpoint's answers and loss, and which of the answers are right."""
    quality = _answer(name, *_load(opened.checkpoint.path, dataset, options), samples, options, progress)
    return quality, _find_hits(quality, samples)


def time_checkpoints(
    paths: Sequence[Path],
    dataset: Path,
    samples: Sequence[Sample],
    options: EvaluateOptions,
    repeats: int,
    progress: Progress,
) -> list[list[float]]:
    """Seconds to the first token, `[repeat][checkpoint]`, of checkpoints that take turns, all of them loaded at once;
    2:4 sparse ones on kernels for that."""
    from interlace_cli.evaluation.speed import time_first_token

    loaded = [_load(path, dataset, options) for path in paths]
    models = [model for model, _ in loaded]
    _use_kernels(paths, models, progress)
    return time_first_token(models, loaded[0][1].build_prompts([_find_prompt(samples)]), repeats)


def has_sparse_kernels(options: EvaluateOptions) -> bool:
    """Whether the device has kernels for 2:4 sparse weights."""
    from interlace_cli.evaluation.sparse_kernels import has_kernels
    from interlace_cli.io.models import choose_device

    return has_kernels(choose_device(options.device))


def describe_place(options: EvaluateOptions) -> tuple[str, str]:
    """The device and the dtype that `options` come to."""
    from interlace_cli.io.models import choose_device, choose_dtype

    device = choose_device(options.device)
    return describe_device(device), str(choose_dtype(options.dtype, device)).removeprefix("torch.")


def find_sparsity(path: Path) -> str | None:
    """The pattern in which a checkpoint of ours lacks weights."""
    passport = path / PASSPORT
    return load_artifact(passport, CheckpointCard).sparsity if passport.exists() else None


def _load(path: Path, dataset: Path, options: EvaluateOptions) -> tuple[PreTrainedModel, Batcher]:
    from interlace_cli.data.batches import Batcher
    from interlace_cli.io.models import load_model, load_processor

    model = load_model(path, options.dtype, options.device, options.attention)
    return model, Batcher(load_processor(path, options.min_pixels, options.max_pixels), dataset)


def _answer(
    name: str,
    model: PreTrainedModel,
    batcher: Batcher,
    samples: Sequence[Sample],
    options: EvaluateOptions,
    progress: Progress,
) -> Quality:
    from interlace_cli.evaluation.quality import measure_quality

    with progress.task(f"eval {name}", len(samples), "samples") as advance:
        return measure_quality(model, batcher, samples, options.batch_size, options.max_new_tokens, advance)


def _find_hits(quality: Quality, samples: Sequence[Sample]) -> list[bool]:
    """Which of the answers are right."""
    return [is_exact_match(answer, sample.answer) for answer, sample in zip(quality.answers, samples, strict=True)]


def _use_kernels(paths: Sequence[Path], models: Sequence[PreTrainedModel], progress: Progress) -> None:
    from interlace_cli.evaluation.sparse_kernels import use_sparse_kernels

    for path, model in zip(paths, models, strict=True):
        if find_sparsity(path) == SPARSE_KERNELS:
            use_sparse_kernels(model, progress)


def _find_prompt(samples: Sequence[Sample]) -> Sample:
    return next((sample for sample in samples if sample.image), samples[0])


def describe_device(device: str) -> str:
    """The GPU's name, or the processor's with the number of threads."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _build_results(
    opened: Sequence[tuple[str, OpenedModel]],
    samples: list[Sample],
    qualities: Sequence[Quality],
    correct: list[list[bool]],
    speeds: Sequence[Speed | None],
    seed: int,
) -> list[Result]:
    import numpy as np

    kinds = [sample.kind for sample in samples]
    by_kind = [score_kinds(hits, kinds) for hits in correct]
    results = []
    for place, (name, model) in enumerate(opened):
        retention = score_retention(by_kind[place], by_kind[0]) if place else None
        interval = None
        if retention is not None:
            interval = bootstrap_retention(np.array(correct[place]), np.array(correct[0]), kinds, seed)
        results.append(
            Result(
                name=name,
                location=model.facts.location,
                fingerprint=model.facts.fingerprint,
                layers=model.facts.num_layers,
                parameters=model.facts.total_parameters,
                bytes=model.facts.total_bytes,
                score=score_macro(by_kind[place]),
                loss=qualities[place].loss,
                kinds=by_kind[place],
                retention=retention,
                retention_interval=interval,
                speed=speeds[place],
            )
        )
    return results


def _save_hits(opened: Sequence[tuple[str, OpenedModel]], correct: list[list[bool]], out: Path) -> None:
    """Which samples each checkpoint answered right, in the order of the held-out split, beside the JSON."""
    import numpy as np

    arrays = {name: np.array(hits, dtype=np.uint8) for (name, _), hits in zip(opened, correct, strict=True)}
    save_arrays(arrays, out.with_suffix(".safetensors"))
