"""Replies by vLLM: the same prompts, pictures, stop tokens and limits as transformers gets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interlace_cli.data.batches import Batcher, order_by_length
from interlace_cli.data.prefetch import cut
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Generation
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.evaluation.batch_answers import BatchAnswers
from interlace_cli.evaluation.generation import ModelFiles, Reply, ReplyReader, find_stop_set
from interlace_cli.evaluation.quality import BatchResult
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.evaluation.vllm_process import Generated, VllmProcess, find_python
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.io.datasets import load_images
from interlace_cli.options.evaluate import GREEDY, EvaluateOptions
from interlace_cli.runtime.accelerator import is_cuda
from interlace_cli.runtime.device import choose_device, choose_dtype

CHUNK = 64
"""Prompts that vLLM gets at once, which it batches itself. They are saved together."""


@dataclass(frozen=True)
class Replies:
    """`by_task[t][i]` is the reply to sample i of task t."""

    by_task: list[list[Reply]]
    generation: Generation

    def join(self, losses: Sequence[Sequence[BatchResult]]) -> list[list[BatchResult]]:
        """The batches of each task, whose losses transformers has computed, with the replies to their samples."""
        return [
            [replace(result, replies=tuple(replies[index] for index in result.samples)) for result in results]
            for replies, results in zip(self.by_task, losses, strict=True)
        ]


@dataclass(frozen=True)
class _Prompts:
    """A task's prompts as vLLM takes them."""

    batcher: Batcher
    task: EvalTask
    limit: int

    def build(self, index: int, folder: Path) -> dict[str, Any]:
        """The tokens of a sample's prompt, in which a picture is its mark, and its pictures, written to `folder`."""
        sample = self.task.samples[index]
        sequence = self.batcher.render(sample)[0]
        paths = []
        for number, image in enumerate(load_images(self.task.folder, sample, sequence.pictures)):
            path = folder / f"{index}-{number}.png"
            # Without loss, and fast.
            image.save(path, compress_level=1)
            paths.append(os.fspath(path))
        return {"tokens": self.batcher.tokenize_prompt(sequence.prompt), "images": paths}

    def check(self, index: int, read: int) -> None:
        """Raises InterlaceError if vLLM has made of a sample's prompt another number of tokens than transformers."""
        sample = self.task.samples[index]
        wanted = self.batcher.count_prompt(sample, self.batcher.render(sample)[0])
        if read != wanted:
            raise InterlaceError(
                f"vLLM reads {read} tokens of the prompt of sample {sample.id}, and transformers {wanted}: they would"
                " not be asked the same.",
                "Leave --backend out: transformers answers then.",
            )


def generate_replies(
    name: str,
    opened: OpenedModel,
    processor: Any,
    tasks: Sequence[EvalTask],
    options: EvaluateOptions,
    batches: BatchAnswers,
    progress: Progress,
) -> Replies:
    """Greedy replies to all samples. Several processes share them, each with a vLLM of its own; what is in `batches`
    already is not asked again. Raises InterlaceError if vLLM cannot run the model, or reads prompts otherwise than
    transformers does."""
    files, path = _read_files(opened.checkpoint.path), opened.checkpoint.path
    prompts = [
        _Prompts(Batcher(processor, task.folder), task, task.max_new_tokens or options.max_new_tokens) for task in tasks
    ]
    stop_ids = find_stop_set(files, prompts[0].batcher.tokenizer, prompts[0].batcher.stop_ids)
    reader = ReplyReader(prompts[0].batcher.tokenizer, stop_ids)
    plans = [cut(order_by_length(task.samples), CHUNK) for task in tasks]
    with progress.task(f"eval {name} (vLLM)", sum(len(task.samples) for task in tasks), "samples") as advance:
        dealt = [batches.deal(number, plan, advance) for number, plan in enumerate(plans)]
        if any(mine for mine, _ in dealt):
            device = choose_device(options.device)
            with VllmProcess(
                name, find_python(options.backend), _build_setup(path, prompts, device, options), _find_gpu(device)
            ) as vllm:
                _check_device(device, vllm)
                for one, (mine, finish) in zip(prompts, dealt, strict=True):
                    for number, chosen in enumerate(mine):
                        finish(_ask(vllm, one, chosen, stop_ids, reader, is_first=number == 0))
    found = batches.collect(plans)
    by_task = []
    for results in found:
        replies = {
            index: reply for result in results for index, reply in zip(result.samples, result.replies, strict=True)
        }
        by_task.append([replies[index] for index in range(len(replies))])
    return Replies(by_task, reader.describe(GREEDY, {}))


def _ask(
    vllm: VllmProcess,
    prompts: _Prompts,
    chosen: Sequence[int],
    stop_ids: Sequence[int],
    reader: ReplyReader,
    is_first: bool,
) -> BatchResult:
    with tempfile.TemporaryDirectory() as name:
        asked = [prompts.build(index, Path(name)) for index in chosen]
        found = vllm.generate(asked, prompts.limit, stop_ids)
    if is_first:
        _check_reading(prompts, chosen, found)
    replies = tuple(
        reader.read(prompt["tokens"], tokens, prompts.limit) for prompt, tokens in zip(asked, found.tokens, strict=True)
    )
    return BatchResult(tuple(chosen), replies, ())


def _check_reading(prompts: _Prompts, chosen: Sequence[int], found: Generated) -> None:
    """Of one sample with pictures, and of one without."""
    samples = prompts.task.samples
    for has_picture in (True, False):
        place = next((at for at, index in enumerate(chosen) if bool(samples[index].image) == has_picture), None)
        if place is not None:
            prompts.check(chosen[place], found.read[place])


def _build_setup(path: Path, prompts: Sequence[_Prompts], device: str, options: EvaluateOptions) -> dict[str, Any]:
    dtype = "auto" if options.dtype == "native" else str(choose_dtype(options.dtype, device)).removeprefix("torch.")
    processor: dict[str, Any] = {}
    if options.min_pixels or options.max_pixels:
        processor = {"size": dict(prompts[0].batcher.processor.image_processor.size)}
    return {
        "model": os.fspath(path),
        "dtype": dtype,
        "seed": options.seed,
        # As long as fits into the memory.
        "max_model_len": -1,
        "images": max(_count_pictures(one.batcher, sample) for one in prompts for sample in one.task.samples),
        "processor": processor,
    }


def _count_pictures(batcher: Batcher, sample: Sample) -> int:
    return batcher.render(sample)[0].pictures if sample.image else 0


def _check_device(device: str, vllm: VllmProcess) -> None:
    own, theirs = device.partition(":")[0], str(vllm.facts["device"])
    if own != theirs:
        raise UsageError(
            f"vLLM of {vllm.python} computes on {theirs}, and transformers on {own}.",
            f"Give --device {theirs}, or another vLLM.",
        )


def _find_gpu(device: str) -> str | None:
    """What vLLM is to see as its only GPU: this process's own."""
    if not is_cuda(device):
        return None
    index = int(device.partition(":")[2] or 0)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[index] if visible else str(index)


def _read_files(path: Path) -> ModelFiles:
    """As `from_pretrained` gives them to a model."""
    from transformers import GenerationConfig

    from interlace_cli.io.models import load_config

    config = load_config(path)
    try:
        own = GenerationConfig.from_pretrained(path)
    except OSError:
        own = GenerationConfig.from_model_config(config)
    return ModelFiles(config, own)
