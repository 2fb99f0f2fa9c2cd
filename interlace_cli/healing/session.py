"""One healing, from loading to the tensors that are to be written: the model, its teacher where the objective needs
one, and the proof that nothing else than the tuned layers has moved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.data.readable import load_readable
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import PlanMismatchError, TrainableSetError
from interlace_cli.families.model_files import OpenedModel, collect_stored, open_model
from interlace_cli.healing.accelerate_launch import apply_accelerate
from interlace_cli.healing.auto_engine import settle_engine
from interlace_cli.healing.optimizer import choose_optim
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.healing.state import State
from interlace_cli.io.datasets import load_manifest
from interlace_cli.io.text_processor import tell_format
from interlace_cli.runtime.processes import find_processes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.usable import Usable
    from interlace_cli.healing.engine import Engine
    from interlace_cli.healing.heal import Dense, Healer
    from interlace_cli.healing.history import History

FOUND = "usable.npz"
"""File in the folder of an unfinished healing: which samples the model can be given."""


def settle(recipe: Recipe, how: Execution) -> tuple[Recipe, Execution]:
    """What `auto` is here. Raises UsageError for what a launcher contradicts."""
    from interlace_cli.runtime.device import choose_device, choose_dtype

    recipe, how = apply_accelerate(recipe, how, os.environ)
    how = replace(how, device=choose_device(how.device))
    dtype = str(choose_dtype(recipe.dtype, how.device)).removeprefix("torch.")
    return replace(recipe, dtype=dtype, optim=choose_optim(recipe.optim, how.device, how.engine)), how


def open_session(
    opened: OpenedModel,
    card: CheckpointCard,
    dataset: Path,
    recipe: Recipe,
    how: Execution,
    state: State,
    progress: Progress,
    is_kept: bool = True,
) -> Session:
    """Loads the model, and its teacher where the objective needs one. `is_kept`: which samples can be used is kept in
    the folder of `state`. Raises TrainableSetError if anything else than the tuned layers would train."""
    import torch

    from interlace_cli.families.modules import count_elements
    from interlace_cli.healing.arguments import build_arguments, check_arguments
    from interlace_cli.healing.deepspeed_file import quoted
    from interlace_cli.healing.engine import Engine
    from interlace_cli.healing.heal import Healer, Student
    from interlace_cli.healing.trainable import can_checkpoint, hash_frozen
    from interlace_cli.runtime.accelerator import is_cpu
    from interlace_cli.runtime.device import use_device

    device = use_device(how.device)
    check_arguments(recipe, how, state.folder, device)
    engine = Engine(how.engine, find_processes().size)
    engine.check(recipe)
    # Before the weights are read: it may be that there is nothing to learn.
    kept = state.folder / FOUND if is_kept else None
    batcher, usable = load_usable(opened, dataset, recipe, progress, is_dealt=True, kept=kept)
    asked, how = how, settle_engine(opened.facts, card, usable, recipe, how, state, progress)
    engine = Engine(how.engine, find_processes().size)
    engine.check(recipe)
    if engine.is_on_host and is_cpu(device):
        progress.say("--engine offload saves no memory on a CPU: the training state lies on the host with any engine")
    # Kept until all is loaded: through it, transformers finds DeepSpeed's config.
    with quoted(engine.name, engine.is_own_file):
        arguments = build_arguments(recipe, how, 1, state.folder, torch.device(device).type, engine.config)
    model, layers, tuned_names = _load_student(opened, card, recipe, how, engine, device)
    if how.gradient_checkpointing and not asked.gradient_checkpointing and not can_checkpoint(model, layers):
        progress.say(f"{type(model).__name__} cannot compute its layers again: no gradient checkpointing")
        how = replace(how, gradient_checkpointing=False)
    dense = _load_teacher(card, recipe, how, engine, device)
    del arguments
    return Session(
        opened=opened,
        positions=card.tune,
        usable=usable,
        model=model,
        layers=layers,
        tuned_names=tuned_names,
        frozen_sha256=hash_frozen(model),
        trained_parameters=sum(count_elements(p) for p in model.parameters() if p.requires_grad),
        healer=Healer(
            Student(model, layers, card.dense_index, card.tune, card.compensated),
            dense,
            batcher,
            usable.samples,
            recipe,
            how,
            torch.device(device),
            engine,
            state,
            progress,
        ),
    )


def _load_student(
    opened: OpenedModel, card: CheckpointCard, recipe: Recipe, how: Execution, engine: Engine, device: str
) -> tuple[PreTrainedModel, nn.ModuleList, list[str]]:
    """The model that is healed and its layers, with nothing but the tuned ones to train, and the names of their tensors
    on disk."""
    from interlace_cli.families.modules import find_layers
    from interlace_cli.healing.ladder import Place, Setup, explained
    from interlace_cli.healing.sharding import describe
    from interlace_cli.healing.trainable import apply_trainable_set, check_trainable_set
    from interlace_cli.io.models import load_model

    with explained(Place.MODEL, Setup.of(recipe, engine, device, how.gradient_checkpointing, has_teacher=False)):
        model = load_model(opened.checkpoint.path, recipe.dtype, engine.place(device, card.stack))
        layers = find_layers(model, card.stack)
        apply_trainable_set(model, layers, card.tune, engine.is_on_host)
    check_trainable_set(model, layers, card.tune)
    stored = collect_stored(opened, model, layers, card.tune, "meta", describe)
    return model, layers, list(stored)


def _load_teacher(card: CheckpointCard, recipe: Recipe, how: Execution, engine: Engine, device: str) -> Dense | None:
    """None for an objective that needs none. A whole one comes to the device later, without what it shares with the
    model that is healed."""
    from interlace_cli.families.modules import find_layers
    from interlace_cli.healing.heal import Dense
    from interlace_cli.healing.ladder import Place, Setup, explained
    from interlace_cli.io.models import load_model

    if not any(stage.needs_teacher for stage in recipe.stages):
        return None
    where = engine.place(device, card.stack) if engine.shards_weights else "cpu"
    with explained(Place.TEACHER, Setup.of(recipe, engine, device, how.gradient_checkpointing, has_teacher=True)):
        teacher = load_model(_open_base(card).checkpoint.path, recipe.dtype, where)
    return Dense(teacher, find_layers(teacher, card.stack))


def load_usable(
    opened: OpenedModel,
    dataset: Path,
    recipe: Recipe,
    progress: Progress,
    is_dealt: bool = False,
    kept: Path | None = None,
) -> tuple[Batcher, Usable]:
    """The training samples that the model can be given and that have something to learn, and what renders them;
    `is_dealt` if all processes ask together, `kept` where what they find stays. Raises InterlaceError if there are
    none."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.data.found import FoundFile
    from interlace_cli.data.usable import find_usable
    from interlace_cli.io.models import check_goes_on_from_prompt, load_processor

    check_goes_on_from_prompt(opened.checkpoint.path, "healing")
    samples = load_readable(dataset, "train", opened.facts.model_type, progress.say)
    processor = load_processor(opened.checkpoint.path, recipe.min_pixels, recipe.max_pixels)
    tell_format(processor, progress.say)
    batcher = Batcher(processor, dataset, recipe.max_length)
    facts = {
        "model": opened.facts.fingerprint,
        "processor": opened.facts.processor,
        "train": load_manifest(dataset).splits["train"].sha256,
        "max_length": recipe.max_length,
        "min_pixels": recipe.min_pixels,
        "max_pixels": recipe.max_pixels,
    }
    file = None if kept is None else FoundFile(kept, facts)
    return batcher, find_usable(batcher, samples, "train samples", progress, is_dealt, file)


