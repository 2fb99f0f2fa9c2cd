"""The tasks of `eval`: a dataset's held-out split, or those of a file, each made into a dataset of its own first.

A file is YAML, TOML or JSON: a list of tasks, or `tasks:` with one.

    - {name: charts, source: chartqa, split: test, metric: relaxed_accuracy, samples: 500,
       suffix: "\\nAnswer the question using a single word or phrase.", max_new_tokens: 32, category: Text/Chart}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from interlace_cli.core.prepare import build_settings, hash_source, prepare_dataset
from interlace_cli.data.source import Selection
from interlace_cli.data.sources import SourceLocation
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Record
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.evaluation.metrics import METRICS
from interlace_cli.evaluation.tasks import EvalTask, shape_samples
from interlace_cli.io.artifacts import build_origin, describe_validation, load_artifact
from interlace_cli.io.config_files import parse_config
from interlace_cli.io.datasets import MANIFEST, load_split


class TaskSpec(Record):
    """One task of a file. `source` is as `prepare` takes it, a path relative to the file; `metric` None: the samples'
    own, and their kinds too."""

    name: str = Field(pattern=r"^[\w.-]+$")
    source: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    mirror: str | None = None
    samples: int | None = Field(default=None, ge=1)
    seed: int = 0
    metric: str | None = None
    suffix: str = ""
    max_new_tokens: int | None = Field(default=None, ge=1)
    category: str | None = None


def load_heldout(dataset: Path, at_most: int | None = None) -> list[EvalTask]:
    """The held-out split of a prepared dataset, as one task."""
    return [EvalTask("heldout", dataset, load_split(dataset, "heldout")[:at_most])]


def load_tasks(path: Path, folder: Path, progress: Progress) -> list[EvalTask]:
    """The tasks of a file, their datasets under `folder`. Raises UsageError that names the task and the field."""
    return [_prepare(spec, path.parent, folder, progress) for spec in read_specs(path)]


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
            raise UsageError(f"{path}, task {name}: {describe_validation(error)}.") from error
        if spec.metric is not None and spec.metric not in METRICS:
            raise UsageError(
                f"{path}, task {spec.name}: there is no metric {spec.metric}.", f"There are {', '.join(METRICS)}."
            )
        if spec.name in [other.name for other in specs]:
            raise UsageError(f"{path} has two tasks called {spec.name}.", "Rename one.")
        specs.append(spec)
    return specs


def _prepare(spec: TaskSpec, beside: Path, folder: Path, progress: Progress) -> EvalTask:
    local = (beside / spec.source).resolve()
    source = str(local) if local.exists() else spec.source
    mirror = None if spec.mirror is None else (beside / spec.mirror).resolve()
    selection = Selection(
        portion=1.0,
        max_samples=spec.samples,
        holdout=1.0,
        calibration=0.0,
        seed=spec.seed,
        method="uniform",
        subsets=(spec.subset,) if spec.subset else (),
        hub_split=spec.split,
    )
    place, out = SourceLocation(None, spec.revision, mirror), folder / spec.name
    if not _is_current(out / MANIFEST, source, selection, place):
        progress.say(f"{spec.name}: preparing {spec.source}")
        prepare_dataset(source, out, selection, progress, place, force=(out / MANIFEST).exists())
    kind = spec.name if spec.metric is not None or spec.category is not None else None
    samples = shape_samples(load_split(out, "heldout"), kind, spec.metric, spec.suffix)
    if kind is None:
        samples = [s.model_copy(update={"kind": _name_kind(spec.name, s.kind)}) for s in samples]
    return EvalTask(spec.name, out, samples, spec.max_new_tokens, spec.category)


def _name_kind(task: str, kind: str) -> str:
    return task if kind == "all" else f"{task}: {kind}"


def _is_current(path: Path, source: str, selection: Selection, place: SourceLocation) -> bool:
    if not path.exists():
        return False
    try:
        manifest = load_artifact(path, Manifest)
    except InterlaceError:
        return False
    origin = build_origin("prepare", build_settings(source, selection, place))
    return manifest.created_by == origin and manifest.inputs == hash_source(source)
