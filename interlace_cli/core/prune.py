"""`prune`: a new checkpoint without the layers that a plan drops, by surgery on disk; or, as a baseline, one in which
weights are dropped (`prune_weights.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace_cli.core.cuts import Cut, find_cut, hash_cut
from interlace_cli.core.inputs import hash_split
from interlace_cli.core.lineage import find_lacking_keys
from interlace_cli.core.prune_weights import build_sparse_step
from interlace_cli.core.spread import is_divided, run_spread
from interlace_cli.core.step import Condition, Step
from interlace_cli.data.readable import load_readable
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.cautions import check_compensation
from interlace_cli.domain.checkpoint import CheckpointCard, Fidelity, PruneDraft, PruneOutcome
from interlace_cli.domain.layers import describe_layers, kept_layers
from interlace_cli.domain.progress import Advance, Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import CheckpointError, InterlaceError, UsageError
from interlace_cli.families.cut import compare_configs, cut_config, edit_side_files, select_cut
from interlace_cli.families.limits import check_drop
from interlace_cli.families.model_files import OpenedModel, collect_stored
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.arrays import load_arrays
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.checkpoints import resolve_location
from interlace_cli.io.files import check_free, folder_being_made
from interlace_cli.io.integrity import check_files, record_files
from interlace_cli.io.sample_keys import CALIBRATED, build_keys, join_keys, load_keys, save_keys
from interlace_cli.io.surgery import (
    copy_side_files,
    name_shard,
    split_into_shards,
    write_config,
    write_tensors,
)
from interlace_cli.io.text_processor import tell_format
from interlace_cli.io.workspace import METADATA, Workspace, require
from interlace_cli.options.prune import CALIBRATION_SETTINGS, PruneOptions

if TYPE_CHECKING:
    import numpy as np

CALIBRATION_KEYS = "sample_keys"
"""Name of the array of an analysis that holds the keys of its samples."""


def prune(options: PruneOptions, progress: Progress) -> PruneOutcome:
    """Writes the checkpoint, and compares it with the dense model if that is asked for.

    Raises PlanMismatchError if the plan was made for another model (where that is allowed, if it has other layers), and
    CheckpointError if the comparison finds a difference."""
    if options.verify and is_divided(options):
        return PruneOutcome.model_validate_json(run_spread("prune", options, options.processes))
    if options.verify:
        from interlace_cli.runtime.device import choose_device

        # Before anything is written.
        choose_device(options.device)
    step = build_step(options)
    card = step.run(progress, options.force)
    fidelity = verify(options, card, step.out, progress) if options.verify else None
    return PruneOutcome(checkpoint=card, fidelity=fidelity)


def build_step(options: PruneOptions) -> Step[CheckpointCard]:
    """A cut depends on the model, the layers that go and that are to be tuned, and, if it is compensated, on the
    calibration samples; not on anything else that the plan says. Where the same layers are chosen by other samples, the
    list of samples is written anew, and the weights stay."""
    if options.method is not None:
        return build_sparse_step(options)
    cut = find_cut(options)
    if options.verify or options.is_compensated:
        from interlace_cli.io.models import check_loadable

        check_loadable(cut.opened.checkpoint.path)
    out = options.out or Workspace(options.workspace).pruned
    inputs = hash_cut(cut)
    if options.is_compensated:
        inputs["calibration"] = hash_split(_find_dataset(options), "calibration")

    def make(progress: Progress, may_replace: bool) -> CheckpointCard:
        state = step.find_state()
        if not may_replace and state.condition is Condition.INCOMPLETE and isinstance(state.artifact, CheckpointCard):
            save_keys(out, _find_keys(options, cut) or {})
            return state.artifact
        if options.is_compensated and is_divided(options):
            run_spread("prune", replace(options, force=may_replace), options.processes)
            return load_artifact(out / METADATA, CheckpointCard)
        return _write(options, cut, inputs, out, progress, may_replace)

    step = Step(
        name="prune",
        settings=build_settings(options, cut.opened.stack.name),
        inputs=inputs,
        out=out,
        file=METADATA,
        record=CheckpointCard,
        make=make,
        find_lacks=lambda card: find_lacking_keys(out, _find_keys(options, cut) or {}),
        is_completed=True,
    )
    return step


def build_settings(options: PruneOptions, stack: str) -> Settings:
    """The stack, and how dropped layers are made up for."""
    how = options.build_settings(*CALIBRATION_SETTINGS) if options.is_compensated else {}
    return {"stack": stack, "compensate": options.compensate, **how}


def draft(options: PruneOptions) -> PruneDraft:
    """What the cut would write, from the config and the headers of the files alone."""
    cut = find_cut(options)
    return draft_cut(cut.opened, cut.drop)


def draft_cut(opened: OpenedModel, drop: Sequence[int]) -> PruneDraft:
    """What cutting `drop` would write, from the config and the headers of the files alone."""
    facts = opened.facts
    check_drop(opened.config, opened.stack, facts.num_layers, drop)
    config, notes = cut_config(opened, drop)
    tensors = select_cut(opened, drop)
    edit_side_files(opened, drop)
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
        config=compare_configs(opened.checkpoint.config, config),
        notes=[*opened.checkpoint.remarks, *notes],
        left=opened.checkpoint.find_side_files().left,
    )


def verify(options: PruneOptions, card: CheckpointCard, out: Path, progress: Progress) -> Fidelity:
    """Compares the checkpoint with the dense model, its dropped layers bypassed, both loaded by transformers. Raises
    CheckpointError if they differ."""
    from interlace_cli.evaluation.fidelity import compare_checkpoints
    from interlace_cli.io.placement import Placement

    progress.say(f"loading {card.base.name}, then {out}, to compare them")
    dense = resolve_location(options.model or card.base.pinned)[0]
    placement = Placement.of(options)
    found = compare_checkpoints(dense, out, card.dropped, card.stack, card.base.total_parameters, placement)
    if not found.is_exact:
        raise CheckpointError(
            f"{out} does not compute what it should: it differs from the dense model with these layers bypassed by"
            f" {found.difference:.1e} (tolerance {found.tolerance:.0e}).",
            "Please report the model's architecture.",
        )
    return found


def _write(
    options: PruneOptions, cut: Cut, inputs: Mapping[str, str], out: Path, progress: Progress, may_replace: bool
) -> CheckpointCard:
    opened = cut.opened
    facts, checkpoint = opened.facts, opened.checkpoint
    check_free(out, may_replace)
    check_drop(opened.config, opened.stack, facts.num_layers, cut.drop)
    check_files(checkpoint.path)
    edited = edit_side_files(opened, cut.drop)
    # transformers is asked about the cut, in a process of its own, while the files are copied.
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(cut_config, opened, cut.drop)
        replaced: dict[str, bytes] = {}
        changed: list[int] = []
        if options.is_compensated:
            answer.result()
            replaced, changed = _compensate(opened, cut.drop, options, progress)
        tensors = select_cut(opened, cut.drop, replaced)
        total = sum(tensor.bytes for tensor in tensors)
        with folder_being_made(out, may_replace) as draft:
            with progress.task("prune", total, "bytes") as advance:
                side = copy_side_files(checkpoint, draft, edited)
                write_tensors(checkpoint, draft, tensors, _stop_if_refused(answer, advance))
                config, notes = answer.result()
            write_config(config, draft)
            keys = _find_keys(options, cut) or load_keys(checkpoint.path)
            if keys:
                save_keys(draft, keys)
            card = _build_card(options, cut, inputs, changed, notes).model_copy(
                update={"left": side.left, "files": record_files(draft)}
            )
            save_artifact(card, draft / METADATA)
    for line in (*checkpoint.remarks, *card.notes, *filter(None, [side.describe()])):
        progress.say(line)
    return card


def _stop_if_refused(answer: Future[Any], advance: Advance) -> Callable[[float], None]:
    """`advance`, which raises what the cut is refused for as soon as that is known."""

    def go_on(done: float) -> None:
        if answer.done():
            answer.result()
        advance(done)

    return go_on


def _build_card(
    options: PruneOptions, cut: Cut, inputs: Mapping[str, str], changed: Sequence[int], notes: Sequence[str]
) -> CheckpointCard:
    """The card, but for the files. `changed`: dense layers that make up for dropped ones."""
    facts, stack = cut.opened.facts, cut.opened.stack
    about = []
    if changed:
        about.append(f"The last linear maps of layers {describe_layers(changed)} make up for the dropped ones behind.")
    if options.is_compensated:
        about += check_compensation(_count_gaps(cut.drop), len(changed))
    kept = kept_layers(cut.drop, facts.num_layers)
    return CheckpointCard(
        kind=CheckpointCard.KIND,
        schema_version=CheckpointCard.SCHEMA,
        created_by=build_origin("prune", build_settings(options, stack.name)),
        inputs=dict(inputs),
        stage="pruned",
        base=facts,
        stack=facts.stack,
        strategy=cut.strategy,
        ratio=len(cut.drop) / facts.num_layers,
        dense_index=kept,
        dropped=list(cut.drop),
        tune=[kept.index(layer) for layer in cut.tune],
        compensated=[kept.index(layer) for layer in changed],
        notes=[*notes, *about],
    )


def _count_gaps(drop: Sequence[int]) -> int:
    """Runs of dropped layers that have a layer in front of them."""
    return sum(layer > 0 and layer - 1 not in drop for layer in drop)


def _find_dataset(options: PruneOptions) -> Path:
    return require(options.dataset or Workspace(options.workspace).dataset)


def _find_keys(options: PruneOptions, cut: Cut) -> dict[str, np.ndarray] | None:
    """Keys of the samples that the layers were chosen by, or that a compensation was calibrated on, and of those that
    the model itself had seen. None where nobody knows: a plan from score files, or one without its analysis."""
    keys = []
    if options.is_compensated:
        samples = load_readable(_find_dataset(options), "calibration", cut.opened.facts.model_type)
        keys.append(build_keys(samples[: options.samples]))
    wanted = cut.plan.inputs.get("calibration") if cut.plan is not None else None
    path = Workspace(options.workspace).analysis
    if wanted is not None and path.exists():
        try:
            analysis = load_artifact(path, Analysis)
            if analysis.inputs.get("calibration") == wanted:
                keys.append(load_arrays(path.with_suffix(".safetensors"))[CALIBRATION_KEYS])
        except (InterlaceError, KeyError, OSError):
            pass
    return join_keys(load_keys(cut.opened.checkpoint.path), *({CALIBRATED: one} for one in keys)) if keys else None


def _compensate(
    opened: OpenedModel, drop: Sequence[int], options: PruneOptions, progress: Progress
) -> tuple[dict[str, bytes], list[int]]:
    """New bytes of tensors, by their names in the dense checkpoint, and the layers (dense) that they are of."""
    if opened.stack.name != LANGUAGE:
        raise UsageError(f"--compensate is for the language model's layers, not the {opened.stack.name} stack's.")
    model_type = opened.facts.model_type
    samples = load_readable(_find_dataset(options), "calibration", model_type, progress.say)[: options.samples]
    if not samples:
        raise UsageError("--compensate needs a calibration split.", "Run `interlace prepare`.")

    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.labels import keep_label_positions
    from interlace_cli.data.prefetch import iter_calibration
    from interlace_cli.data.usable import find_usable
    from interlace_cli.families.modules import find_layers
    from interlace_cli.families.ways import Way, find_way
    from interlace_cli.healing.compensation import compensate, find_gaps
    from interlace_cli.healing.trainable import to_bytes
    from interlace_cli.io.models import check_goes_on_from_prompt, load_model, load_processor
    from interlace_cli.io.placement import Placement

    path = opened.checkpoint.path
    check_goes_on_from_prompt(path, "--compensate")
    model = load_model(path, options.dtype, Placement.of(options))
    layers = find_layers(model)
    gaps = find_gaps(drop)
    collect_stored(opened, model, layers, [gap.front for gap in gaps], "meta")
    processor = load_processor(path, options.min_pixels, options.max_pixels)
    tell_format(processor, progress.say)
    batcher = Batcher(processor, _find_dataset(options))
    samples = find_usable(batcher, samples, "calibration samples", progress).samples
    batches = iter_calibration(batcher, samples, options.batch_size, model, keep_label_positions)
    first = next(batches)
    way = find_way(model, layers, {name: value for name, value in first.items() if name != "labels"})
    if way is Way.WHOLE:
        raise UsageError(f"{type(model).__name__} cannot be run layer by layer.", "Leave out --compensate.")
    with progress.task("compensate", len(gaps), "gaps") as advance:
        changed = compensate(model, layers, drop, chain([first], batches), advance, way)
    stored = collect_stored(opened, model, layers, changed, "cpu")
    return {name: to_bytes(value) for name, value in stored.items()}, changed
