"""`finetune`: heals a pruned checkpoint by training its tuned layers, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.checkpoint import CheckpointCard, Healing, HealingEstimate
from interlace_cli.domain.layers import describe_layers
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.domain.record import Settings
from interlace_cli.errors import PlanMismatchError, TrainableSetError, UsageError
from interlace_cli.families.model_files import OpenedModel, collect_stored, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.healing.recipe import PRECISIONS, Execution, Recipe
from interlace_cli.healing.state import State
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import hash_dataset, load_manifest, load_split
from interlace_cli.io.files import check_free, folder_being_made, hash_bytes
from interlace_cli.io.integrity import record_files
from interlace_cli.io.surgery import copy_config, copy_side_files, replace_tensors
from interlace_cli.io.workspace import METADATA, require
from interlace_cli.runtime.processes import find_processes, leave_processes

if TYPE_CHECKING:
    from interlace_cli.healing.heal import History

EXECUTION = Execution()
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def build_settings(recipe: Recipe) -> Settings:
    """The recipe as it was asked for, `auto` left as it is."""
    return dict(asdict(recipe))


@dataclass(frozen=True)
class Job:
    """A checkpoint that is to be healed: its files, what it came from, and the passport it is to have."""

    opened: OpenedModel
    inputs: dict[str, str]
    card: CheckpointCard


def choose_pruned(
    pruned: Path, plan_path: Path | None = None, tune_layers: Sequence[int] | None = None, force: bool = False
) -> Job:
    """Which layers are tuned: `tune_layers` (dense indices), else the plan's, else those that `pruned` names itself."""
    card = load_artifact(require(require(pruned) / METADATA), CheckpointCard)
    positions = _choose_positions(card, plan_path, tune_layers, force)
    opened = open_model(pruned, card.stack)
    card = card.model_copy(update={"stage": "healed", "tune": list(positions)})
    return Job(opened, {**card.inputs, "pruned": opened.facts.fingerprint}, card)


def choose_dense(location: str, tune_layers: Sequence[int], stack: str = LANGUAGE) -> Job:
    """Dense-FT, the paper's baseline: `tune_layers` are trained in the dense model, with nothing dropped."""
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
    return Job(opened, card.inputs, card)


def heal_model(
    pruned: Path,
    dataset: Path,
    out: Path,
    recipe: Recipe,
    progress: Progress,
    plan_path: Path | None = None,
    tune_layers: Sequence[int] | None = None,
    how: Execution = EXECUTION,
    force: bool = False,
) -> CheckpointCard:
    """Trains the tuned layers of `pruned`; see `choose_pruned` and `heal`."""
    return heal(choose_pruned(pruned, plan_path, tune_layers, force), dataset, out, recipe, progress, how, force)


def heal(
    job: Job,
    dataset: Path,
    out: Path,
    recipe: Recipe,
    progress: Progress,
    how: Execution = EXECUTION,
    force: bool = False,
) -> CheckpointCard:
    """Trains the layers that are to be tuned on the dataset's training split, and writes the checkpoint `out`. An
    interrupted call goes on where it was. Raises TrainableSetError if anything else would train, or has moved."""
    check_free(out, force)
    _check_recipe(recipe, job.card)
    processes = find_processes()
    card, inputs = job.card, {**job.inputs, "dataset": hash_dataset(dataset)}
    chosen, how = _settle(recipe, how)
    state = State(out, _build_key(chosen, inputs, card, how.describe_state(processes.size)))
    healing = _Healing(job, dataset, chosen, how, state, progress if processes.is_main else Silent())
    history = healing.run()
    manifest = load_manifest(dataset)
    healed = card.model_copy(
        update={
            "created_by": build_origin("finetune", build_settings(recipe)),
            "inputs": inputs,
            "healing": Healing(
                dataset=manifest.source,
                dataset_location=manifest.location,
                dataset_revision=manifest.revision,
                recipe=asdict(chosen),
                steps=history.steps,
                samples=healing.samples,
                first_loss=history.first,
                last_loss=history.last,
                curve=history.curve,
                trained_parameters=healing.trained_parameters,
                frozen_sha256=healing.frozen_sha256,
            ),
        }
    )
    tuned = healing.collect()
    if processes.is_main:
        _write(job.opened, tuned, healed, out, force)
        state.clear()
    leave_processes()
    return healed


def estimate_healing(job: Job, dataset: Path, recipe: Recipe, how: Execution = EXECUTION) -> HealingEstimate:
    """What `heal` would need here, by a trial of a few steps. Writes nothing."""
    _check_recipe(recipe, job.card)
    began = time.perf_counter()
    chosen, how = _settle(recipe, how)
    healing = _Healing(job, dataset, chosen, how, State(Path("none"), "none"), Silent())

    from interlace_cli.healing.estimate import estimate

    found = estimate(healing.healer, time.perf_counter() - began)
    leave_processes()
    return found


