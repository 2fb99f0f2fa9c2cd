"""The samples that every checkpoint of an evaluation can be given, so that all are judged on the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from interlace_cli.domain.progress import Progress
from interlace_cli.errors import UsageError
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.options.evaluate import EvaluateOptions


def keep_usable_tasks(
    models: Sequence[OpenedModel],
    tasks: Sequence[EvalTask],
    options: EvaluateOptions,
    progress: Progress,
    is_dealt: bool = False,
) -> tuple[list[EvalTask], dict[str, int]]:
    """The tasks with the samples that each model's chat template and processor take, and how many were left out, by
    reason; `progress` is told. `is_dealt`: all processes of this command ask together. Models with the same processor
    files are asked once. Dual encoders have no template: for them the tasks stay. Raises UnsupportedModelError for an
    encoder with a decoder, and an InterlaceError if a task has no sample left."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.usable import find_usable
    from interlace_cli.io.models import check_goes_on_from_prompt, load_processor

    left_out: Counter[str] = Counter()
    asked: set[str] = set()
    kept = list(tasks)
    for model in models:
        if not _generates(model) or model.facts.processor in asked:
            continue
        check_goes_on_from_prompt(model.checkpoint.path, "eval")
        asked.add(model.facts.processor)
        processor = load_processor(model.checkpoint.path, options.min_pixels, options.max_pixels)
        for number, task in enumerate(kept):
            batcher = Batcher(processor, task.folder)
            usable = find_usable(batcher, task.samples, f"samples of {task.name}", progress, is_dealt)
            left_out.update(usable.left_out)
            kept[number] = replace(task, samples=usable.samples)
    return kept, dict(sorted(left_out.items()))


def check_generates(models: Sequence[OpenedModel]) -> None:
    """Raises UsageError for a model that vLLM has nothing to do for."""
    silent = next((model for model in models if not _generates(model)), None)
    if silent is not None:
        raise UsageError(
            f"--backend vllm generates answers, and {silent.facts.name} is a {silent.facts.model_type} model, which"
            " generates nothing.",
            "Leave --backend out.",
        )


def _generates(model: OpenedModel) -> bool:
    from interlace_cli.io.models import CAUSAL_LM, IMAGE_TEXT_TO_TEXT, choose_auto_class

    return choose_auto_class(model.facts.model_type) in (IMAGE_TEXT_TO_TEXT, CAUSAL_LM)
