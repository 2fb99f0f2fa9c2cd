"""`eval`: checkpoints side by side on the held-out split: quality, retention, size and speed; or the benchmarks of an
outside harness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.core.benchmarks import evaluate_by_harness
from interlace_cli.core.checkpoints import NamedCheckpoint, find_checkpoints, open_family
from interlace_cli.core.inputs import hash_split
from interlace_cli.core.lineage import Seen, check_overlap, count_seen
from interlace_cli.core.local_workspaces import share_for_eval
from interlace_cli.core.spread import has_to_spread, run_spread
from interlace_cli.core.step import Step
from interlace_cli.core.tasks import hash_specs, load_heldout, load_tasks
from interlace_cli.core.together import describe_call
from interlace_cli.domain.cautions import check_evaluation
from interlace_cli.domain.evaluation import Benchmarks, Evaluation, Result, Speed
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.evaluation.aggregation import score_kinds, score_macro, score_retention
from interlace_cli.evaluation.checkpoints import BATCH_SIZE, describe_machine, measure_checkpoints
from interlace_cli.evaluation.metrics import find_metrics
from interlace_cli.evaluation.statistics import bootstrap_retention, to_array
from interlace_cli.evaluation.tasks import EvalTask, keep_readable_tasks
from interlace_cli.evaluation.unfinished import AnswerFile
from interlace_cli.evaluation.usable_tasks import check_generates, keep_usable_tasks
from interlace_cli.evaluation.vllm_process import find_version
from interlace_cli.families.model_files import OpenedModel
from interlace_cli.io.arrays import save_arrays
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.files import check_free
from interlace_cli.io.paths import expand_home
from interlace_cli.io.samples import join
from interlace_cli.io.workspace import Workspace, require
from interlace_cli.options.evaluate import TRANSFORMERS, VLLM, EvaluateOptions
from interlace_cli.options.shared import BETWEEN_PROCESSES, ONE_DEVICE
from interlace_cli.runtime.exchange import leave_processes, take_from_main
from interlace_cli.runtime.processes import find_processes, in_turns

if TYPE_CHECKING:
    from interlace_cli.evaluation.answering import Answered


SETTINGS = (
    *("samples", "batch_size", "max_new_tokens", "generation_config", "min_pixels", "max_pixels", "speed", "repeats"),
    *("dtype", "device", "attention", "seed"),
)
"""The options that the figures depend on."""
ANSWERED = (
    *("batch_size", "max_new_tokens", "generation_config", "min_pixels", "max_pixels", "dtype", "attention", "seed"),
)
"""Those that answers depend on, beside the samples and the machine."""


def evaluate(options: EvaluateOptions, progress: Progress) -> Evaluation:
    """Evaluates, and writes the evaluation.

    Raises PlanMismatchError for checkpoints that do not belong together, and OverlapError for samples that one of them
    was trained or calibrated on, unless that is allowed."""
    if options.import_results or options.harness:
        return evaluate_by_harness(options, progress)
    options = share_for_eval(options, progress)
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

    def load(progress: Progress) -> list[EvalTask]:
        if options.tasks is None:
            return load_heldout(dataset, options.samples)
        # The first process prepares them, the others find them there.
        return in_turns(lambda: load_tasks(find_file(options.tasks or ""), space.tasks, options.samples, progress))

    def make(progress: Progress, may_replace: bool) -> Evaluation:
        take_from_main("the place of the result", lambda: check_free(out, may_replace))
        if options.device_map not in (ONE_DEVICE, BETWEEN_PROCESSES) and options.processes > 1:
            progress.say(f"--device-map {options.device_map}: one process has all GPUs; --processes does nothing here.")
        elif has_to_spread(options.processes):
            checkpoints = tuple(f"{one.name}={one.opened.facts.location}" for one in named)
            run_spread("eval", replace(options, checkpoints=checkpoints, out=out, force=may_replace), options.processes)
            return load_artifact(out, Evaluation)
        return _evaluate(options, named, load(progress), hash_inputs(), out, progress)

    return Step(
        name="eval",
        settings=build_settings(options),
        inputs=hash_inputs(),
        out=out,
        record=Evaluation,
        make=make,
        is_shared=True,
        is_local=options.local_workspaces,
        find_facts=lambda: describe_call(options, options.device, options.dtype),
    )


def build_settings(options: EvaluateOptions) -> Settings:
    """Everything the figures depend on beside the checkpoints and the samples."""
    spread = options.build_settings("device_map") if options.device_map != ONE_DEVICE else {}
    return {
        **options.build_settings(*SETTINGS),
        **spread,
        **_name_engine(options),
        "batch_size": options.batch_size or BATCH_SIZE,
    }


def _name_engine(options: EvaluateOptions) -> Settings:
    """What generates, where that is not transformers."""
    return {} if options.engine == TRANSFORMERS else {"backend": options.engine}


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
    versions = {name: version(name) for name in ("torch", "transformers")}
    if options.engine == VLLM:
        versions[VLLM] = find_version(options.backend)
        check_generates([one.opened for one in named])
    tasks = keep_readable_tasks(tasks, named[0].opened.facts.model_type, progress.say)
    tasks, left_out = keep_usable_tasks([one.opened for one in named], tasks, options, progress, is_dealt=True)
    samples = join([task.samples for task in tasks])
    seen = {one.name: count_seen(one.opened.checkpoint.path, samples) for one in named}
    for line in check_overlap(seen, len(samples), options.allow_overlap):
        progress.say(f"{line}.")
    opened = [(one.name, one.opened) for one in named]
    device, dtype = describe_machine(options)
    # Not the number of threads, which moves figures by rounding alone.
    machine = {"machine": f"{device.partition(',')[0]}, {dtype}", **versions}
    asked = {name: digest for name, digest in inputs.items() if name == "heldout" or name.startswith("task ")}
    kept = AnswerFile(out, {**options.build_settings(*ANSWERED), **_name_engine(options)}, {**asked, **machine}, tasks)
    answered, speeds, remarks = measure_checkpoints(opened, tasks, options, kept, progress)
    results = _build_results(opened, answered, speeds, seen, options.seed)
    counts = dict(sorted(Counter(answered[0].kinds).items()))
    cautions = [*check_evaluation(counts, results[0].name, results[0].kinds), *remarks]
    for line in cautions:
        progress.say(f"Careful: {line}")
    evaluation = Evaluation(
        kind=Evaluation.KIND,
        schema_version=Evaluation.SCHEMA,
        created_by=build_origin("eval", build_settings(options)),
        inputs=dict(inputs),
        device=device,
        dtype=dtype,
        versions=versions,
        samples=counts,
        left_out=left_out,
        cautions=cautions,
        metrics=_find_metrics(answered[0].kinds, tasks),
        categories=_find_categories(tasks),
        results=results,
        benchmarks=_keep_benchmarks(out, results),
    )
    if find_processes().is_main:
        _save_points(opened, answered, out)
        save_artifact(evaluation, out)
    kept.remove()
    leave_processes()
    return evaluation


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
                cut=answered[index].cut,
                empty=answered[index].empty,
                generation=answered[index].generation,
            )
        )
    return results


def _find_metrics(kinds: Sequence[str], tasks: Sequence[EvalTask]) -> dict[str, str]:
    known = find_metrics(join([task.samples for task in tasks]))
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
