"""`eval`: checkpoints side by side on the held-out split: quality, retention, size and speed; or the benchmarks of an
outside harness."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.core.benchmarks import evaluate_by_harness
from interlace_cli.core.checkpoints import NamedCheckpoint, find_checkpoints, open_family
from interlace_cli.core.inputs import hash_split
from interlace_cli.core.lineage import Seen, check_overlap, count_seen
from interlace_cli.core.step import Step
from interlace_cli.core.tasks import hash_specs, load_heldout, load_tasks
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Benchmarks, Evaluation, Result, Speed
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.evaluation.aggregation import score_kinds, score_macro, score_retention
from interlace_cli.evaluation.metrics import find_metrics
from interlace_cli.evaluation.statistics import bootstrap_retention, to_array
from interlace_cli.evaluation.tasks import EvalTask, keep_readable_tasks
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.io.arrays import save_arrays
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.files import check_free
from interlace_cli.io.paths import expand_home
from interlace_cli.io.text_processor import tell_format
from interlace_cli.io.workspace import METADATA, Workspace, require
from interlace_cli.options.evaluate import EvaluateOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from interlace_cli.evaluation.answering import Answered


SPARSE_KERNELS = "2:4"
"""The pattern that GPUs have kernels for."""
BATCH_SIZE = 32
SETTINGS = (
    *("samples", "batch_size", "max_new_tokens", "min_pixels", "max_pixels", "speed", "repeats", "dtype", "device"),
    *("attention", "seed"),
)
"""The options that the figures depend on."""


def evaluate(options: EvaluateOptions, progress: Progress) -> Evaluation:
    """Evaluates, and writes the evaluation.

    Raises PlanMismatchError for checkpoints that do not belong together, and OverlapError for samples that one of them
    was trained or calibrated on, unless that is allowed."""
    if options.import_results or options.harness:
        return evaluate_by_harness(options, progress)
    return build_step(options, progress).run(progress, options.force)


def build_step(options: EvaluateOptions, progress: Progress, dense: str | None = None) -> Step[Evaluation]:
    """The figures depend on the checkpoints with their processors, and on what they are asked. `dense`: see
    `find_checkpoints`."""
    space = Workspace(options.workspace)
    out, dataset = options.out or space.evaluation, options.dataset or space.dataset
    named = open_family(find_checkpoints(options.checkpoints, space, dense), options.allow_mismatch, progress)
    models = {one.name: one.opened.facts.fingerprint for one in named}
    models |= {f"{one.name}, processor": one.opened.facts.processor for one in named}

    def hash_inputs() -> dict[str, str]:
        if options.tasks is not None:
            return {**models, **hash_specs(find_file(options.tasks), space.tasks)}
        return {**models, "heldout": hash_split(require(dataset), "heldout")}

    def make(progress: Progress, may_replace: bool) -> Evaluation:
        check_free(out, may_replace)
        if options.tasks is None:
            tasks = load_heldout(dataset, options.samples)
        else:
            tasks = load_tasks(find_file(options.tasks), space.tasks, options.samples, progress)
        return _evaluate(options, named, tasks, hash_inputs(), out, progress)

    return Step(
        name="eval", settings=build_settings(options), inputs=hash_inputs(), out=out, record=Evaluation, make=make
    )


def build_settings(options: EvaluateOptions) -> Settings:
    """Everything the figures depend on beside the checkpoints and the samples."""
    return {**options.build_settings(*SETTINGS), "batch_size": options.batch_size or BATCH_SIZE}


def find_file(tasks: str) -> Path:
    """The file of `--tasks`. Raises UsageError if there is none."""
    path = expand_home(tasks)
    if not path.is_file():
        raise UsageError(f"--tasks {tasks} is no file.", "Name benchmarks only together with --harness.")
    return path


def _evaluate(
    options: EvaluateOptions,
    named: Sequence[NamedCheckpoint],
    tasks: Sequence[EvalTask],
    inputs: Mapping[str, str],
    out: Path,
    progress: Progress,
) -> Evaluation:
    """The first checkpoint is what the others are compared with. Benchmarks that stand at `out` of the same checkpoints
    stay."""
    tasks = keep_readable_tasks(tasks, named[0].opened.facts.model_type, progress.say)
    samples = [sample for task in tasks for sample in task.samples]
    seen = {one.name: count_seen(one.opened.checkpoint.path, samples) for one in named}
    for line in check_overlap(seen, len(samples), options.allow_overlap):
        progress.say(f"{line}.")
    opened = [(one.name, one.opened) for one in named]
    answered, speeds = _measure(opened, tasks, options, progress)
    device, dtype = describe_machine(options)
    results = _build_results(opened, answered, speeds, seen, options.seed)
    evaluation = Evaluation(
        kind=Evaluation.KIND,
        schema_version=Evaluation.SCHEMA,
        created_by=build_origin("eval", build_settings(options)),
        inputs=dict(inputs),
        device=device,
        dtype=dtype,
        versions={name: version(name) for name in ("torch", "transformers")},
        samples=dict(sorted(Counter(answered[0].kinds).items())),
        metrics=_find_metrics(answered[0].kinds, tasks),
        categories=_find_categories(tasks),
        results=results,
        benchmarks=_keep_benchmarks(out, results),
    )
    _save_points(opened, answered, out)
    save_artifact(evaluation, out)
    return evaluation


def _measure(
    opened: Sequence[tuple[str, OpenedModel]], tasks: Sequence[EvalTask], options: EvaluateOptions, progress: Progress
) -> tuple[list[Answered], list[Speed | None]]:
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
        speeds = list(measure_speed(models, prompt, options.repeats))
    return answered, speeds


def answer_samples(
    name: str,
    opened: OpenedModel,
    tasks: Sequence[EvalTask],
    options: EvaluateOptions,
    progress: Progress,
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
    """Seconds to the first token, `[repeat][checkpoint]`, of checkpoints that take turns, all of them loaded at once;
    2:4 sparse ones on kernels for that."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.evaluation.speed import time_first_token

    loaded = [_load(path, options) for path in paths]
    models = [model for model, _ in loaded]
    _use_kernels(paths, models, progress)
    prompt = Batcher(loaded[0][1], dataset).build_prompts([_find_prompt(samples)])
    return time_first_token(models, prompt, repeats)