def _check_recipe(recipe: Recipe, card: CheckpointCard) -> None:
    if recipe.precision not in PRECISIONS:
        raise UsageError(f"--precision does not take {recipe.precision!r}.", f"It takes {', '.join(PRECISIONS)}.")
    if any(stage.needs_teacher for stage in recipe.stages) and card.stage == "dense-ft":
        raise UsageError("--dense: the dense model cannot be its own teacher.", "Take --objective ce.")


def _settle(recipe: Recipe, how: Execution) -> tuple[Recipe, Execution]:
    """What `auto` is here."""
    how = replace(how, device=find_processes().place(how.device))
    return replace(recipe, precision=_choose_precision(recipe.precision, how.device)), how


def _build_key(recipe: Recipe, inputs: dict[str, str], card: CheckpointCard, kind: str) -> str:
    """Stands for all that decides the weights, and for what can read the state: the Trainer goes on without an
    optimizer's state that it does not find, and says nothing."""
    origin = build_origin("finetune", asdict(recipe))
    return hash_bytes(repr((origin, sorted(inputs.items()), card.dense_index, card.tune, kind)).encode())[:10]


class _Healing:
    """The model that is healed, and its teacher, from loading to the tensors that are to be written."""

    def __init__(
        self,
        job: Job,
        dataset: Path,
        recipe: Recipe,
        how: Execution,
        state: State,
        progress: Progress,
    ) -> None:
        from interlace_cli.data.batches import Batcher
        from interlace_cli.families.modules import find_layers
        from interlace_cli.healing.engine import Engine
        from interlace_cli.healing.heal import Dense, Healer, Student
        from interlace_cli.healing.trainable import apply_trainable_set, check_trainable_set, hash_frozen
        from interlace_cli.healing.trainer import check_arguments
        from interlace_cli.io.models import choose_device, load_model, load_processor

        opened, card, samples = job.opened, job.card, load_split(dataset, "train")
        path, dtype = opened.checkpoint.path, _DTYPES[recipe.precision]
        check_arguments(recipe, how, state.folder, choose_device(how.device))
        engine = Engine(how.engine, find_processes().size)
        self.opened, self.positions, self.samples = opened, card.tune, len(samples)
        self.model = load_model(path, dtype, "cpu" if engine.shards_weights else how.device)
        self.layers = find_layers(self.model, card.stack)
        apply_trainable_set(self.model, self.layers, card.tune)
        check_trainable_set(self.model, self.layers, card.tune)
        collect_stored(opened, self.model, self.layers, card.tune, "meta")
        self.frozen_sha256 = hash_frozen(self.model)
        self.trained_parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        dense = None
        if any(stage.needs_teacher for stage in recipe.stages):
            model = load_model(_open_base(card).checkpoint.path, dtype, "cpu")
            dense = Dense(model, find_layers(model, card.stack))
        processor = load_processor(path, recipe.min_pixels, recipe.max_pixels)
        self.healer = Healer(
            Student(self.model, self.layers, card.dense_index, card.tune, card.compensated),
            dense,
            Batcher(processor, dataset, recipe.max_length),
            samples,
            recipe,
            how,
            engine,
            state,
            progress,
        )

    def run(self) -> History:
        """Trains. Raises TrainableSetError if a frozen tensor has moved."""
        from interlace_cli.healing.trainable import hash_frozen

        history = self.healer.heal()
        if hash_frozen(self.model) != self.frozen_sha256:
            raise TrainableSetError(
                "a frozen tensor has changed while training.", "Nothing was written; please report it."
            )
        return history

    def collect(self) -> dict[str, bytes]:
        """Name on disk -> bytes of each tensor that was tuned."""
        from interlace_cli.healing.engine import gather
        from interlace_cli.healing.trainable import to_bytes

        stored = collect_stored(self.opened, self.model, self.layers, self.positions, "cpu", gather)
        return {name: to_bytes(value) for name, value in stored.items()}


def _open_base(card: CheckpointCard) -> OpenedModel:
    """The dense model, which the teacher is. Raises PlanMismatchError if another lies there now."""
    opened = open_model(card.base.pinned, card.stack)
    if opened.facts.fingerprint != card.base.fingerprint:
        raise PlanMismatchError(
            f"{card.base.pinned} is not the model any more that the checkpoint was cut from.",
            "Prune again, or take --objective ce, which needs no dense model.",
        )
    return opened


def _write(opened: OpenedModel, tuned: dict[str, bytes], healed: CheckpointCard, out: Path, force: bool) -> None:
    checkpoint = opened.checkpoint
    with folder_being_made(out, force) as draft:
        copy_config(checkpoint.path, draft)
        copy_side_files(checkpoint.path, draft)
        replace_tensors(checkpoint, draft, tuned, share=(checkpoint.path / METADATA).exists())
        files = record_files(draft, checkpoint.path, healed.files)
        save_artifact(healed.model_copy(update={"files": files}), draft / METADATA)


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

    from interlace_cli.io.models import choose_device

    if precision != "auto":
        return precision
    return "bf16" if choose_device(device).startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
