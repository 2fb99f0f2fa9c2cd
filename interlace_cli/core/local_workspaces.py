"""`--local-workspaces`: each host has a workspace of its own. What a step reads is found on the first one, and sent to
those that lack it, before the step is looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from interlace_cli.core.inputs import find_model
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.healing.objective import parse_objective
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.paths import expand_home
from interlace_cli.io.transfer import share_inputs
from interlace_cli.io.workspace import METADATA, Workspace
from interlace_cli.options.analyze import AnalyzeOptions
from interlace_cli.options.finetune import FinetuneOptions
from interlace_cli.runtime.exchange import take_from_main
from interlace_cli.runtime.processes import find_processes


def share_for_analyze(options: AnalyzeOptions, progress: Progress) -> AnalyzeOptions:
    """With the model that the first process found."""
    if not options.local_workspaces or find_processes().size == 1:
        return options
    space = Workspace(options.workspace)
    location = take_from_main("the model", lambda: find_model(space, options.model))
    share_inputs({"the dataset": options.dataset or space.dataset, "the model": _find_folder(location)}, progress.say)
    return replace(options, model=location)


def share_for_finetune(options: FinetuneOptions, progress: Progress) -> None:
    """The pruned checkpoint, the plan, the dataset, and the dense model where it is read and is a folder."""
    if not options.local_workspaces or find_processes().size == 1:
        return
    space = Workspace(options.workspace)
    dense = take_from_main("the dense model", lambda: _find_dense(options, space))
    share_inputs(
        {
            "the dataset": options.dataset or space.dataset,
            "the plan": options.plan or space.plan,
            "the checkpoint": _find_checkpoint(options, space),
            "the dense model": None if dense is None else _find_folder(dense),
        },
        progress.say,
    )


def _find_checkpoint(options: FinetuneOptions, space: Workspace) -> Path | None:
    if options.dense:
        return options.checkpoint
    return options.checkpoint or space.pruned


def _find_dense(options: FinetuneOptions, space: Workspace) -> str | None:
    """Where the dense model is that healing reads; None if it reads none, or if its step will say what is missing."""
    if options.dense:
        plan = options.plan or space.plan
        model = load_artifact(plan, Plan).model if options.checkpoint is None and plan.exists() else None
        return None if model is None else model.pinned
    metadata = (options.checkpoint or space.pruned) / METADATA
    if not metadata.exists() or not any(stage.needs_teacher for stage in parse_objective(options.objective)):
        return None
    return load_artifact(metadata, CheckpointCard).base.pinned


def _find_folder(location: str) -> Path | None:
    """None for a model of the Hub, or the demo's."""
    path = expand_home(location)
    return path if path.is_absolute() or path.is_dir() else None
