"""Healing a model in memory: runs the stages of a recipe in order, resuming where an earlier run was interrupted. The
loss is in `loss.py`, an optimizer step in `trainer.py`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interlace_cli.data.batches import Batcher
from interlace_cli.data.encode_ahead import count_encoders
from interlace_cli.data.encode_ahead import iter_steps as iter_ahead
from interlace_cli.data.rows import Encoded, EncodedSteps, PackedRow, build_rows
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance, Progress
from interlace_cli.errors import InterlaceError, UnsupportedModelError
from interlace_cli.families.modules import find_prefix
from interlace_cli.families.packing import find_positions
from interlace_cli.healing.arguments import build_arguments
from interlace_cli.healing.engine import Engine
from interlace_cli.healing.history import History, mean
from interlace_cli.healing.ladder import Place, Setup, explained
from interlace_cli.healing.layer_pairs import LocalSpan, find_anchors, find_local_spans
from interlace_cli.healing.layout import Layout, apply_layout, choose_layout, choose_trial
from interlace_cli.healing.local import Learner, LocalTrainer
from interlace_cli.healing.loss import LogitsLoss, choose_loss
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.offload import lend_masters, take_masters_back
from interlace_cli.healing.offload_trainer import OffloadTrainer
from interlace_cli.healing.optimizer import keep_form
from interlace_cli.healing.precision import autocast
from interlace_cli.healing.probe_loss import ProbeLoss, choose_probes
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.healing.sharding import Gathering
from interlace_cli.healing.state import State
from interlace_cli.healing.step import RowLoss, Teacher, TermWeights
from interlace_cli.healing.step_plan import Steps, share_steps
from interlace_cli.healing.teacher import share_frozen
from interlace_cli.healing.trainable import apply_checkpointing
from interlace_cli.healing.trainer import HealingTrainer, train_stage
from interlace_cli.healing.whole import tell
from interlace_cli.io.models import import_transformers
from interlace_cli.runtime.exchange import gather_values
from interlace_cli.runtime.processes import find_processes


@dataclass(frozen=True)
class Student:
    """The model that is healed and its layers. `dense_index[i]` is the dense index of the layer at position i; `tuned`
    are the positions of the layers that train, `compensated` of those that compensation has changed."""

    model: Any
    layers: nn.ModuleList
    dense_index: Sequence[int]
    tuned: Sequence[int]
    compensated: Sequence[int] = ()

    @property
    def tuned_dense(self) -> list[int]:
        """Dense indices of the tuned layers."""
        return [self.dense_index[position] for position in self.tuned]


@dataclass(frozen=True)
class Dense:
    """The dense model and its layers."""

    model: Any
    layers: nn.ModuleList


class Healer:
    """Runs the stages of `recipe` on `samples`. `dense` is the teacher, None for the objective `ce`.

    The model, its attention and the dense model are prepared at once; `heal` trains. Raises InterlaceError if the first
    samples have no answer.
    """

    def __init__(
        self,
        student: Student,
        dense: Dense | None,
        batcher: Batcher,
        samples: Sequence[Sample],
        recipe: Recipe,
        how: Execution,
        device: torch.device,
        engine: Engine,
        state: State,
        progress: Progress,
    ) -> None:
        self.student, self.dense, self.recipe, self.how = student, dense, recipe, how
        self.engine, self.state, self.progress = engine, state, progress
        self.samples, self.is_checkpointed, self.is_trial = samples, False, False
        if how.gradient_checkpointing:
            apply_checkpointing(student.model, student.layers, student.tuned)
            self.is_checkpointed = True
        self.device = device
        self.dtype = getattr(torch, recipe.dtype)
        self.model_dtype = student.model.dtype
        self.plan = recipe.divide_steps(recipe.plan_steps(len(samples)))
        self.source = partial(EncodedSteps, samples, batcher=batcher, positions=find_positions(student.model))
        trial = choose_trial(samples, self.plan[0][1][0])
        probe = [sample for sample in self.source(steps=[trial])[0] if sample.length]
        if not probe:
            raise InterlaceError("the first samples have no answer to learn.", "Look at the dataset, and --max-length.")
        student.model.config.get_text_config().use_cache = False
        with explained(Place.TRIAL, self.setup), engine.running(student.model, student.layers):
            self.layout: Layout = choose_layout(student.model, probe, self.dtype)
        if not self.layout.is_packed:
            progress.say(f"{type(student.model).__name__} cannot be packed: length-grouped padded batches are used")
        self.probe = self.build_rows(probe[:1], recipe.max_length)[0].to(self.device, self.model_dtype)
        if dense is not None:
            apply_layout(dense.model, self.layout)
            dense.model.requires_grad_(False)
            if engine.stage == 3:
                # For as long as it is there: no engine of DeepSpeed's runs it.
                Gathering(dense.model, dense.layers).install()
            if not engine.shards_weights:
                share_frozen(student.model, dense.model, _find_prefixes(student, dense))
                with explained(Place.TEACHER, self.setup):
                    dense.model.to(self.device)

    @property
    def setup(self) -> Setup:
        """What of the ladder of shortages is used already."""
        return Setup.of(self.recipe, self.engine, str(self.device), self.is_checkpointed, self.dense is not None)

    def heal(self) -> History:
        """Trains all stages, in place. Returns the losses."""
        losses = []
        is_main = self._begin()
        probes = [] if self.is_trial else self.source(steps=[choose_probes(len(self.samples))])[0]
        rows = self.build_rows(probes, self.recipe.max_length)
        stages = [number for number, (_, steps) in enumerate(self.plan) if steps]

        def shorten(rows: Sequence[PackedRow]) -> list[PackedRow] | None:
            tokens, longest = max(row.padded_tokens for row in rows), max(sample.length for sample in probes)
            return self.build_rows(probes, max(tokens // 2, longest)) if tokens > longest else None

        # Where all processes measure together, one that is short of memory cannot measure otherwise than the others.
        may_shorten = None if self.engine.size > 1 else shorten
        self.measured = ProbeLoss(rows, stages, self.dtype, self.state.folder, is_main, may_shorten, self.progress.say)
        total = sum(len(steps) for _, steps in self.plan)
        with self.progress.task("heal", total, "steps") as advance:
            for number, (stage, steps) in enumerate(self.plan):
                if not steps:
                    continue
                run = self._learn_locally if stage.is_local else self._train
                losses.append(run(number, stage, steps, advance))
        return History(losses, self.measured.before, self.measured.after)

    def _save_memory(self) -> bool:
        """Switches on gradient checkpointing after an out-of-memory error. Returns False if it is on already, or not
        supported."""
        if self.is_checkpointed:
            return False
        try:
            apply_checkpointing(self.student.model, self.student.layers, self.student.tuned)
        except UnsupportedModelError:
            return False
        self.is_checkpointed = True
        self.progress.say("out of memory: gradient checkpointing is switched on")
        return True

    def _begin(self) -> bool:
        """The first process deletes incomplete checkpoints; the others wait for it. Returns whether this is the
        first."""
        arguments = build_arguments(self.recipe, self.how, 1, self.state.folder, self.device.type)
        if arguments.process_index == 0:
            self.state.remove_incomplete()
            if not self.is_trial and self.how.engine != "auto":
                self.state.save_way(self.how.engine, self.is_checkpointed)
        # Not by a collective: large ones take long to delete, and backends have timeouts.
        gather_values("what is unfinished", None)
        return bool(arguments.process_index == 0)

    def _train(self, number: int, stage: Stage, steps: Steps, advance: Advance) -> list[float]:
        with self.state.shared_checkpoint(number) as checkpoint:
            return self._train_from(checkpoint, number, stage, steps, advance)

    def _train_from(
        self, checkpoint: Path | None, number: int, stage: Stage, steps: Steps, advance: Advance
    ) -> list[float]:
        done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        if done:
            self.progress.say(f"going on from step {done} of {len(steps)}")
            advance(done)
        arguments = build_arguments(
            self.recipe, self.how, len(steps), self.state.stage(number), self.device.type, self.engine.config
        )
        mine = share_steps(steps, arguments.process_index, arguments.world_size)
        with explained(Place.TRIAL, self.setup):
            loss = self._build_loss(stage)
        make = OffloadTrainer if self.engine.is_on_host else HealingTrainer
        trainer = make(
            self.student.model,
            arguments,
            self.source(steps=mine, start=done),
            loss,
            self.build_rows,
            self.recipe.max_length,
            self.progress.say,
            self.engine,
            self._save_memory,
            list(self.student.layers),
            lambda: self.setup,
        )
        model = self.student.model
        return train_stage(
            trainer,
            checkpoint,
            advance,
            lambda: self.measured.begin(number, model, loss.loss, arguments.device, done > 0),
            lambda: self.measured.end(number, model, loss.loss, arguments.device),
        )

    def _lay_out(self, samples: Sequence[Encoded]) -> list[PackedRow]:
        """The rows of a few samples, on the device."""
        rows = self.build_rows(samples, self.recipe.max_length)
        return [row.to(self.device, self.model_dtype) for row in rows]

    def _build_loss(self, stage: Stage) -> RowLoss:
        weights = TermWeights(self.recipe.distill_weight, self.recipe.anchor_weight)
        with self.engine.running(self.student.model, self.student.layers):
            loss = choose_loss(self.student.model, self.probe)
        student, dense = self.student, self.dense
        if not stage.needs_teacher or dense is None:
            return RowLoss(stage, loss, weights)
        dense_loss = choose_loss(dense.model, self.probe)
        if isinstance(dense_loss, LogitsLoss):
            # The student has to use logits too: they cannot be compared with hidden states.
            loss = dense_loss
        anchors = find_anchors(student.dense_index, student.tuned_dense)
        position = {layer: index for index, layer in enumerate(student.dense_index)}
        teacher = Teacher(
            dense.model,
            list(dense.layers),
            dense_loss,
            [layer + 1 for layer in anchors],
            list(student.layers),
            [position[layer] + 1 for layer in anchors],
        )
        return RowLoss(stage, loss, weights, teacher)

    def build_rows(self, samples: Sequence[Encoded], max_tokens: int) -> list[PackedRow]:
        """The rows of an optimizer step, of at most `max_tokens` tokens each."""
        layout = self.layout
        return build_rows(samples, layout.is_packed, max_tokens, self.recipe.batch_size, layout.padding, layout.lengths)

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.dtype)

    def _learn_locally(self, number: int, stage: Stage, steps: Steps, advance: Advance) -> list[float]:
        del stage
        assert self.dense is not None
        student = self.student
        compensated = [student.dense_index[position] for position in student.compensated]
        spans = find_local_spans(student.dense_index, student.tuned_dense, len(self.dense.layers), compensated)
        if not spans:
            raise InterlaceError("no tuned layer lies beside a dropped one: local has nothing to learn.", "Use ce.")
        with explained(Place.TRIAL, self.setup):
            loss = choose_loss(student.model, self.probe)
        file = self.state.stage(number) / "learners.pt"
        self.measured.begin(number, student.model, loss, self.device, file.exists())
        arguments = build_arguments(self.recipe, self.how, len(steps), self.state.stage(number), self.device.type)
        learners = [self._build_learner(span, arguments, len(steps)) for span in spans]
        done = self._load_learners(file, learners)
        if done:
            self.progress.say(f"going on from local step {done} of {len(steps)}")
            advance(done)

        def save(finished: int) -> None:
            if arguments.process_index:
                return
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(".draft")
            torch.save({"done": finished, "learners": [learner.state_dict() for learner in learners]}, draft)
            draft.replace(file)

        def iter_steps() -> Generator[list[Encoded]]:
            mine = share_steps(steps, arguments.process_index, arguments.world_size)
            return iter_ahead(self.source(steps=mine, start=done), count_encoders(self.device))

        trainer = LocalTrainer(
            self.dense.model,
            list(self.dense.layers),
            learners,
            self._lay_out,
            self._autocast,
            self.device,
            save,
            arguments.save_steps,
        )
        with explained(Place.LOCAL, self.setup), closing(iter_steps()) as encoded:
            trainer.train(encoded, done, advance)
        save(len(steps))
        for learner in learners:
            if self.engine.is_on_host:
                take_masters_back(learner.layer, self.device, self.dtype)
            learner.layer.to(self.device)
        self.measured.end(number, student.model, loss, self.device)
        return [mean(values) for values in zip(*(learner.losses for learner in learners), strict=True)]

    def _load_learners(self, file: Path, learners: Sequence[Learner]) -> int:
        """The steps that are done. The first process alone reads the file."""
        is_main = find_processes().is_main
        saved = None
        if is_main and file.exists():
            saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        done = tell(int(saved["done"]) if saved else 0)
        for number, learner in enumerate(learners if done else ()):
            # An optimizer puts its state where the weights are: there is room for one learner's on the device.
            learner.move("cpu")
            learner.load_state_dict(tell(saved["learners"][number] if saved else None))
        return done

    def _build_learner(self, span: LocalSpan, arguments: Any, steps: int) -> Learner:
        transformers = import_transformers()
        layer = self.student.layers[self.student.dense_index.index(span.layer)]
        if self.engine.is_on_host:
            lend_masters(layer)
        make, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments, self.student.model)
        optimizer = make(layer.parameters(), **{"weight_decay": 0.0, **options})
        keep_form(optimizer)
        schedule = transformers.get_cosine_schedule_with_warmup(optimizer, arguments.get_warmup_steps(steps), steps)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        return Learner(span, layer, optimizer, schedule, scaler)


def _find_prefixes(student: Student, dense: Dense) -> dict[str, str]:
    """Prefix of each of the student's layers -> prefix of the same layer in the dense model. Example:
    {"model.layers.2.": "model.layers.3."} where layer 2 was dropped."""
    here, there = find_prefix(student.model, student.layers), find_prefix(dense.model, dense.layers)
    return {f"{here}.{position}.": f"{there}.{layer}." for position, layer in enumerate(student.dense_index)}
