"""`status`: what a workspace holds, what it was made from, what is stale and why, and what `run` would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from interlace_cli.core.descriptions import describe_artifact
from interlace_cli.core.inputs import find_workspace_model, find_workspace_source
from interlace_cli.core.lineage import Member, find_mismatches
from interlace_cli.core.run import STEPS, Chain, compose_options, ignore_step
from interlace_cli.core.step import State, Step
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.comparison import Comparison
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Silent
from interlace_cli.domain.record import Artifact
from interlace_cli.domain.run import StepOutlook
from interlace_cli.domain.status import Holding, Status
from interlace_cli.errors import InterlaceError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.checkpoints import fingerprint, open_checkpoint
from interlace_cli.io.datasets import MANIFEST
from interlace_cli.io.workspace import METADATA, Workspace
from interlace_cli.options.option import describe
from interlace_cli.options.plan import PlanOptions
from interlace_cli.options.presets import DEMO
from interlace_cli.options.report import StatusOptions
from interlace_cli.options.run import RunOptions


def describe_workspace(options: StatusOptions) -> Status:
    """Looks at everything, and makes nothing."""
    space = Workspace(options.workspace)
    outlooks, note = _look_ahead(options)
    chain = Chain(_describe_call(options), Silent(), ignore_step)
    holdings = [_describe_step(name, space, chain, outlooks.get(name)) for name in STEPS]
    table = space.root / "compare.json"
    if table.exists():
        holdings.append(_describe_file("compare", table, Comparison)[0])
    return Status(
        workspace=str(space.root),
        model=find_workspace_model(space),
        source=find_workspace_source(space),
        holdings=holdings,
        mismatches=_find_mismatches(space),
        note=note,
    )


def _describe_call(options: StatusOptions) -> RunOptions:
    """A run of what lies there: the model and the source that the workspace has."""
    space = Workspace(options.workspace)
    # How many layers a plan dropped stands in the plan: any number does here.
    return RunOptions(
        workspace=options.workspace, model=find_workspace_model(space) or DEMO, plan=PlanOptions(drop=1), data=None
    )


def _look_ahead(options: StatusOptions) -> tuple[dict[str, StepOutlook], str]:
    """Step -> what `interlace run` would do, or why it would not begin."""
    try:
        composed = compose_options(RunOptions, {"workspace": options.workspace})
        return {one.step: one for one in Chain(composed, Silent(), ignore_step).iter_outlooks()}, ""
    except InterlaceError as error:
        return {}, f"`interlace run` would not begin: {error}"


RECORDS: dict[str, tuple[str, str, type[Artifact]]] = {
    "prepare": ("dataset", MANIFEST, Manifest),
    "analyze": ("analysis.json", "", Analysis),
    "plan": ("plan.json", "", Plan),
    "prune": ("pruned", METADATA, CheckpointCard),
    "finetune": ("healed", METADATA, CheckpointCard),
    "eval": ("eval.json", "", Evaluation),
    "export": ("export", METADATA, CheckpointCard),
}
"""Step -> its file or folder in the workspace, the artifact in the folder, its type."""


def _describe_step(name: str, space: Workspace, chain: Chain, outlook: StepOutlook | None) -> Holding:
    out, file, record = RECORDS[name]
    path = space.root / out
    ahead: dict[str, Any] = {}
    if outlook is not None:
        ahead = {"run_would": outlook.action, "run_because": outlook.reasons}
    if not path.exists():
        return Holding(step=name, path=out, what="", condition="missing", **ahead)
    held, artifact = _describe_file(name, path / file if file else path, record)
    state = None
    if artifact is not None:
        try:
            state = _find_state(name, chain, artifact)
        except (InterlaceError, OSError) as error:
            why = error.what.rstrip(".") if isinstance(error, InterlaceError) else str(error.strerror or error)
            held = held.model_copy(update={"condition": "stale", "reasons": [why]})
    if state is not None:
        held = held.model_copy(update={"condition": state.condition.value, "reasons": list(state.reasons)})
    return held.model_copy(update={"path": out, **ahead})


def _find_state(name: str, chain: Chain, artifact: Artifact) -> State | None:
    """By the settings that it was made with: what is different is what it was made from. None where nobody knows where
    that is."""
    if name == "prepare":
        step: Step[Any] | None = chain.build_own_dataset_step()
    elif isinstance(artifact, Plan) and "scores1" in artifact.inputs:
        return None
    else:
        step = replace(chain, options=_recall_options(name, chain.options, artifact)).build_step(name)
    if step is None:
        return None
    inputs = dict(step.inputs)
    if name == "eval" and "heldout" not in artifact.inputs:
        # Where the file of tasks lies is not known.
        inputs.pop("heldout", None)
        inputs |= {task: digest for task, digest in artifact.inputs.items() if task.startswith("task ")}
    settings = artifact.created_by.settings
    # What an analysis lacks is what somebody asks for; a checkpoint lacks the list of its samples.
    find_lacks = step.find_lacks if isinstance(artifact, CheckpointCard) else lambda artifact: []
    return replace(step, settings=settings, inputs=inputs, find_lacks=find_lacks).find_state()


def _recall_options(name: str, options: RunOptions, artifact: Artifact) -> RunOptions:
    """With the options of the step that the artifact was made with, as far as it says."""
    part = {"eval": "evaluate"}.get(name, name)
    made: Any = getattr(options, part)
    settings: dict[str, Any] = dict(artifact.created_by.settings)
    if isinstance(artifact, CheckpointCard) and name == "export":
        settings = dict(artifact.exported)
    if isinstance(artifact, Plan):
        settings["weight"] = [f"{group}={weight}" for group, weight in dict(settings.get("weight") or {}).items()]
        if "scores" not in artifact.inputs and artifact.model is not None:
            settings["model"] = artifact.model.pinned
    if isinstance(artifact, CheckpointCard) and name == "prune":
        is_by_hand = artifact.strategy == "by hand"
        settings |= {"drop_layers": tuple(artifact.dropped), "model": options.model} if is_by_hand else {"stack": None}
    known = {slot.name for slot in describe(type(made))}
    changed: dict[str, Any] = {option: value for option, value in settings.items() if option in known}
    recalled: dict[str, Any] = {part: replace(made, **changed)}
    return replace(options, **recalled)


def _describe_file(name: str, path: Path, record: type[Artifact]) -> tuple[Holding, Artifact | None]:
    try:
        artifact = load_artifact(path, record)
    except InterlaceError as error:
        reasons = [error.what.rstrip(".")]
        return Holding(step=name, path=path.name, what="", condition="damaged", reasons=reasons), None
    settings = artifact.created_by.settings
    if isinstance(artifact, CheckpointCard) and name == "export":
        settings = artifact.exported
    held = Holding(
        step=name,
        path=path.name,
        what=describe_artifact(artifact),
        condition="up to date",
        settings=settings,
        inputs=artifact.inputs,
    )
    return held, artifact


def _find_mismatches(space: Workspace) -> list[str]:
    members = []
    for folder in (space.pruned, space.healed):
        try:
            card = load_artifact(folder / METADATA, CheckpointCard)
            members.append(Member(folder.name, fingerprint(open_checkpoint(folder)), card))
        except InterlaceError:
            continue
    try:
        plan = load_artifact(space.plan, Plan)
    except InterlaceError:
        plan = None
    return find_mismatches(members, plan)
