"""Loads checkpoints and measures them by the options of `eval`: answers, their scores, and speed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Speed
from interlace_cli.domain.progress import Progress
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.evaluation.turns import Turns, measure_turns
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.checkpoints import open_checkpoint
from interlace_cli.io.text_processor import tell_format
from interlace_cli.io.workspace import METADATA
from interlace_cli.options.evaluate import VLLM, EvaluateOptions
from interlace_cli.runtime.accelerator import is_cuda, read_free, read_name, release_memory
from interlace_cli.runtime.exchange import take_from_main
from interlace_cli.runtime.memory import is_out_of_memory, read_available
from interlace_cli.runtime.processes import find_processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from interlace_cli.evaluation.answering import Answered
    from interlace_cli.evaluation.batch_answers import BatchAnswers
    from interlace_cli.evaluation.unfinished import AnswerFile
    from interlace_cli.evaluation.vllm_replies import Replies

SPARSE_KERNELS = "2:4"
"""The pattern that GPUs have kernels for."""
BATCH_SIZE = 32


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint in memory."""

    path: Path
    model: PreTrainedModel
    processor: Any


@dataclass(frozen=True)
class _Loader:
    """Loads checkpoints by the options; each one's processor once."""

    options: EvaluateOptions
    processors: dict[Path, Any] = field(default_factory=dict)

    def load(self, path: Path) -> _Loaded:
        """The model in evaluation mode, and its processor."""
        from interlace_cli.io.models import load_model
        from interlace_cli.io.placement import Placement

        o = self.options
        model = load_model(path, o.dtype, Placement.of(o), o.attention)
        return _Loaded(path, model, self.load_processor(path))

    def load_processor(self, path: Path) -> Any:
        """The processor alone."""
        from interlace_cli.io.models import load_processor

        if path not in self.processors:
            self.processors[path] = load_processor(path, self.options.min_pixels, self.options.max_pixels)
        return self.processors[path]


def measure_checkpoints(
    opened: Sequence[tuple[str, OpenedModel]],
    tasks: Sequence[EvalTask],
    options: EvaluateOptions,
    kept: AnswerFile,
    progress: Progress,
) -> tuple[list[Answered], list[Speed | None], list[str]]:
    """The answers and the speed of each checkpoint, `(name, model)`, and what a reader of the speeds has to know.
    Speeds are None where none was asked for, or where a model generates nothing.

    One model is in memory at a time, and its answers are kept before the next one is loaded. Then all are loaded to be
    timed in turns, if they fit; else each is timed behind its answers. Of several processes all answer, and the first
    one alone times, while the others wait."""
    paths, loader = [model.checkpoint.path for _, model in opened], _Loader(options)
    turns = take_from_main("how checkpoints are timed", partial(_plan_turns, paths, options))
    answered: list[Answered] = []
    speeds: list[Speed | None] = []
    for name, model in opened:
        is_timed = options.speed and not turns.is_together
        found, speed = _measure_one(name, model, tasks, loader, is_timed, kept, progress)
        answered.append(found)
        speeds.append(speed)
        release_memory()
    if not options.speed or any(one.generation is None for one in answered):
        return answered, [None] * len(opened), []
    is_together = len(opened) == 1
    if turns.is_together:
        loaders = [partial(loader.load, path) for path in paths]
        measure = partial(_time_loaded, tasks=tasks, options=options, progress=progress)
        timed, is_together = take_from_main("the speeds", partial(measure_turns, loaders, measure))
        speeds = list(timed)
    if is_together:
        return answered, speeds, []
    apart = [None if speed is None else speed.model_copy(update={"in_turns": False}) for speed in speeds]
    return answered, apart, [turns.describe()]


def answer_samples(
    name: str, opened: OpenedModel, tasks: Sequence[EvalTask], options: EvaluateOptions, progress: Progress
) -> Answered:
    """One checkpoint's answers to the tasks, scored. Its model is gone afterwards."""
    found = _answer(name, _Loader(options).load(opened.checkpoint.path), tasks, options, progress)
    release_memory()
    return found