def has_sparse_kernels(options: EvaluateOptions) -> bool:
    """Whether the device has kernels for 2:4 sparse weights."""
    from interlace_cli.evaluation.sparse_kernels import has_kernels
    from interlace_cli.io.models import choose_device

    return has_kernels(choose_device(options.device))


def describe_machine(options: EvaluateOptions) -> tuple[str, str]:
    """The device and the dtype that `options` come to."""
    from interlace_cli.io.models import choose_device, choose_dtype

    device = choose_device(options.device)
    return describe_device(device), str(choose_dtype(options.dtype, device)).removeprefix("torch.")


def find_sparsity(path: Path) -> str | None:
    """The pattern in which a checkpoint of ours lacks weights."""
    path_of_card = path / METADATA
    return load_artifact(path_of_card, CheckpointCard).sparsity if path_of_card.exists() else None


def _load(path: Path, options: EvaluateOptions) -> tuple[PreTrainedModel, Any]:
    from interlace_cli.io.models import load_model, load_processor

    model = load_model(path, options.dtype, options.device, options.attention)
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

    with progress.task(f"eval {name}", sum(len(task.samples) for task in tasks), "samples") as advance:
        return answer_tasks(
            model, processor, tasks, options.batch_size or BATCH_SIZE, options.max_new_tokens, advance, progress.say
        )


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
    answered: Sequence[Answered],
    speeds: Sequence[Speed | None],
    seen: Mapping[str, Seen],
    seed: int,
) -> list[Result]:
    kinds = answered[0].kinds
    by_kind = [score_kinds(one.scored, kinds) for one in answered]
    points = [to_array(one.scored) for one in answered]
    results = []
    for index, (name, model) in enumerate(opened):
        retention = score_retention(by_kind[index], by_kind[0]) if index else None
        interval = None if retention is None else bootstrap_retention(points[index], points[0], kinds, seed)
        results.append(
            Result(
                name=name,
                location=model.facts.location,
                revision=model.facts.revision,
                fingerprint=model.facts.fingerprint,
                layers=model.facts.num_layers,
                parameters=model.facts.total_parameters,
                bytes=model.facts.total_bytes,
                score=score_macro(by_kind[index]),
                loss=answered[index].loss,
                kinds=by_kind[index],
                retention=retention,
                retention_interval=interval,
                speed=speeds[index],
                trained_on=seen[name].trained,
                calibrated_on=seen[name].calibrated,
            )
        )
    return results


def _find_metrics(kinds: Sequence[str], tasks: Sequence[EvalTask]) -> dict[str, str]:
    known = find_metrics([sample for task in tasks for sample in task.samples])
    return {kind: known.get(kind, "recall") for kind in sorted(set(kinds))}


def _find_categories(tasks: Sequence[EvalTask]) -> dict[str, list[str]]:
    categories: dict[str, list[str]] = {}
    for task in tasks:
        if task.category is not None:
            categories.setdefault(task.category, []).extend(sorted({sample.kind for sample in task.samples}))
    return categories


def _keep_benchmarks(out: Path, results: Sequence[Result]) -> Benchmarks | None:
    """Those that stand in `out`, if they are of the checkpoints that were evaluated now."""
    if not out.exists():
        return None
    try:
        found = load_artifact(out, Evaluation).benchmarks
    except InterlaceError:
        return None
    now = {result.name: result.fingerprint for result in results}
    return found if found and all(now.get(row.name) == row.fingerprint for row in found.rows) else None


def _save_points(opened: Sequence[tuple[str, OpenedModel]], answered: Sequence[Answered], out: Path) -> None:
    """What each sample scored, points and weight, in the order of the tasks, beside the JSON."""
    import numpy as np

    arrays = {
        name: np.array(one.scored.pairs(), dtype=np.float32) for (name, _), one in zip(opened, answered, strict=True)
    }
    save_arrays(arrays, out.with_suffix(".safetensors"))
