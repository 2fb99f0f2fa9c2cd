"""`finetune`: heals a pruned checkpoint by training its tuned layers, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.core.inputs import hash_split
from interlace_cli.core.lineage import find_lacking_keys, read_keys
from interlace_cli.core.local_workspaces import share_for_finetune
from interlace_cli.core.spread import has_to_spread, run_spread
from interlace_cli.core.step import Condition, Step
from interlace_cli.core.together import describe_call
from interlace_cli.domain.cautions import check_healing
from interlace_cli.domain.checkpoint import CheckpointCard, Healing, HealingEstimate
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.layers import describe_layers
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.errors import PlanMismatchError, UsageError
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.healing.accelerate_launch import apply_accelerate, describe_accelerate
from interlace_cli.healing.auto_engine import read_room
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.healing.session import Session, load_usable, open_session, settle
from interlace_cli.healing.state import FORMAT, State
from interlace_cli.healing.ways import find_sizes, list_all_ways, list_needs
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import load_manifest
from interlace_cli.io.files import check_free, folder_being_made, hash_bytes
from interlace_cli.io.headers import read_bytes
from interlace_cli.io.integrity import record_files
from interlace_cli.io.sample_keys import CALIBRATED, TRAINED, build_keys, join_keys, load_keys, save_keys
from interlace_cli.io.samples import choose
from interlace_cli.io.surgery import copy_config, copy_side_files, replace_tensors
from interlace_cli.io.workspace import METADATA, Workspace, require
from interlace_cli.options.finetune import FinetuneOptions
from interlace_cli.runtime.allocator import describe_segments, expand_segments
from interlace_cli.runtime.exchange import agree, leave_processes, take_from_main
from interlace_cli.runtime.processes import find_processes

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Job:
    """A checkpoint that is to be healed: its files, what they are made of, and the metadata it is to have."""

    opened: OpenedModel
    inputs: dict[str, str]
    card: CheckpointCard


def finetune(options: FinetuneOptions, progress: Progress) -> CheckpointCard:
    """Trains the layers that are to be tuned on the dataset's training split, and writes the checkpoint. An interrupted
    call goes on where it was. Raises TrainableSetError if anything else would train, or has moved."""
    expand_segments()
    share_for_finetune(options, progress)
    return build_step(options).run(progress, options.force)


def estimate(options: FinetuneOptions, progress: Progress | None = None) -> HealingEstimate:
    """What healing would need here, by a trial of a few steps. Writes nothing."""
    expand_segments()
    job = choose_job(options)
    recipe, how = Recipe.of(options), Execution.of(options)
    check_recipe(recipe, job.card)
    if _has_to_spread(options):
        answer = run_spread("finetune", options, options.processes)
        return HealingEstimate.model_validate_json(answer)
    began = time.perf_counter()
    chosen, how = settle(recipe, how)
    room = read_room(how.device)
    healing = open_session(
        job.opened, job.card, find_dataset(options), chosen, how, State(Path("none"), "none"), Silent(), is_kept=False
    )

    from interlace_cli.healing.estimate import estimate as try_steps
    from interlace_cli.healing.estimate import measure_row

    told = progress if progress is not None and find_processes().is_main else Silent()
    row = measure_row(healing.healer)
    found = try_steps(healing.healer, time.perf_counter() - began, told)
    leave_processes()
    # On a CPU the figures are those of a GPU, where `auto` is a dtype of 16 bits.
    sizes = find_sizes(job.opened.facts, job.card, recipe if room is None else chosen)
    if sizes is None or find_processes().size > 1:
        return found
    ways = list_needs(sizes, row, list_all_ways(chosen.optim), room)
    return found.model_copy(update={"row_tokens": row.tokens, "ways": ways})


def build_step(options: FinetuneOptions) -> Step[CheckpointCard]:
    """The weights depend on the recipe, the pruned checkpoint with its processor, the layers that are tuned and the
    training samples."""
    job, dataset = choose_job(options), find_dataset(options)
    space = Workspace(options.workspace)
    out = options.out or (space.root / "dense-ft" if options.dense else space.healed)
    inputs = {**job.inputs, "train": hash_split(dataset, "train")}

    def make(progress: Progress, may_replace: bool) -> CheckpointCard:
        state = step.begin()
        if not may_replace and state.condition is Condition.INCOMPLETE and isinstance(state.artifact, CheckpointCard):
            if not find_processes().is_main:
                return state.artifact
            recipe = Recipe.of(options)
            _, usable = load_usable(job.opened, dataset, recipe, progress)
            save_keys(out, _build_keys(job.opened, usable.samples, recipe))
            return state.artifact
        if _has_to_spread(options):
            check_free(out, may_replace)
            check_recipe(Recipe.of(options), job.card)
            run_spread("finetune", replace(options, force=may_replace), options.processes)
            return load_artifact(out / METADATA, CheckpointCard)
        return _heal(options, step, job, dataset, progress, may_replace)

    step = Step(
        name="finetune",
        settings=options.build_recipe_settings(),
        inputs=inputs,
        out=out,
        file=METADATA,
        record=CheckpointCard,
        make=make,
        find_lacks=lambda card: _find_lacks(job.opened, out),
        is_completed=True,
        is_shared=True,
        is_local=options.local_workspaces,
        find_facts=lambda: _describe_call(options),
    )
    return step


def _describe_call(options: FinetuneOptions) -> dict[str, str]:
    recipe, how = apply_accelerate(Recipe.of(options), Execution.of(options), os.environ)
    launched = {"what accelerate is configured for": describe_accelerate(os.environ)}
    return {**launched, **describe_call(options, how.device, recipe.dtype)}


def _find_lacks(opened: OpenedModel, out: Path) -> list[str]:
    """Of the list of samples: none that it was trained on, or others that the pruned checkpoint was calibrated on."""
    wanted = {name: keys for name, keys in read_keys(opened.checkpoint.path).items() if name == CALIBRATED}
    lacks = find_lacking_keys(out, wanted)
    return lacks or ([] if TRAINED in read_keys(out) else ["it has no list of the samples that it was trained on"])


def _build_keys(opened: OpenedModel, samples: Sequence[Sample], recipe: Recipe) -> dict[str, np.ndarray]:
    """Of the samples of all steps, and of those that the checkpoint that is healed had seen."""
    trained = recipe.plan_steps(len(samples)).find_samples()
    own = build_keys(choose(samples, trained))
    return join_keys(load_keys(opened.checkpoint.path), {TRAINED: own})


def _has_to_spread(options: FinetuneOptions) -> bool:
    return has_to_spread(options.processes, is_needed=options.uses_deepspeed)


def find_dataset(options: FinetuneOptions) -> Path:
    """The dataset that is named, or the workspace's."""
    return require(options.dataset or Workspace(options.workspace).dataset)


