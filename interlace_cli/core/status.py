"""`status`: what a workspace holds, what it was made from, what is stale and why, and what `run` would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from interlace_cli.core.inputs import find_workspace_model, find_workspace_source
from interlace_cli.core.lineage import Member, find_mismatches
from interlace_cli.core.run import STEPS, Chain, compose_options, ignore_step
from interlace_cli.core.step import State, Step, describe_artifact
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
from interlace_cli.families.model_files import open_model
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.datasets import MANIFEST
from interlace_cli.io.workspace import METADATA, Workspace
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
        holdings.append(_describe_file("compare", table, Comparison))
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
    held = _describe_file(name, path / file if file else path, record)
    if held.condition == "damaged":
        return held.model_copy(update={"path": out, **ahead})
    try:
        state = _find_state(name, space, chain, held)
    except InterlaceError as error:
        state = None
        held = held.model_copy(update={"condition": "stale", "reasons": [error.what]})
    if state is not None:
        held = held.model_copy(update={"condition": state.condition.value, "reasons": list(state.reasons)})
    return held.model_copy(update={"path": out, **ahead})


def _find_state(name: str, space: Workspace, chain: Chain, held: Holding) -> State | None:
    """By the settings that it was made with: what is different is what it was made from."""
    if name == "prepare":
        step: Step[Any] | None = chain.build_own_dataset_step()
    else:
        step = chain.build_step(name)
    return None if step is None else replace(step, settings=held.settings, find_lacks=lambda artifact: []).find_state()


def _describe_file(name: str, path: Path, record: type[Artifact]) -> Holding:
    try:
        artifact = load_artifact(path, record)
    except InterlaceError as error:
        return Holding(step=name, path=path.name, what="", condition="damaged", reasons=[error.what])
    return Holding(
        step=name,
        path=path.name,
        what=describe_artifact(artifact),
        condition="up to date",
        settings=artifact.created_by.settings,
        inputs=artifact.inputs,
    )


def _find_mismatches(space: Workspace) -> list[str]:
    members = []
    for folder in (space.pruned, space.healed):
        try:
            card = load_artifact(folder / METADATA, CheckpointCard)
            members.append(Member(folder.name, open_model(folder, card.stack).facts.fingerprint, card))
        except InterlaceError:
            continue
    try:
        plan = load_artifact(space.plan, Plan)
    except InterlaceError:
        plan = None
    return find_mismatches(members, plan)
