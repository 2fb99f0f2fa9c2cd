"""`prune --method`: a baseline that drops weights and no layers, N:M sparsity in the language model's linear maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.core.inputs import find_model, hash_model, hash_split
from interlace_cli.core.spread import is_divided, run_spread
from interlace_cli.core.step import Step
from interlace_cli.data.readable import load_readable
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import UnsupportedModelError, UsageError
from interlace_cli.families.model_files import OpenedModel, collect_stored, open_model
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.files import check_free, folder_being_made
from interlace_cli.io.integrity import record_files
from interlace_cli.io.sample_keys import CALIBRATED, build_keys, join_keys, load_keys, save_keys
from interlace_cli.io.surgery import copy_config, copy_side_files, replace_tensors
from interlace_cli.io.text_processor import tell_format
from interlace_cli.io.workspace import METADATA, Workspace, require
from interlace_cli.options.prune import CALIBRATION_SETTINGS, PruneOptions
from interlace_cli.runtime.dispatch import loaded
from interlace_cli.sparsity.pattern import Pattern

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def build_sparse_step(options: PruneOptions) -> Step[CheckpointCard]:
    """N:M sparsity of the linear maps in the language model's layers, by `wanda`, on the first `samples` of the
    dataset's calibration split, or by `magnitude`, which needs no data. The result is a plain checkpoint of the same
    size with zeros in it."""
    assert options.method is not None
    space, pattern = Workspace(options.workspace), Pattern.parse(options.sparsity)
    opened = open_model(find_model(space, options.model))
    out = options.out or space.root / options.method
    inputs, settings = hash_model(opened.facts), options.build_settings("method", "sparsity")
    dataset = None
    if options.method == "wanda":
        dataset = require(options.dataset or space.dataset)
        inputs["calibration"] = hash_split(dataset, "calibration")
        settings |= options.build_settings(*CALIBRATION_SETTINGS)

    def make(progress: Progress, may_replace: bool) -> CheckpointCard:
        if is_divided(options):
            run_spread("prune", replace(options, force=may_replace), options.processes)
            return load_artifact(out / METADATA, CheckpointCard)
        return _write(options, opened, pattern, dataset, (settings, inputs), out, progress, may_replace)

    return Step(
        name="prune", settings=settings, inputs=inputs, out=out, file=METADATA, record=CheckpointCard, make=make
    )


def _write(
    options: PruneOptions,
    opened: OpenedModel,
    pattern: Pattern,
    dataset: Path | None,
    made_from: tuple[Settings, dict[str, str]],
    out: Path,
    progress: Progress,
    may_replace: bool,
) -> CheckpointCard:
    check_free(out, may_replace)
    model_type = opened.facts.model_type
    found = load_readable(dataset, "calibration", model_type, progress.say) if dataset is not None else []
    calibration = found[: options.samples]
    if options.method == "wanda" and not calibration:
        raise UsageError("--method wanda needs a calibration split.", "Run `interlace prepare`.")

    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.prefetch import iter_calibration
    from interlace_cli.data.usable import find_usable
    from interlace_cli.families.modules import find_layers
    from interlace_cli.families.ways import Way, find_way
    from interlace_cli.io.models import load_model, load_processor
    from interlace_cli.io.placement import Placement
    from interlace_cli.sparsity.magnitude import prune_by_magnitude
    from interlace_cli.sparsity.wanda import prune_by_wanda

    path = opened.checkpoint.path
    # Without a forward pass there is nothing that another dtype would make faster.
    is_by_value = dataset is None and options.dtype == "auto"
    model = load_model(path, "native" if is_by_value else options.dtype, Placement.of(options))
    layers = find_layers(model)
    names = collect_stored(opened, model, layers, range(len(layers)), "meta").keys()
    if dataset is not None:
        processor = load_processor(path, options.min_pixels, options.max_pixels)
        tell_format(processor, progress.say)
        batcher = Batcher(processor, dataset)
        calibration = find_usable(batcher, calibration, "calibration samples", progress).samples
    with progress.task(f"prune {options.method}", len(layers), "layers") as advance:
        if dataset is None:
            prune_by_magnitude(layers, pattern, advance)
        else:
            inputs = list(iter_calibration(batcher, calibration, options.batch_size, model))
            way = find_way(model, layers, inputs[0])
            if way is Way.WHOLE:
                raise UsageError(f"{type(model).__name__} cannot be run layer by layer.", "Use --method magnitude.")
            prune_by_wanda(model, layers, inputs, pattern, advance, way)
    card = _describe_sparse(opened, str(options.method), pattern, layers, made_from)
    checkpoint = opened.checkpoint
    with folder_being_made(out, may_replace) as draft:
        copy_config(checkpoint.path, draft)
        side = copy_side_files(checkpoint, draft)
        replace_tensors(checkpoint, draft, names, share=False, values=_iter_pruned(opened, model, layers))
        keys = join_keys(load_keys(checkpoint.path), {CALIBRATED: build_keys(calibration)} if calibration else {})
        if keys:
            save_keys(draft, keys)
        card = card.model_copy(update={"left": side.left, "files": record_files(draft)})
        save_artifact(card, draft / METADATA)
    for line in (*checkpoint.remarks, *([side.describe()] if side.left else [])):
        progress.say(line)
    return card


def _iter_pruned(
    opened: OpenedModel, model: PreTrainedModel, layers: nn.ModuleList
) -> Iterator[tuple[str, memoryview]]:
    """Name on disk and bytes of the layers' tensors, one layer at a time: zero where the model's are, else as they are
    stored; the model may hold them rounded."""
    from interlace_cli.healing.tensor_files import read_tensor, view_bytes

    for position in range(len(layers)):
        for name, held in collect_stored(opened, model, layers, [position], "cpu").items():
            is_rounded = held.dtype != model.dtype
            stored = read_tensor(opened.checkpoint.tensors[name]).masked_fill(held == 0, 0) if is_rounded else held
            yield name, view_bytes(stored)


def _describe_sparse(
    opened: OpenedModel,
    method: str,
    pattern: Pattern,
    layers: nn.ModuleList,
    made_from: tuple[Settings, dict[str, str]],
) -> CheckpointCard:
    from torch import nn

    facts = opened.facts
    pruned = zeros = others = 0
    for layer in layers:
        with loaded(layer):
            for parameter_owner in layer.modules():
                for name, parameter in parameter_owner.named_parameters(recurse=False):
                    is_linear = isinstance(parameter_owner, nn.Linear) and name == "weight"
                    if is_linear and pattern.fits(parameter):
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
    settings, inputs = made_from
    return CheckpointCard(
        kind=CheckpointCard.KIND,
        schema_version=CheckpointCard.SCHEMA,
        created_by=build_origin("prune", settings),
        inputs=inputs,
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