def choose_job(options: FinetuneOptions) -> Job:
    """The pruned checkpoint and its tuned layers; with --dense the dense model. Raises PlanMismatchError if the plan
    cuts other layers than the checkpoint was cut by."""
    space = Workspace(options.workspace)
    if options.dense:
        return _choose_dense_job(options)
    plan_path = options.plan
    if plan_path is None and options.checkpoint is None and space.plan.exists():
        plan_path = space.plan
    return choose_pruned(options.checkpoint or space.pruned, plan_path, options.tune_layers, options.allow_mismatch)


def _choose_dense_job(options: FinetuneOptions) -> Job:
    """All is named, or the plan says it."""
    if options.checkpoint is not None and options.tune_layers is not None:
        return choose_dense(str(options.checkpoint), options.tune_layers, options.stack or LANGUAGE)
    plan = load_artifact(require(options.plan or Workspace(options.workspace).plan), Plan)
    where = str(options.checkpoint) if options.checkpoint else plan.model.pinned if plan.model else None
    if where is None:
        raise UsageError("the plan names no model.", "Give the dense model.")
    tuned = plan.tune if options.tune_layers is None else options.tune_layers
    return choose_dense(where, tuned, options.stack or plan.stack)


def choose_pruned(
    pruned: Path, plan_path: Path | None = None, tune_layers: Sequence[int] | None = None, is_allowed: bool = False
) -> Job:
    """Which layers are tuned: `tune_layers` (dense indices), else the plan's, else those that `pruned` names itself."""
    card = load_artifact(require(require(pruned) / METADATA), CheckpointCard)
    positions = _choose_positions(card, plan_path, tune_layers, is_allowed)
    opened = open_model(pruned, card.stack)
    inputs = {
        "model": card.base.fingerprint,
        "pruned": opened.facts.fingerprint,
        "processor": opened.facts.processor,
        "tune": describe_layers(card.dense_index[position] for position in positions),
    }
    return Job(opened, inputs, card.model_copy(update={"stage": "healed", "tune": list(positions)}))


