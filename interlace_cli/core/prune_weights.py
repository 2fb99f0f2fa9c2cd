"""`prune --method`: a baseline that drops weights and no layers, N:M sparsity in the language model's linear maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import UnsupportedModelError, UsageError
from interlace_cli.families.model_files import OpenedModel, collect_stored, open_model
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.io.datasets import hash_dataset, load_split
from interlace_cli.io.files import check_free, folder_being_made
from interlace_cli.io.integrity import record_files
from interlace_cli.io.surgery import copy_config, copy_side_files, select_tensors, write_tensors
from interlace_cli.io.workspace import METADATA
from interlace_cli.sparsity.pattern import Pattern

if TYPE_CHECKING:
    from torch import nn


def prune_weights(
    location: str,
    method: str,
    pattern: Pattern,
    out: Path,
    progress: Progress,
    dataset: Path | None,
    samples: int = 128,
    batch_size: int = 8,
    dtype: str = "auto",
    device: str = "auto",
    force: bool = False,
) -> CheckpointCard:
    """Drops weights and no layers: N:M sparsity of the linear layers in the language model's layers, by `wanda`, on the
    first `samples` of the dataset's calibration split, or by `magnitude`, which needs no data.

    The result is a plain checkpoint of the same size with zeros in it.
    """
    check_free(out, force)
    opened = open_model(location)
    calibration = load_split(dataset, "calibration")[:samples] if dataset is not None and method == "wanda" else []

    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.prefetch import iter_calibration
    from interlace_cli.families.modules import find_layers
    from interlace_cli.families.replay import can_replay
    from interlace_cli.healing.trainable import to_bytes
    from interlace_cli.io.models import load_model, load_processor
    from interlace_cli.sparsity.magnitude import prune_by_magnitude
    from interlace_cli.sparsity.wanda import prune_by_wanda

    path = opened.checkpoint.path
    model = load_model(path, dtype, device)
    layers = find_layers(model)
    positions = range(len(layers))
    collect_stored(opened, model, layers, positions, "meta")
    with progress.task(f"prune {method}", len(layers), "layers") as advance:
        if method == "magnitude":
            prune_by_magnitude(layers, pattern, advance)
        else:
            if dataset is None or not calibration:
                raise UsageError("--method wanda needs a calibration split.", "Run `interlace prepare`.")
            batcher = Batcher(load_processor(path), dataset)
            inputs = list(iter_calibration(batcher, calibration, batch_size, model))
            if not can_replay(model, layers, inputs[0]):
                raise UsageError(f"{type(model).__name__} cannot be run layer by layer.", "Use --method magnitude.")
            prune_by_wanda(model, layers, inputs, pattern, advance)
    data = {name: to_bytes(value) for name, value in collect_stored(opened, model, layers, positions, "cpu").items()}
    card = _describe_sparse(opened, method, pattern, layers, dataset, len(calibration))
    checkpoint = opened.checkpoint
    with folder_being_made(out, force) as draft:
        copy_config(checkpoint.path, draft)
        copy_side_files(checkpoint.path, draft)
        names = {name: name for name in checkpoint.tensors}
        write_tensors(checkpoint, draft, select_tensors(checkpoint, names, data))
        card = card.model_copy(update={"files": record_files(draft)})
        save_artifact(card, draft / METADATA)
    return card


def _describe_sparse(
    opened: OpenedModel, method: str, pattern: Pattern, layers: nn.ModuleList, dataset: Path | None, samples: int
) -> CheckpointCard:
    from torch import nn

    facts = opened.facts
    pruned = zeros = others = 0
    for parameter_owner in (module for layer in layers for module in layer.modules()):
        for name, parameter in parameter_owner.named_parameters(recurse=False):
            is_pruned = isinstance(parameter_owner, nn.Linear) and name == "weight" and pattern.fits(parameter)
            if is_pruned:
                pruned += parameter.numel()
                zeros += int((parameter == 0).sum())
            elif parameter.ndim > 1:
                others += parameter.numel()
    if not pruned:
        raise UnsupportedModelError(
            f"{facts.name} has no linear layer whose inputs fall into groups of {pattern.group}."
        )
    notes = [f"{zeros:,} of the {pruned:,} weights of the layers' linear maps are zero."]
    if others:
        notes.append(f"{others:,} weights that are no plain linear maps (fused experts, say) are as they were.")
    data = {} if method == "magnitude" or dataset is None else {"dataset": hash_dataset(dataset)}
    return CheckpointCard(
        kind=CheckpointCard.KIND,
        schema_version=CheckpointCard.SCHEMA,
        created_by=build_origin("prune", {"method": method, "sparsity": str(pattern), "samples": samples}),
        inputs={"model": facts.fingerprint, **data},
        stage="sparse",
        base=facts,
        stack=facts.stack,
        strategy=method,
        ratio=0.0,
        dense_index=list(range(facts.num_layers)),
        dropped=[],
        tune=[],
        sparsity=str(pattern),
        notes=notes,
    )
