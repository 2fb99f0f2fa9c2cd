"""The tasks of `eval`: a dataset's held-out split, or those of a file, each made into a dataset of its own first.

A file is YAML, TOML or JSON: a list of tasks, or `tasks:` with one.

    - {name: charts, source: chartqa, split: test, metric: relaxed_accuracy, samples: 500,
       suffix: "\\nAnswer the question using a single word or phrase.", max_new_tokens: 32, category: Text/Chart}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from interlace_cli.core.inputs import hash_split
from interlace_cli.core.prepare import build_step
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Record
from interlace_cli.errors import UsageError
from interlace_cli.evaluation.metrics import METRICS
from interlace_cli.evaluation.tasks import EvalTask, shape_samples
from interlace_cli.io.config_files import parse_config
from interlace_cli.io.datasets import load_split
from interlace_cli.io.files import hash_bytes
from interlace_cli.io.validation import describe_validation
from interlace_cli.options.option import MOST_WHOLE
from interlace_cli.options.prepare import PrepareOptions


class TaskSpec(Record):
    """One task of a file. `source` is as `prepare` takes it, a path relative to the file; `metric` None: the samples'
    own, and their kinds too."""

    name: str = Field(
        pattern=r"^[\w-][\w.-]*$", description="letters, digits, '_', '-' and '.' alone, with no '.' in front"
    )
    source: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    mirror: str | None = None
    samples: int | None = Field(default=None, ge=1, le=MOST_WHOLE)
    seed: int = Field(default=0, ge=0, le=MOST_WHOLE)
    metric: str | None = None
    suffix: str = ""
    max_new_tokens: int | None = Field(default=None, ge=1)
    category: str | None = None


def load_heldout(dataset: Path, at_most: int | None = None) -> list[EvalTask]:
    """The held-out split of a prepared dataset, as one task."""
    return [EvalTask("heldout", dataset, load_split(dataset, "heldout")[:at_most])]


def load_tasks(path: Path, folder: Path, at_most: int | None, progress: Progress) -> list[EvalTask]:
    """The tasks of a file, their datasets under `folder`, of each the first `at_most` samples. Raises UsageError that
    names the task and the field."""
    return [_prepare(spec, path.parent, folder, at_most, progress) for spec in read_specs(path)]


def hash_specs(path: Path, folder: Path) -> dict[str, str]:
    """Task -> a digest of what is asked: what the file says, the samples that are prepared, and whether these are still
    what the source has."""
    found = {}
    for spec in read_specs(path):
        step = build_step(_build_options(spec, path.parent, folder))
        state = step.find_state()
        asked = hash_split(step.out, "heldout") if state.is_current else state.condition.value
        found[f"task {spec.name}"] = hash_bytes(repr((spec.model_dump(), asked)).encode())
    return found


def read_specs(path: Path) -> list[TaskSpec]:
    """What a file asks for."""
    data = parse_config(path)
    items: Any = data.get("tasks") if isinstance(data, dict) else data
    if not isinstance(items, list) or not items:
        raise UsageError(f"{path} holds no list of tasks.", "Write `- {name: ..., source: ...}` for each.")
    specs: list[TaskSpec] = []
    for number, item in enumerate(items):
        try:
            spec = TaskSpec.model_validate(item)
        except ValidationError as error:
            name = item.get("name", number) if isinstance(item, dict) else number
            raise UsageError(f"{path}, task {name}: {describe_validation(error, TaskSpec)}.") from error
        if spec.metric is not None and spec.metric not in METRICS:
            raise UsageError(
                f"{path}, task {spec.name}: there is no metric {spec.metric}.", f"There are {', '.join(METRICS)}."
            )
        if spec.name in [other.name for other in specs]:
            raise UsageError(f"{path} has two tasks called {spec.name}.", "Rename one.")
        specs.append(spec)
    return specs


def _build_options(spec: TaskSpec, beside: Path, folder: Path) -> PrepareOptions:
    local = (beside / spec.source).resolve()
    return PrepareOptions(
        source=str(local) if local.exists() else spec.source,
        portion=1.0,
        max_samples=spec.samples,
        holdout=1.0,
        calibration=0.0,
        seed=spec.seed,
        selection="uniform",
        subset=(spec.subset,) if spec.subset else (),
        split=spec.split,
        revision=spec.revision,
        mirror=None if spec.mirror is None else (beside / spec.mirror).resolve(),
        out=folder / spec.name,
    )


def _prepare(spec: TaskSpec, beside: Path, folder: Path, at_most: int | None, progress: Progress) -> EvalTask:
    step = build_step(_build_options(spec, beside, folder))
    if not step.find_state().is_current:
        progress.say(f"{spec.name}: preparing {spec.source}")
        # The folder is the task's own, made for this file: it follows what the file says.
        step.run(progress, force=True)
    kind = spec.name if spec.metric is not None or spec.category is not None else None
    samples = shape_samples(load_split(step.out, "heldout")[:at_most], kind, spec.metric, spec.suffix)
    if kind is None:
        samples = [s.model_copy(update={"kind": _name_kind(spec.name, s.kind)}) for s in samples]
    return EvalTask(spec.name, step.out, samples, spec.max_new_tokens, spec.category)


def _name_kind(task: str, kind: str) -> str:
    return task if kind == "all" else f"{task}: {kind}"