def choose_dense(location: str, tune_layers: Sequence[int], stack: str = LANGUAGE) -> Job:
    """Dense-FT, the paper's baseline: `tune_layers` are trained in the dense model, with nothing dropped."""
    opened = open_model(location, stack)
    facts = opened.facts
    outside = [layer for layer in tune_layers if not 0 <= layer < facts.num_layers]
    if outside:
        raise UsageError(f"there is no layer {outside[0]} to tune: {facts.name} has 0 to {facts.num_layers - 1}.")
    inputs = {"model": facts.fingerprint, "processor": facts.processor, "tune": describe_layers(tune_layers)}
    card = CheckpointCard(
        kind=CheckpointCard.KIND,
        schema_version=CheckpointCard.SCHEMA,
        created_by=build_origin("finetune", {}),
        inputs=inputs,
        stage="dense-ft",
        base=facts,
        stack=stack,
        strategy="dense-ft",
        ratio=0.0,
        dense_index=list(range(facts.num_layers)),
        dropped=[],
        tune=sorted(tune_layers),
    )
    return Job(opened, inputs, card)


def check_recipe(recipe: Recipe, card: CheckpointCard) -> None:
    """Raises UsageError for an objective that is none, or that needs a teacher where there is none."""
    if any(stage.needs_teacher for stage in recipe.stages) and card.stage == "dense-ft":
        raise UsageError("--dense: the dense model cannot be its own teacher.", "Take --objective ce.")


def _heal(
    options: FinetuneOptions,
    step: Step[CheckpointCard],
    job: Job,
    dataset: Path,
    progress: Progress,
    may_replace: bool,
) -> CheckpointCard:
    recipe, how, card = Recipe.of(options), Execution.of(options), job.card
    take_from_main("the place of the result", lambda: check_free(step.out, may_replace))
    check_recipe(recipe, card)
    processes = find_processes()
    chosen, how = settle(recipe, how)
    # Neither the engine nor the number of processes is part of the key: any of them goes on from any other's state.
    key = hash_bytes(repr((step.key, chosen.dtype, FORMAT)).encode())[:10]
    facts = {"precision": chosen.dtype, "--engine": how.engine, "the state of healing that is gone on from": key}
    agree("finetune", {**{f"the {name} that is read": digest for name, digest in step.inputs.items()}, **facts})
    state = State(step.out, key)
    told = progress if processes.is_main else Silent()
    if line := describe_segments(how.device):
        told.say(line)
    for other in state.find_others():
        told.say(
            f"{other} has unfinished healing with other settings, data or weights, or of another version: this one"
            " begins anew, and deletes it at its end"
        )
    healing = open_session(job.opened, job.card, dataset, chosen, how, state, told)
    history = healing.run()
    manifest = load_manifest(dataset)
    healed = card.model_copy(
        update={
            "created_by": step.origin,
            "inputs": dict(step.inputs),
            "healing": Healing(
                dataset=manifest.source,
                dataset_location=manifest.location,
                dataset_revision=manifest.revision,
                recipe=asdict(chosen),
                steps=history.steps,
                samples=len(healing.usable.samples),
                left_out=healing.usable.left_out,
                shortened=healing.usable.shortened,
                loss_before=history.before,
                loss_after=history.after,
                first_loss=history.first,
                last_loss=history.last,
                curve=history.curve,
                engine=None if healing.healer.how.engine == "auto" else healing.healer.how.engine,
                gradient_checkpointing=healing.healer.is_checkpointed,
                trained_parameters=healing.trained_parameters,
                frozen_sha256=healing.frozen_sha256,
            ),
        }
    )
    if processes.is_main:
        healed, remarks = _write(healing, healed, step.out, chosen, may_replace)
        for line in remarks:
            progress.say(line)
        state.clear()
    else:
        for _ in healing.iter_tuned():
            pass
    leave_processes()
    return healed


