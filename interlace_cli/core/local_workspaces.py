"""`--local-workspaces`: each host has a workspace of its own. What a step reads is found on the first one, and sent to
those that lack it, before the step is looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from interlace_cli.core.checkpoints import find_checkpoints
from interlace_cli.core.inputs import find_model
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import UsageError
from interlace_cli.healing.objective import parse_objective
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.paths import expand_home
from interlace_cli.io.transfer import share_inputs
from interlace_cli.io.workspace import METADATA, Workspace
from interlace_cli.options.analyze import AnalyzeOptions
from interlace_cli.options.evaluate import EvaluateOptions
from interlace_cli.options.finetune import FinetuneOptions
from interlace_cli.runtime.exchange import take_from_main
from interlace_cli.runtime.processes import find_processes


def share_for_analyze(options: AnalyzeOptions, progress: Progress) -> AnalyzeOptions:
    """With the model: where this process was told, else where the first one found it."""
    if not options.local_workspaces or find_processes().size == 1:
        return options
    space = Workspace(options.workspace)
    model = take_from_main("the model", lambda: _find(find_model(space, options.model)))
    own = model.at(options.model)
    share_inputs({"the dataset": options.dataset or space.dataset, "the model": own.folder}, progress.say)
    return replace(options, model=own.location)


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
            "the dense model": None if dense is None else dense.folder,
        },
        progress.say,
    )


def share_for_eval(options: EvaluateOptions, progress: Progress) -> EvaluateOptions:
    """With the checkpoints: where this process was told, else the first one's, of which those in the workspace are in
    each host's own."""
    if not options.local_workspaces or find_processes().size == 1:
        return options
    space = Workspace(options.workspace)
    named = take_from_main("the checkpoints", lambda: _find_all(options, space))
    if options.checkpoints:
        told = [location for _, location in find_checkpoints(options.checkpoints, space)]
        if len(told) != len(named):
            raise UsageError(f"this process was told {len(told)} checkpoints, and the first one {len(named)}.")
    else:
        told = [str(space.root / place.inside) if place.inside else place.location for _, place in named]
    own = [(name, place.at(location)) for (name, place), location in zip(named, told, strict=True)]
    share_inputs(
        {
            "the dataset": options.dataset or space.dataset,
            **{f"the checkpoint {name}": place.folder for name, place in own},
        },
        progress.say,
    )
    return replace(options, checkpoints=tuple(f"{name}={place.location}" for name, place in own))


@dataclass(frozen=True)
class _Place:
    """Where the first process has a model. `inside`: in its workspace, the path there."""

    location: str
    is_folder: bool
    inside: str = ""

    @property
    def folder(self) -> Path | None:
        """None for a model of the Hub, or the demo's: each host has its own way to these."""
        return expand_home(self.location) if self.is_folder else None

    def at(self, told: str | None) -> _Place:
        """Where this process has it, or would, if it was `told` so."""
        return self if told is None else replace(self, location=told)


def _find(location: str, space: Workspace | None = None) -> _Place:
    folder = expand_home(location)
    is_inside = space is not None and folder.is_relative_to(space.root)
    inside = folder.relative_to(space.root).as_posix() if space is not None and is_inside else ""
    return _Place(location, folder.is_absolute() or folder.is_dir(), inside)


def _find_all(options: EvaluateOptions, space: Workspace) -> list[tuple[str, _Place]]:
    return [(name, _find(location, space)) for name, location in find_checkpoints(options.checkpoints, space)]


def _find_checkpoint(options: FinetuneOptions, space: Workspace) -> Path | None:
    if options.dense:
        return options.checkpoint
    return options.checkpoint or space.pruned


def _find_dense(options: FinetuneOptions, space: Workspace) -> _Place | None:
    """The dense model that healing reads; None if it reads none, or if its step will say what is missing."""
    if options.dense:
        plan = options.plan or space.plan
        model = load_artifact(plan, Plan).model if options.checkpoint is None and plan.exists() else None
        return None if model is None else _find(model.pinned)
    metadata = (options.checkpoint or space.pruned) / METADATA
    if not metadata.exists() or not any(stage.needs_teacher for stage in parse_objective(options.objective)):
        return None
    return _find(load_artifact(metadata, CheckpointCard).base.pinned)