def time_checkpoints(
    paths: Sequence[Path],
    dataset: Path,
    samples: Sequence[Sample],
    options: EvaluateOptions,
    repeats: int,
    progress: Progress,
) -> list[list[float]]:
    """Seconds to the first token, `[repeat][checkpoint]`. The checkpoints take turns if all of them fit into the memory
    at once, else they are timed one after another, which is said; 2:4 sparse ones run on kernels for that."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.evaluation.speed import time_first_token

    def measure(loaded: Sequence[_Loaded]) -> list[tuple[float, ...]]:
        _use_kernels(loaded, progress)
        prompt = Batcher(loaded[0].processor, dataset).build_prompts([_find_prompt(samples)])
        times = time_first_token([one.model for one in loaded], prompt, repeats, options.generation_config)
        return list(zip(*times, strict=True))

    turns, loader = _plan_turns(paths, options), _Loader(options)
    loaders = [partial(loader.load, path) for path in paths]
    by_checkpoint, is_together = measure_turns(loaders, measure, turns.is_together)
    release_memory()
    if not is_together and len(paths) > 1:
        progress.say(f"Careful: {turns.describe()}")
    return [list(times) for times in zip(*by_checkpoint, strict=True)]


def has_sparse_kernels(options: EvaluateOptions) -> bool:
    """Whether the device has kernels for 2:4 sparse weights."""
    from interlace_cli.evaluation.sparse_kernels import has_kernels
    from interlace_cli.runtime.device import choose_device

    return has_kernels(choose_device(options.device))


def describe_machine(options: EvaluateOptions) -> tuple[str, str]:
    """The device and the dtype that `options` come to."""
    from interlace_cli.io.placement import Placement
    from interlace_cli.runtime.device import choose_device, choose_dtype

    device = choose_device(options.device)
    count = Placement.of(options).count_gpus()
    name = f"{count} × {_describe_device(device)}" if count > 1 else _describe_device(device)
    return name, str(choose_dtype(options.dtype, device)).removeprefix("torch.")


def _describe_device(device: str) -> str:
    """The GPU's name, or the processor's with the number of threads."""
    import torch

    if is_cuda(device):
        return read_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _plan_turns(paths: Sequence[Path], options: EvaluateOptions) -> Turns:
    """Whether the checkpoints fit into the memory of the device at once."""
    from interlace_cli.io.placement import Placement
    from interlace_cli.runtime.device import choose_device, choose_dtype

    placement, device = Placement.of(options), choose_device(options.device)
    found = [open_checkpoint(path) for path in paths]
    if options.dtype == "native":
        total = sum(checkpoint.total_bytes for checkpoint in found)
    else:
        total = choose_dtype(options.dtype, device).itemsize * sum(one.total_parameters for one in found)
    if placement.is_dispatched:
        return Turns(total, placement.count_bytes(), len(paths), "all devices' memory")
    if is_cuda(device):
        return Turns(total, read_free(device), len(paths), "the GPU's memory")
    return Turns(total, read_available(), len(paths), "the memory")


def _measure_one(
    name: str,
    opened: OpenedModel,
    tasks: Sequence[EvalTask],
    loader: _Loader,
    is_timed: bool,
    kept: AnswerFile,
    progress: Progress,
) -> tuple[Answered, Speed | None]:
    """A checkpoint's answers, and its speed if it `is_timed`; its model is loaded for what is not there."""
    found, loaded = kept.find(opened), None
    if found is None:
        found, loaded = _answer_and_keep(name, opened, tasks, loader, kept, progress)
    else:
        progress.say(f"{name}: its answers are there, of an earlier call")
    if not is_timed or found.generation is None:
        return found, None
    if not find_processes().is_main:
        # While the first one times it, the others need no model.
        loaded = None
        release_memory()
    time_it = partial(_time_one, name, opened, loaded, tasks, loader, progress)
    return found, take_from_main(f"the speed of {name}", time_it)


