"""`analyze`: how much each layer matters, measured on the calibration split.

Similarity takes one pass and is always measured; the loss without each layer and the gradients are measured on request.
What the analysis at hand has already is kept and not measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from interlace_cli.core.inputs import find_model, hash_model, hash_split
from interlace_cli.core.local_workspaces import share_for_analyze
from interlace_cli.core.spread import has_to_spread, run_spread
from interlace_cli.core.step import Step
from interlace_cli.core.together import describe_call
from interlace_cli.data.readable import load_readable
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import ArtifactError
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.importance.means import Arrays
from interlace_cli.importance.measuring import build_settings, fits, open_measuring
from interlace_cli.io.arrays import load_arrays
from interlace_cli.io.artifacts import build_origin, load_artifact
from interlace_cli.io.files import check_free, hash_file
from interlace_cli.io.score_files import save_scores
from interlace_cli.io.workspace import Workspace, require
from interlace_cli.options.analyze import AnalyzeOptions
from interlace_cli.options.shared import BETWEEN_PROCESSES, ONE_DEVICE
from interlace_cli.runtime.exchange import leave_processes, take_from_main
from interlace_cli.runtime.processes import find_processes

SEARCH_SUFFIX = ".search.json"


def analyze(options: AnalyzeOptions, progress: Progress) -> Analysis:
    """Measures what is missing and writes the analysis, with the per-sample arrays beside it. Raises ExistsError if one
    of another model, dataset or setting is there."""
    options = share_for_analyze(options, progress)
    step = build_step(options)
    state = step.begin()
    if state.is_current and not options.force:
        assert isinstance(state.artifact, Analysis)
        analysis = state.artifact
    else:
        analysis = step.run(progress, options.force, state)
    if options.write_scores is not None and find_processes().is_main:
        arrays = load_arrays(step.out.with_suffix(".safetensors"))
        save_scores(options.write_scores, [arrays[f"all_s{p}"] for p in (1, 2, 3)], options.force)
    return analysis


def build_step(options: AnalyzeOptions) -> Step[Analysis]:
    """Similarities depend on the model, its processor and the calibration samples; what else was measured says itself
    on how much."""
    space = Workspace(options.workspace)
    out, dataset = options.out or space.analysis, require(options.dataset or space.dataset)
    opened = open_model(find_model(space, options.model), options.stack or LANGUAGE)
    inputs = {**hash_model(opened.facts), "calibration": hash_split(dataset, "calibration")}

    def make(progress: Progress, may_replace: bool) -> Analysis:
        if options.device_map not in (ONE_DEVICE, BETWEEN_PROCESSES) and options.processes > 1:
            progress.say(f"--device-map {options.device_map}: one process has all GPUs; --processes does nothing here.")
        elif has_to_spread(options.processes):
            alone = replace(options, write_scores=None, figure=None, force=may_replace)
            run_spread("analyze", alone, options.processes)
            return load_artifact(out, Analysis)
        return _make_analysis(options, opened, dataset, out, inputs, progress, may_replace)

    return Step(
        name="analyze",
        settings=build_settings(options),
        inputs=inputs,
        out=out,
        record=Analysis,
        make=make,
        find_lacks=lambda analysis: find_lacks(analysis, options),
        is_completed=True,
        is_shared=True,
        is_local=options.local_workspaces,
        find_facts=lambda: describe_call(options, options.device, options.dtype),
    )


def find_lacks(analysis: Analysis, options: AnalyzeOptions) -> list[str]:
    """What is asked for and not there, or measured on another number of samples, a sentence each."""
    wanted = min(options.loss_samples, analysis.calibration.samples)
    lacks = []
    if "loss" in options.importance and not fits(analysis, options):
        lacks.append("the loss increase was not measured" + (" as it is asked for" if analysis.loss else ""))
    if "taylor" in options.importance and (analysis.taylor is None or analysis.taylor.samples != wanted):
        found = f" on {wanted} samples, but on {analysis.taylor.samples}" if analysis.taylor else ""
        lacks.append(f"the gradients were not measured{found}")
    missing = sorted(set(options.by) - {group.by for group in analysis.groups} - {"modality"})
    return lacks + [f"there are no groups by {name}" for name in missing]


def _make_analysis(
    options: AnalyzeOptions,
    opened: OpenedModel,
    dataset: Path,
    out: Path,
    inputs: dict[str, str],
    progress: Progress,
    may_replace: bool,
) -> Analysis:
    """`may_replace`: measures everything, whatever is there."""
    for remark in opened.checkpoint.remarks:
        progress.say(remark)
    samples = load_readable(dataset, "calibration", opened.facts.model_type, progress.say)[: options.samples]
    found = take_from_main("the analysis", partial(_find_kept, out, options, inputs, may_replace))
    analysis, _ = open_measuring(opened, dataset, samples, out, options, progress, inputs).complete(found)
    leave_processes()
    return analysis


def _find_kept(
    out: Path, options: AnalyzeOptions, inputs: Mapping[str, str], may_replace: bool
) -> tuple[Analysis, Arrays] | None:
    found = None if may_replace else _find_part(out, options, inputs)
    if found is None:
        check_free(out, may_replace)
    return found


def _find_part(path: Path, options: AnalyzeOptions, inputs: Mapping[str, str]) -> tuple[Analysis, Arrays] | None:
    """The analysis that is there, with its arrays, if its similarities are the ones that are wanted."""
    try:
        analysis = load_artifact(path, Analysis)
    except ArtifactError:
        return None
    if analysis.created_by != build_origin("analyze", build_settings(options)) or analysis.inputs != inputs:
        return None
    beside = path.with_suffix(".safetensors")
    # A call that was killed between the two left others.
    is_own = beside.exists() and hash_file(beside) == analysis.arrays
    return (analysis, load_arrays(beside)) if is_own else None
