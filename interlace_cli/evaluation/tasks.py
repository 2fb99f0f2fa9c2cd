"""Evaluation tasks: samples of a prepared dataset, and how a task asks and scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from interlace_cli.data.readable import Say, keep_readable
from interlace_cli.domain.dataset import Sample


@dataclass(frozen=True)
class EvalTask:
    """Samples to evaluate on. `folder` is their prepared dataset.

    `max_new_tokens` is the longest answer in tokens; None uses the call's value. `category` groups tasks in tables.
    """

    name: str
    folder: Path
    samples: Sequence[Sample]
    max_new_tokens: int | None = None
    category: str | None = None


def keep_readable_tasks(tasks: Sequence[EvalTask], model_type: str, say: Say) -> list[EvalTask]:
    """The tasks with the samples that a model of this type can read. Raises DatasetError for a task without one."""
    return [
        replace(task, samples=keep_readable(task.samples, model_type, f"samples of {task.name}", say)) for task in tasks
    ]


def shape_samples(samples: Sequence[Sample], kind: str | None, metric: str | None, suffix: str) -> list[Sample]:
    """Copies of the samples with the task's `kind` and `metric`, and `suffix` appended to each first question.

    None, or an empty suffix, leaves the sample's own.
    """
    shaped = []
    for sample in samples:
        update: dict[str, object] = {}
        if kind is not None:
            update["kind"] = kind
        if metric is not None:
            update["metric"] = metric
        if suffix:
            turns = list(sample.conversations)
            index = next(i for i, turn in enumerate(turns) if turn.speaker == "human")
            turns[index] = turns[index].model_copy(update={"value": turns[index].value + suffix})
            update["conversations"] = turns
        shaped.append(sample.model_copy(update=update))
    return shaped