@dataclass
class Compared:
    """The tensors `tuned`, by name and bytes, on their way into a checkpoint. `is_changed`: whether any of those that
    have passed is another one than on disk. Small steps may be lost where it is stored in 16 bits."""

    opened: OpenedModel
    tuned: Iterable[tuple[str, memoryview]]
    is_changed: bool = False

    def __iter__(self) -> Iterator[tuple[str, memoryview]]:
        tensors = self.opened.checkpoint.tensors
        for name, data in self.tuned:
            self.is_changed = self.is_changed or read_bytes(tensors[name]) != data
            yield name, data


def _write(
    healing: Session, healed: CheckpointCard, out: Path, recipe: Recipe, may_replace: bool
) -> tuple[CheckpointCard, list[str]]:
    """The metadata that were written, and what people should know of the files."""
    checkpoint = healing.opened.checkpoint
    keys = _build_keys(healing.opened, healing.usable.samples, recipe)
    tuned = Compared(healing.opened, healing.iter_tuned())
    with folder_being_made(out, may_replace) as draft:
        copy_config(checkpoint.path, draft)
        side = copy_side_files(checkpoint, draft)
        share = (checkpoint.path / METADATA).exists()
        replace_tensors(checkpoint, draft, healing.tuned_names, share, tuned)
        save_keys(draft, keys)
        files = record_files(draft, checkpoint.path, healed.files)
        assert healed.healing is not None
        cautions = check_healing(is_changed=tuned.is_changed, lr=recipe.lr, steps=healed.healing.steps)
        noted = healed.healing.model_copy(update={"cautions": cautions})
        healed = healed.model_copy(update={"left": side.left, "files": files, "healing": noted})
        save_artifact(healed, draft / METADATA)
    careful = [f"Careful: {line}" for line in cautions]
    return healed, [*careful, *checkpoint.remarks, *([side.describe()] if side.left else [])]


def _choose_positions(
    card: CheckpointCard, plan_path: Path | None, tune_layers: Sequence[int] | None, is_allowed: bool
) -> list[int]:
    """Positions to tune. Raises PlanMismatchError if the plan cuts other layers than `pruned` was cut by."""
    position_of = {layer: position for position, layer in enumerate(card.dense_index)}
    if tune_layers is not None:
        gone = [layer for layer in tune_layers if layer not in position_of]
        if gone:
            raise UsageError(
                f"--tune-layers names {describe_layers(gone)}, and the checkpoint has the dense layers"
                f" {describe_layers(card.dense_index)}."
            )
        return sorted(position_of[layer] for layer in tune_layers)
    if plan_path is None:
        return card.tune
    plan = load_artifact(plan_path, Plan)
    if plan.drop != card.dropped and not is_allowed:
        raise PlanMismatchError(
            f"{plan_path} drops layers {describe_layers(plan.drop)}, and the checkpoint was cut by"
            f" {describe_layers(card.dropped)}.",
            "Run `interlace prune --force` again, name the layers with --tune-layers, or add --allow-mismatch.",
        )
    return [position_of[layer] for layer in plan.tune if layer in position_of]