@dataclass(frozen=True)
class Session:
    """`positions` are those of the tuned layers, `tuned_names` their tensors on disk; `frozen_sha256` is over all other
    tensors."""

    opened: OpenedModel
    positions: list[int]
    usable: Usable
    model: PreTrainedModel
    layers: nn.ModuleList
    tuned_names: list[str]
    frozen_sha256: str
    trained_parameters: int
    healer: Healer

    def run(self) -> History:
        """Trains. Raises TrainableSetError if a frozen tensor has moved."""
        from interlace_cli.healing.trainable import hash_frozen

        history = self.healer.heal()
        if hash_frozen(self.model) != self.frozen_sha256:
            raise TrainableSetError(
                "a frozen tensor has changed while training.", "Nothing was written; please report it."
            )
        return history

    def iter_tuned(self) -> Iterator[tuple[str, memoryview]]:
        """Name on disk and bytes of each tensor that was tuned, one by one. All processes iterate together; the first
        alone gets them."""
        from interlace_cli.healing.ladder import Place, explained
        from interlace_cli.healing.tuned_tensors import iter_tuned

        with explained(Place.SAVING, self.healer.setup):
            yield from iter_tuned(self.opened, self.model, self.layers, self.positions)


def _open_base(card: CheckpointCard) -> OpenedModel:
    """The dense model, which the teacher is. Raises PlanMismatchError if another lies there now."""
    opened = open_model(card.base.pinned, card.stack)
    if opened.facts.fingerprint != card.base.fingerprint:
        raise PlanMismatchError(
            f"{card.base.pinned} is not the model any more that the checkpoint was cut from.",
            "Prune again, or take --objective ce, which needs no dense model.",
        )
    return opened
