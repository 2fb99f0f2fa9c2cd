"""`prune`: a new checkpoint without the layers that a plan drops, by surgery on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace_cli.domain.checkpoint import CheckpointCard, Fidelity, PruneDraft
from interlace_cli.domain.layers import describe_layers, kept_layers
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import PlanMismatchError, UsageError
from interlace_cli.families.architectures import is_tested
from interlace_cli.families.edit import edit_config
from interlace_cli.families.limits import check_drop
from interlace_cli.families.model_files import OpenedModel, collect_stored, open_model
from interlace_cli.families.quantization import edit_quantization
from interlace_cli.families.stacks import LANGUAGE, Config
from interlace_cli.families.tensors import COLUMNS, build_numbering, build_renaming, build_side_modules, find_stacked
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact, to_json_text
from interlace_cli.io.checkpoints import resolve_location
from interlace_cli.io.datasets import load_split
from interlace_cli.io.files import check_free, folder_being_made, hash_file
from interlace_cli.io.integrity import check_files, record_files
from interlace_cli.io.surgery import (
    NewTensor,
    Slices,
    copy_side_files,
    name_shard,
    select_tensors,
    split_into_shards,
    write_config,
    write_tensors,
)
from interlace_cli.io.workspace import METADATA, require


@dataclass(frozen=True)
class Cut:
    """What to cut: which layers go, which of those that stay are to be tuned (dense indices), and who says so."""

    drop: list[int]
    tune: list[int]
    strategy: str
    inputs: dict[str, str]


@dataclass(frozen=True)
class Compensation:
    """What `--compensate linear` is calibrated on: the first `samples` of the dataset's calibration split."""

    dataset: Path
    samples: int = 128
    batch_size: int = 8
    dtype: str = "auto"
    device: str = "auto"


def prune_by_plan(
    location: str | None,
    plan_path: Path,
    out: Path,
    progress: Progress,
    force: bool,
    compensation: Compensation | None = None,
) -> CheckpointCard:
    """Cuts what the plan drops. `location` defaults to the model that the plan was made for.

    Raises PlanMismatchError if the plan was made for another model; `force` goes on if it has as many layers.
    """
    location, plan = choose_location(location, plan_path)
    opened = open_model(location, plan.stack)
    check_plan_fits(plan, opened, force)
    cut = Cut(plan.drop, plan.tune, plan.strategy, {"plan": hash_file(plan_path)})
    return _write(opened, cut, out, progress, force, compensation)


def prune_layers(
    location: str,
    drop: list[int],
    out: Path,
    progress: Progress,
    force: bool,
    stack: str = LANGUAGE,
    compensation: Compensation | None = None,
) -> CheckpointCard:
    """Cuts exactly the layers `drop` (dense indices) of the stack."""
    opened = open_model(location, stack)
    layers = opened.facts.num_layers
    if not drop or len(drop) >= layers or drop[-1] >= layers:
        raise UsageError(
            f"--drop-layers {describe_layers(drop)} does not fit a model with layers 0 to {layers - 1}.",
            "Name at least one layer, and leave at least one.",
        )
    return _write(opened, Cut(drop, [], "by hand", {}), out, progress, force, compensation)


def draft_by_plan(location: str | None, plan_path: Path, force: bool) -> PruneDraft:
    """What carrying out the plan would write."""
    location, plan = choose_location(location, plan_path)
    check_plan_fits(plan, open_model(location, plan.stack), force)
    return draft_cut(location, plan.drop, plan.stack)


def draft_cut(location: str, drop: Sequence[int], stack: str = LANGUAGE) -> PruneDraft:
    """What cutting `drop` would write, from the config and the headers of the files alone."""
    opened = open_model(location, stack)
    facts = opened.facts
    check_drop(opened.config, opened.stack, facts.num_layers, drop)
    config, tensors = _select(opened, drop)
    shards = split_into_shards(tensors, opened.checkpoint)
    return PruneDraft(
        model=facts.name,
        stack=facts.stack,
        dropped=list(drop),
        dense_index=kept_layers(drop, facts.num_layers),
        files={
            name_shard(number, len(shards)): sum(tensor.bytes for tensor in members)
            for number, members in enumerate(shards, start=1)
        },
        bytes=sum(tensor.bytes for tensor in tensors),
        dense_bytes=facts.total_bytes,
        config=_compare_configs(opened.checkpoint.config, config),
        notes=_describe_deepstack(list(drop), facts.deepstack_layers) + _describe_untested(opened),
    )


def verify_cut(card: CheckpointCard, location: str, out: Path, progress: Progress, device: str = "auto") -> Fidelity:
    """Compares the checkpoint `out` with the dense model at `location`, both loaded by transformers."""
    from interlace_cli.evaluation.fidelity import compare_checkpoints

    progress.say(f"loading {card.base.name}, then {out}, to compare them")
    dense = resolve_location(location)[0]
    return compare_checkpoints(dense, out, card.dropped, card.stack, card.base.total_parameters, device)


def choose_location(location: str | None, plan_path: Path) -> tuple[str, Plan]:
    """The plan, and the model it is to be carried out on: the one named, else its own."""
    plan = load_artifact(require(plan_path), Plan)
    if location is not None:
        return location, plan
    if plan.model is None:
        raise UsageError("the plan was made without a model's weights, and names no model.", "Give MODEL.")
    return plan.model.location, plan


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


