"""`prune`: a new checkpoint without the layers that a plan drops, by surgery on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.core.opened import OpenedModel, open_model
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.layers import describe_layers, kept_layers
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import PlanMismatchError, UsageError
from interlace_cli.families.config import edit_config
from interlace_cli.families.tensors import build_renaming
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.files import folder_being_made, hash_file
from interlace_cli.io.surgery import copy_side_files, write_config, write_tensors
from interlace_cli.io.workspace import PASSPORT, require


@dataclass(frozen=True)
class Cut:
    """What to cut: which layers go, which of those that stay are to be tuned (dense indices), and who says so."""

    drop: list[int]
    tune: list[int]
    strategy: str
    inputs: dict[str, str]


def prune_by_plan(location: str | None, plan_path: Path, out: Path, progress: Progress, force: bool) -> CheckpointCard:
    """Cuts what the plan drops. `location` defaults to the model that the plan was made for.

    Raises PlanMismatchError if the plan was made for another model; `force` goes on if it has as many layers.
    """
    plan = load_artifact(require(plan_path), Plan)
    if location is None:
        if plan.model is None:
            raise UsageError("the plan was made from score files and names no model.", "Give MODEL.")
        location = plan.model.location
    opened = open_model(location)
    check_plan_fits(plan, opened, force)
    cut = Cut(plan.drop, plan.tune, plan.strategy, {"plan": hash_file(plan_path)})
    return _write(opened, cut, out, progress, force)


def prune_layers(location: str, drop: list[int], out: Path, progress: Progress, force: bool) -> CheckpointCard:
    """Cuts exactly the layers `drop` (dense indices)."""
    opened = open_model(location)
    layers = opened.facts.num_layers
    if not drop or len(drop) >= layers or drop[-1] >= layers:
        raise UsageError(
            f"--drop-layers {describe_layers(drop)} does not fit a model with layers 0 to {layers - 1}.",
            "Name at least one layer, and leave at least one.",
        )
    return _write(opened, Cut(drop, [], "by hand", {}), out, progress, force)


def check_plan_fits(plan: Plan, opened: OpenedModel, force: bool) -> None:
    """Raises PlanMismatchError unless the plan was made for this very model."""
    facts = opened.facts
    if plan.num_layers != facts.num_layers:
        raise PlanMismatchError(
            f"the plan is for a model of {plan.num_layers} layers, and {facts.name} has {facts.num_layers}.",
            "Run `interlace analyze` and `interlace plan` for this model.",
        )
    if plan.model is not None and plan.model.fingerprint != facts.fingerprint and not force:
        raise PlanMismatchError(
            f"the plan was made for {plan.model.name} ({plan.model.fingerprint[:12]}), and {facts.name} is another"
            f" model ({facts.fingerprint[:12]}).",
            "Run `interlace analyze` and `interlace plan` for this model, or add --force.",
        )


def _write(opened: OpenedModel, cut: Cut, out: Path, progress: Progress, force: bool) -> CheckpointCard:
    facts, checkpoint = opened.facts, opened.checkpoint
    kept = kept_layers(cut.drop, facts.num_layers)
    renaming = build_renaming(checkpoint.tensors, opened.layer_prefix, kept)
    notes = _describe_deepstack(cut.drop, facts.deepstack_layers)
    for note in notes:
        progress.say(note)
    card = CheckpointCard(
        kind=CheckpointCard.KIND,
        schema_version=CheckpointCard.SCHEMA,
        created_by=build_origin("prune", {"drop_layers": list(cut.drop)}),
        inputs={"model": facts.fingerprint, **cut.inputs},
        stage="pruned",
        base=facts,
        strategy=cut.strategy,
        ratio=len(cut.drop) / facts.num_layers,
        dense_index=kept,
        dropped=cut.drop,
        tune=[kept.index(layer) for layer in cut.tune],
        notes=notes,
    )
    total = sum(tensor.bytes for tensor in checkpoint.tensors.values() if tensor.name in renaming)
    with folder_being_made(out, force) as draft, progress.task("prune", total, "bytes") as advance:
        config = edit_config(checkpoint.config, kept, facts.num_layers)
        write_config(config, draft)
        copy_side_files(checkpoint.path, draft)
        write_tensors(checkpoint, draft, renaming, advance=advance)
        save_artifact(card, draft / PASSPORT)
    return card


def _describe_deepstack(drop: list[int], deepstack: int) -> list[str]:
    lost = [layer for layer in drop if layer < deepstack]
    if not lost:
        return []
    return [
        f"The vision features that DeepStack adds after dropped layers ({describe_layers(lost)}) go with these layers:"
        " what is left equals the dense model with both bypassed."
    ]
