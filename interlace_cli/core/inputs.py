"""What steps read, as the digests that stand in their artifacts; and what a workspace has where nothing was named."""

from __future__ import annotations

from pathlib import Path

from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.model import ModelFacts
from interlace_cli.domain.plan import Plan
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.checkpoints import DEMO
from interlace_cli.io.datasets import MANIFEST, load_manifest
from interlace_cli.io.workspace import METADATA, Workspace


def hash_model(facts: ModelFacts) -> dict[str, str]:
    """The config and tensors, and what makes tokens and pixels for them."""
    return {"model": facts.fingerprint, "processor": facts.processor}


def hash_split(dataset: Path, split: str) -> str:
    """sha256 over the samples of a split, which name their images by content."""
    facts = load_manifest(dataset).splits.get(split)
    return facts.sha256 if facts is not None else "none"


def find_model(space: Workspace, given: str | None) -> str:
    """The model that was named; else the workspace's; else, where nothing lies there yet, the demo."""
    if given is not None:
        return given
    known = find_workspace_model(space)
    if known is not None:
        return known
    source = find_workspace_source(space)
    if source in (None, DEMO):
        return DEMO
    raise UsageError(
        f"MODEL is missing: {space.root} has samples from {source}, and no model yet.",
        "Give demo, a checkpoint folder, or a Hub id.",
    )


def find_workspace_model(space: Workspace) -> str | None:
    """Where the dense model lies that the workspace's artifacts were made of."""
    analysis = _load(space.analysis, Analysis)
    if isinstance(analysis, Analysis):
        return analysis.model.pinned
    plan = _load(space.plan, Plan)
    if isinstance(plan, Plan) and plan.model is not None:
        return plan.model.pinned
    for folder in (space.pruned, space.healed):
        card = _load(folder / METADATA, CheckpointCard)
        if isinstance(card, CheckpointCard):
            return card.base.pinned
    return None


def find_workspace_source(space: Workspace) -> str | None:
    """The source that the workspace's dataset is from."""
    manifest = _load(space.dataset / MANIFEST, Manifest)
    return manifest.source if isinstance(manifest, Manifest) else None


def _load(path: Path, cls: type[Analysis | Plan | CheckpointCard | Manifest]) -> object:
    """None for what is not there; a broken one is told by the step that needs it."""
    try:
        return load_artifact(path, cls) if path.exists() else None
    except InterlaceError:
        return None