def _select(
    opened: OpenedModel, drop: Sequence[int], replaced: Mapping[str, bytes] | None = None
) -> tuple[Config, list[NewTensor]]:
    """The new config, and the tensors that stay under their new names, some of them `replaced` (by old name)."""
    facts, stack = opened.facts, opened.stack
    kept = kept_layers(drop, facts.num_layers)
    numbering = build_numbering(kept, facts.num_layers, opened.extra)
    side_modules = build_side_modules(opened.config, stack, kept, facts.num_layers)
    config = edit_config(opened.config, stack, kept, facts.num_layers)
    config = edit_quantization(config, opened.layer_prefix, stack.name == "vision", numbering)
    names = build_renaming(opened.checkpoint.tensors, opened.layer_prefix, numbering, side_modules)
    stacked = find_stacked(opened.checkpoint.tensors) if stack.name != "vision" else {}
    slices = {name: Slices(axis == COLUMNS, kept, facts.num_layers) for name, axis in stacked.items()}
    return config, select_tensors(opened.checkpoint, names, replaced, slices)


def _write(
    opened: OpenedModel,
    cut: Cut,
    out: Path,
    progress: Progress,
    force: bool,
    compensation: Compensation | None = None,
) -> CheckpointCard:
    facts, checkpoint = opened.facts, opened.checkpoint
    check_free(out, force)
    check_drop(opened.config, opened.stack, facts.num_layers, cut.drop)
    check_files(checkpoint.path)
    replaced, changed = _compensate(opened, cut.drop, compensation, progress) if compensation else ({}, [])
    config, tensors = _select(opened, cut.drop, replaced)
    notes = _describe_deepstack(cut.drop, facts.deepstack_layers) + _describe_untested(opened)
    if changed:
        notes.append(f"The last linear maps of layers {describe_layers(changed)} make up for the dropped ones behind.")
    for note in notes:
        progress.say(note)
    kept = kept_layers(cut.drop, facts.num_layers)
    card = CheckpointCard(
        kind=CheckpointCard.KIND,
        schema_version=CheckpointCard.SCHEMA,
        created_by=build_origin("prune", {"drop_layers": list(cut.drop), **_describe_compensation(compensation)}),
        inputs={"model": facts.fingerprint, **cut.inputs},
        stage="pruned",
        base=facts,
        stack=facts.stack,
        strategy=cut.strategy,
        ratio=len(cut.drop) / facts.num_layers,
        dense_index=kept,
        dropped=cut.drop,
        tune=[kept.index(layer) for layer in cut.tune],
        compensated=[kept.index(layer) for layer in changed],
        notes=notes,
    )
    total = sum(tensor.bytes for tensor in tensors)
    with folder_being_made(out, force) as draft, progress.task("prune", total, "bytes") as advance:
        write_config(config, draft)
        copy_side_files(checkpoint.path, draft)
        write_tensors(checkpoint, draft, tensors, advance)
        card = card.model_copy(update={"files": record_files(draft)})
        save_artifact(card, draft / METADATA)
    return card


def _compensate(
    opened: OpenedModel, drop: Sequence[int], compensation: Compensation, progress: Progress
) -> tuple[dict[str, bytes], list[int]]:
    """New bytes of tensors, by their names in the dense checkpoint, and the layers (dense) that they are of."""
    if opened.stack.name != LANGUAGE:
        raise UsageError(f"--compensate is for the language model's layers, not the {opened.stack.name} stack's.")
    samples = load_split(compensation.dataset, "calibration")[: compensation.samples]
    if not samples:
        raise UsageError("--compensate needs a calibration split.", "Run `interlace prepare`.")

    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.labels import keep_label_positions
    from interlace_cli.data.prefetch import iter_calibration
    from interlace_cli.families.modules import find_layers
    from interlace_cli.families.replay import can_replay
    from interlace_cli.healing.compensation import compensate, find_gaps
    from interlace_cli.healing.trainable import to_bytes
    from interlace_cli.io.models import load_model, load_processor

    path = opened.checkpoint.path
    model = load_model(path, compensation.dtype, compensation.device)
    layers = find_layers(model)
    gaps = find_gaps(drop)
    collect_stored(opened, model, layers, [gap.front for gap in gaps], "meta")
    batcher = Batcher(load_processor(path), compensation.dataset)
    inputs = list(iter_calibration(batcher, samples, compensation.batch_size, model, keep_label_positions))
    if not can_replay(model, layers, {name: value for name, value in inputs[0].items() if name != "labels"}):
        raise UsageError(f"{type(model).__name__} cannot be run layer by layer.", "Leave out --compensate.")
    with progress.task("compensate", len(gaps), "gaps") as advance:
        changed = compensate(model, layers, drop, inputs, advance)
    stored = collect_stored(opened, model, layers, changed, "cpu")
    return {name: to_bytes(value) for name, value in stored.items()}, changed


def _describe_compensation(compensation: Compensation | None) -> Settings:
    return {"compensate": "linear", "samples": compensation.samples} if compensation else {}


def _compare_configs(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> dict[str, tuple[str, str]]:
    changes: dict[str, tuple[str, str]] = {}
    for field in [*old, *(field for field in new if field not in old)]:
        before, after = old.get(field), new.get(field)
        if isinstance(before, dict) and isinstance(after, dict):
            changes.update(_compare_configs(before, after, f"{path}{field}."))
        elif before != after:
            changes[path + field] = (to_json_text(before), to_json_text(after))
    return changes


def _describe_untested(opened: OpenedModel) -> list[str]:
    kind, stack = opened.facts.model_type, opened.facts.stack
    if is_tested(kind, stack):
        return []
    return [
        f"The {stack} stack of {kind} is not among those that interlace is tested with: its layers were found by the"
        " general rules. --verify compares what came of it."
    ]


def _describe_deepstack(drop: list[int], deepstack: int) -> list[str]:
    lost = [layer for layer in drop if layer < deepstack]
    if not lost:
        return []
    return [
        f"The vision features that DeepStack adds after dropped layers ({describe_layers(lost)}) go with these layers:"
        " what is left equals the dense model with both bypassed."
    ]