def _answer_and_keep(
    name: str, opened: OpenedModel, tasks: Sequence[EvalTask], loader: _Loader, kept: AnswerFile, progress: Progress
) -> tuple[Answered, _Loaded]:
    """The answers, and the model."""
    options, is_first = loader.options, not loader.processors
    # Before the model is loaded, beside which vLLM's would not fit.
    replies = _ask_vllm(name, opened, tasks, loader, kept, progress) if options.engine == VLLM else None
    loaded = loader.load(opened.checkpoint.path)
    if is_first:
        tell_format(loaded.processor, progress.say)
    batches = kept.open_batches(opened, "" if replies is None else "losses")
    found = _answer(name, loaded, tasks, options, progress, batches, replies)
    kept.keep(opened, found)
    return found, loaded


def _time_one(
    name: str,
    opened: OpenedModel,
    loaded: _Loaded | None,
    tasks: Sequence[EvalTask],
    loader: _Loader,
    progress: Progress,
) -> Speed | None:
    """The speed of a checkpoint by itself; None if that does not fit into the memory."""
    try:
        (speed,) = _time_loaded([loaded or loader.load(opened.checkpoint.path)], tasks, loader.options, progress)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        progress.say(f"{name}: it is not timed, as generating for one prompt did not fit into the memory beside it")
        return None
    return speed


def _time_loaded(
    loaded: Sequence[_Loaded], tasks: Sequence[EvalTask], options: EvaluateOptions, progress: Progress
) -> list[Speed]:
    from interlace_cli.data.batches import Batcher
    from interlace_cli.evaluation.speed import measure_speed

    _use_kernels(loaded, progress)
    task = next((task for task in tasks if any(sample.image for sample in task.samples)), tasks[0])
    prompt = Batcher(loaded[-1].processor, task.folder).build_prompts([_find_prompt(task.samples)])
    return measure_speed([one.model for one in loaded], prompt, options.repeats, options.generation_config)


def _answer(
    name: str,
    loaded: _Loaded,
    tasks: Sequence[EvalTask],
    options: EvaluateOptions,
    progress: Progress,
    batches: BatchAnswers | None = None,
    replies: Replies | None = None,
) -> Answered:
    from interlace_cli.evaluation.answering import answer_tasks

    if batches is not None and replies is None:
        _tell_saved(name, batches, progress)
    size, limit = options.batch_size or BATCH_SIZE, options.max_new_tokens
    way, seed = options.generation_config, options.seed
    with progress.task(f"eval {name}", sum(len(task.samples) for task in tasks), "samples") as advance:
        answered = answer_tasks(
            loaded.model, loaded.processor, tasks, size, limit, advance, progress.say, way, seed, batches, replies
        )
    for line in answered.describe_losses():
        progress.say(f"{name}: {line}.")
    return answered


def _ask_vllm(
    name: str,
    opened: OpenedModel,
    tasks: Sequence[EvalTask],
    loader: _Loader,
    kept: AnswerFile,
    progress: Progress,
) -> Replies:
    from interlace_cli.evaluation.vllm_replies import generate_replies

    processor = loader.load_processor(opened.checkpoint.path)
    batches = kept.open_batches(opened, "replies")
    _tell_saved(name, batches, progress)
    return generate_replies(name, opened, processor, tasks, loader.options, batches, progress)


def _tell_saved(name: str, batches: BatchAnswers, progress: Progress) -> None:
    if batches.found:
        count = sum(len(result.samples) for result in batches.found.values())
        progress.say(f"{name}: an earlier call has answered {count} samples, which are not asked again")


def _use_kernels(loaded: Sequence[_Loaded], progress: Progress) -> None:
    from interlace_cli.evaluation.sparse_kernels import use_sparse_kernels

    for one in loaded:
        if _find_sparsity(one.path) == SPARSE_KERNELS:
            use_sparse_kernels(one.model, progress)


def _find_sparsity(path: Path) -> str | None:
    """The pattern in which a checkpoint of ours lacks weights."""
    card = path / METADATA
    return load_artifact(card, CheckpointCard).sparsity if card.exists() else None


def _find_prompt(samples: Sequence[Sample]) -> Sample:
    return next((sample for sample in samples if sample.image), samples[0])
