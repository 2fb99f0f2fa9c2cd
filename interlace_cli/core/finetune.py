"""`finetune`: heals a pruned checkpoint by training its tuned layers, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.core.opened import OpenedModel, collect_stored, open_model
from interlace_cli.domain.checkpoint import CheckpointCard, Healing
from interlace_cli.domain.layers import describe_layers
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import PlanMismatchError, TrainableSetError, UsageError
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.healing.recipe import PRECISIONS, Recipe
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import hash_dataset, load_manifest, load_split
from interlace_cli.io.files import check_free, folder_being_made
from interlace_cli.io.surgery import copy_config, copy_side_files, select_tensors, write_tensors
from interlace_cli.io.workspace import PASSPORT, require

if TYPE_CHECKING:
    pass


def build_settings(recipe: Recipe) -> Settings:
    """The recipe as it was asked for, `auto` left as it is."""
    return dict(asdict(recipe))


def heal_model(
    pruned: Path,
    dataset: Path,
    out: Path,
    recipe: Recipe,
    progress: Progress,
    plan_path: Path | None = None,
    tune_layers: Sequence[int] | None = None,
    device: str = "auto",
    force: bool = False,
) -> CheckpointCard:
    """Trains the tuned layers of `pruned` on the dataset's training split and writes the checkpoint `out`.

    Which layers: `tune_layers` (dense indices), else the plan's, else those that `pruned` names itself. Raises
    TrainableSetError if anything else would train, or has moved.
    """
    check_free(out, force)
    card = load_artifact(require(require(pruned) / PASSPORT), CheckpointCard)
    positions = _choose_positions(card, plan_path, tune_layers, force)
    opened = open_model(pruned, card.stack)
    card = card.model_copy(update={"stage": "healed", "tune": list(positions)})
    return _train(opened, {"pruned": opened.facts.fingerprint}, card, dataset, out, recipe, progress, device, force)


def heal_dense(
    location: str,
    dataset: Path,
    out: Path,
    recipe: Recipe,
    progress: Progress,
    tune_layers: Sequence[int],
    stack: str = LANGUAGE,
    device: str = "auto",
    force: bool = False,
) -> CheckpointCard:
    """Dense-FT, the paper's baseline: `tune_layers` are trained in the dense model, with nothing dropped."""
    check_free(out, force)
    opened = open_model(location, stack)
    facts = opened.facts
    outside = [layer for layer in tune_layers if not 0 <= layer < facts.num_layers]
    if outside:
        raise UsageError(f"there is no layer {outside[0]} to tune: {facts.name} has 0 to {facts.num_layers - 1}.")
    card = CheckpointCard(
        kind=CheckpointCard.KIND,
        schema_version=CheckpointCard.SCHEMA,
        created_by=build_origin("finetune", {}),
        inputs={"model": facts.fingerprint},
        stage="dense-ft",
        base=facts,
        stack=stack,
        strategy="dense-ft",
        ratio=0.0,
        dense_index=list(range(facts.num_layers)),
        dropped=[],
        tune=sorted(tune_layers),
    )
    return _train(opened, {}, card, dataset, out, recipe, progress, device, force)


def _train(
    opened: OpenedModel,
    inputs: dict[str, str],
    card: CheckpointCard,
    dataset: Path,
    out: Path,
    recipe: Recipe,
    progress: Progress,
    device: str,
    force: bool,
) -> CheckpointCard:
    """Trains the layers that the card says are tuned, and writes what came of it."""
    if recipe.precision not in PRECISIONS:
        raise UsageError(f"--precision does not take {recipe.precision!r}.", f"It takes {', '.join(PRECISIONS)}.")
    path, positions = opened.checkpoint.path, card.tune
    samples = load_split(dataset, "train")

    from interlace_cli.data.batches import Batcher
    from interlace_cli.families.modules import find_layers
    from interlace_cli.healing.trainable import apply_trainable_set, check_trainable_set, hash_frozen, to_bytes
    from interlace_cli.healing.trainer import train
    from interlace_cli.io.models import choose_device, load_model, load_processor

    settings = build_settings(recipe)
    recipe = replace(recipe, precision=_choose_precision(recipe.precision, choose_device(device)))
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[recipe.precision]
    model = load_model(path, dtype, device)
    processor = load_processor(path, recipe.min_pixels, recipe.max_pixels)
    layers = find_layers(model, card.stack)
    apply_trainable_set(model, layers, positions)
    check_trainable_set(model, layers, positions)
    collect_stored(opened, model, layers, positions, "meta")
    before = hash_frozen(model)
    history = train(model, Batcher(processor, dataset, recipe.max_length), samples, recipe, progress)
    after = hash_frozen(model)
    if after != before:
        raise TrainableSetError("a frozen tensor has changed while training.", "Nothing was written; please report it.")

    healing = Healing(
        dataset=load_manifest(dataset).source,
        recipe={name: value for name, value in asdict(recipe).items() if name != "report_to"},
        steps=len(history.losses),
        samples=len(samples),
        first_loss=history.first,
        last_loss=history.last,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        frozen_sha256=after,
    )
    healed = card.model_copy(
        update={
            "created_by": build_origin("finetune", settings),
            "inputs": {**card.inputs, **inputs, "dataset": hash_dataset(dataset)},
            "healing": healing,
        }
    )
    tuned = {name: to_bytes(value) for name, value in collect_stored(opened, model, layers, positions, "cpu").items()}
    _write(opened, tuned, healed, out, force)
    return healed


def _write(opened: OpenedModel, tuned: dict[str, bytes], healed: CheckpointCard, out: Path, force: bool) -> None:
    checkpoint = opened.checkpoint
    with folder_being_made(out, force) as draft:
        copy_config(checkpoint.path, draft)
        copy_side_files(checkpoint.path, draft)
        names = {name: name for name in checkpoint.tensors}
        write_tensors(checkpoint, draft, select_tensors(checkpoint, names, tuned))
        save_artifact(healed, draft / PASSPORT)


def _choose_positions(
    card: CheckpointCard, plan_path: Path | None, tune_layers: Sequence[int] | None, force: bool
) -> list[int]:
    """Positions to tune. Raises PlanMismatchError if the plan cuts other layers than `pruned` was cut by."""
    place = {layer: position for position, layer in enumerate(card.dense_index)}
    if tune_layers is not None:
        gone = [layer for layer in tune_layers if layer not in place]
        if gone:
            raise UsageError(
                f"--tune-layers names {describe_layers(gone)}, and the checkpoint has the dense layers"
                f" {describe_layers(card.dense_index)}."
            )
        return sorted(place[layer] for layer in tune_layers)
    if plan_path is None:
        return card.tune
    plan = load_artifact(plan_path, Plan)
    if plan.drop != card.dropped and not force:
        raise PlanMismatchError(
            f"{plan_path} drops layers {describe_layers(plan.drop)}, and the checkpoint was cut by"
            f" {describe_layers(card.dropped)}.",
            "Run `interlace prune` again, or name the layers with --tune-layers.",
        )
    return [place[layer] for layer in plan.tune if layer in place]


def _choose_precision(precision: str, device: str) -> str:
    import torch

    if precision != "auto":
        return precision
    return "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
