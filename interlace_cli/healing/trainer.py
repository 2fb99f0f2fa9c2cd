"""The stages that train through the model, with transformers' Trainer. Optimizers, schedules, engines, resuming and
trackers are the Trainer's; what an optimizer step does is ours (`HealingTrainer.training_step`).

A step's loss is a mean over all its labels, however its samples are laid out in rows. So the number of devices, the
length of the rows, and rows that are halved on out-of-memory change a step's result by rounding alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from interlace_cli.data.encode_ahead import StepsAhead, count_encoders
from interlace_cli.data.rows import Encoded, EncodedSteps, PackedRow
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import InterlaceError, NotFiniteError, ShortageError, first_line
from interlace_cli.families.finite import explain_not_finite, find_first_not_finite
from interlace_cli.healing.callbacks import StageEnds, StepProgress
from interlace_cli.healing.deepspeed_file import quoted
from interlace_cli.healing.engine import Engine
from interlace_cli.healing.gradients import keep_views, view_buckets
from interlace_cli.healing.ladder import Place, Setup, build_shortage
from interlace_cli.healing.optimizer import keep_form
from interlace_cli.healing.optimizer_state import OptimizerState, find_state
from interlace_cli.healing.randomness import read_random, restore_random
from interlace_cli.healing.saved_state import (
    load_optimizer,
    load_random,
    load_weights,
    save_optimizer,
    save_random,
    save_weights,
)
from interlace_cli.healing.scale import read_scale, restore_scale
from interlace_cli.healing.state import COMPLETE
from interlace_cli.healing.step import RowLoss
from interlace_cli.io.integrity import mark_complete
from interlace_cli.io.models import import_transformers
from interlace_cli.runtime.accelerator import release_memory
from interlace_cli.runtime.launch import is_abandoned
from interlace_cli.runtime.memory import is_out_of_memory
from interlace_cli.runtime.shortage import Shortage, read_shortage

if TYPE_CHECKING:
    from transformers import TrainingArguments

transformers = import_transformers()
_WRITING = ("inline_container", "PytorchStreamWriter")
"""Words in the RuntimeError by which torch reports that it cannot write a file."""


class HealingTrainer(transformers.Trainer):  # type: ignore[misc, name-defined]
    """Trains the parameters of `model` that require gradients. One item of `steps` is one optimizer step; `row_loss` is
    the loss; `layout` turns the samples of a step into rows of at most `max_tokens` tokens. On out-of-memory
    `save_memory` is called, which returns False if it can save nothing more; `say` prints a line."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        steps: EncodedSteps,
        row_loss: RowLoss,
        layout: Callable[[Sequence[Encoded], int], list[PackedRow]],
        max_tokens: int,
        say: Callable[[str], None],
        engine: Engine,
        save_memory: Callable[[], bool],
        layers: Sequence[nn.Module],
        build_setup: Callable[[], Setup],
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=steps, data_collator=_only)
        self.engine, self.save_memory, self.layers = engine, save_memory, layers
        self.row_loss, self.layout, self.max_tokens, self.say = row_loss, layout, max_tokens, say
        self.ahead = StepsAhead(steps, 0)
        self.place, self._build_setup = Place.STATE, build_setup
        self.dtype, self._has_head = model.dtype, row_loss.stage.needs_head

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's, which keeps its form when it loads a state."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and isinstance(optimizer, torch.optim.Optimizer):
            keep_form(optimizer)
        return optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        """A loader of the steps in their order. accelerate does not wrap it: `steps` holds this process's samples
        alone."""
        self.ahead = StepsAhead(self.train_dataset, count_encoders(self.args.device))
        return DataLoader(self.ahead, batch_size=None, num_workers=0, pin_memory=False)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> tuple[Any, Any]:
        # The Trainer has no public hook on either side of wrapping the model. tests/chain/test_engines.py looks.
        if self.args.world_size > 1 and self.engine.name in ("auto", "ddp"):
            view_buckets(self.accelerator, (p for p in self.model.parameters() if p.requires_grad))
        # Without the checkpoint: the Trainer would look for each engine's own files in it.
        with quoted(self.engine.name, self.engine.is_own_file):
            model, loader = super()._prepare_for_training(max_steps, train_dataloader, None)
        keep_views(model)
        if resume_from_checkpoint is not None:
            self._go_on_from(Path(resume_from_checkpoint))
        return model, loader

    def training_step(self, model: Any, inputs: list[Encoded], num_items_in_batch: Any = None) -> Tensor:
        """Computes the gradients of one optimizer step. Returns the mean cross-entropy per label, or, for a stage with
        the term `anchor` alone, the mean relative error per token. Scalar, the same on all processes."""
        del num_items_in_batch
        if is_abandoned():
            raise KeyboardInterrupt
        model.train()
        self.place = Place.ROW
        while (loss := self._try(model, inputs)) is None:
            pass
        if not bool(torch.isfinite(loss)):
            raise self._explain_not_finite(inputs)
        self.place = Place.OPTIMIZER
        return loss

    def _try(self, model: Any, samples: list[Encoded]) -> Tensor | None:
        """The step's loss, with its gradients; None if it did not fit, and there is more room now. It then starts
        again as if it had not begun: with no gradients, and from the same random numbers (dropout)."""
        numbers = read_random(self.args.device)
        try:
            return self._accumulate(model, samples)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            shortage = read_shortage(error, str(self.args.device))
        # Behind the handler: the error's traceback holds the activations.
        model.zero_grad()
        release_memory()
        self._make_room(samples, shortage)
        restore_random(self.args.device, numbers)
        return None

    def _explain_not_finite(self, samples: Sequence[Encoded]) -> NotFiniteError:
        """The error for a loss that is NaN or infinite, before the step that it would spoil; saved states stay."""
        step = self.state.global_step + 1
        what = f"the loss at step {step}"
        is_half = self.args.fp16 or self.dtype == torch.float16
        if not self._is_finite() or self.args.world_size > 1 or (step > 1 and not is_half):
            return NotFiniteError(
                f"{what} is not a finite number: training has diverged.", "Use a smaller --lr; or --dtype float32."
            )
        model, layers = self.model, self.layers
        for row in self._rows(samples):
            inputs = row.to(self.args.device, self.dtype).arguments
            with self.compute_loss_context_manager():
                if find_first_not_finite(model, layers, inputs) is not None:
                    return explain_not_finite(model, layers, inputs, what)
        return NotFiniteError(f"{what} is not a finite number.", "Use a smaller --lr; or --dtype float32.")

    def _is_finite(self) -> bool:
        """Whether all tuned weights are, of those that this process holds."""
        tuned = [_to_local(parameter) for parameter in self.model.parameters() if parameter.requires_grad]
        # Without a temporary of a weight's size, and with one wait for the device.
        ends = [end.float() for weight in tuned if weight.numel() for end in torch.aminmax(weight.detach())]
        return not ends or bool(torch.isfinite(torch.stack(ends)).all())

    def _make_room(self, samples: Sequence[Encoded], shortage: Shortage) -> None:
        """Switches on gradient checkpointing; if that is on, makes rows shorter, down to the longest sample. Both are
        logged. Raises ShortageError if neither helps (a GPU computes, and the host is short), or if other processes
        would have to do the same: they wait in the middle of their step, and end with this one."""
        if shortage.is_on_host and self.setup.is_gpu:
            raise self.explain(shortage)
        is_alone = self.args.world_size == 1
        if is_alone and self.save_memory():
            return
        longest = max(sample.length for sample in samples)
        tokens = max(row.padded_tokens for row in self._rows(samples))
        if not is_alone or tokens <= longest:
            raise self.explain(shortage, f"a row of {tokens:,} tokens")
        self.max_tokens = max(tokens // 2, longest)
        self.say(f"out of memory: rows of {self.max_tokens} tokens from now on; the effective batch stays as it is")

    def explain(self, shortage: Shortage, what: str = "") -> ShortageError:
        """The error for a shortage at the place where training is now."""
        return build_shortage(self.place, self.setup, shortage, what)

    def _rows(self, samples: Sequence[Encoded]) -> list[PackedRow]:
        return self.layout(samples, self.max_tokens)

    def _accumulate(self, model: Any, samples: Sequence[Encoded]) -> Tensor:
        rows = self._rows(samples)
        labels, tokens, count = self._agree(rows)
        # Engines average gradients over processes; the loss is divided by all labels already, so it has to be a sum.
        world = self.args.world_size
        total = torch.zeros((), device=self.args.device)
        for number in range(count):
            is_real = number < len(rows)
            row = rows[number] if is_real else self._build_any_row()
            with self._synced(model, number == count - 1):
                with self.compute_loss_context_manager():
                    sums = self.row_loss.compute(model, row.to(self.args.device, self.dtype))
                    token, anchor = sums.token / max(labels, 1), sums.anchor / max(tokens, 1)
                    loss = token + self.row_loss.weights.anchor * anchor if self._has_head else anchor
                self.accelerator.backward(loss * world * is_real, **self._scale)
            total += (sums.ce / max(labels, 1) if self._has_head else anchor.detach()) * is_real
        if world > 1:
            total = self.accelerator.reduce(total, "sum")
        return total

    def _agree(self, rows: Sequence[PackedRow]) -> tuple[int, int, int]:
        """Labels and tokens of the step, summed over all processes, and the number of rows that each process has to
        run. All run equally many, since sharded weights are gathered by all processes together."""
        labels, tokens = sum(int(row.is_label_BK.sum()) for row in rows), sum(row.tokens for row in rows)
        if self.args.world_size == 1:
            return labels, tokens, len(rows)
        mine = torch.tensor([[labels, tokens, len(rows)]], device=self.args.device)
        everywhere = self.accelerator.gather(mine)
        return int(everywhere[:, 0].sum()), int(everywhere[:, 1].sum()), int(everywhere[:, 2].max())

    def _build_any_row(self) -> PackedRow:
        """A row for a process that has no more of its own; its loss is multiplied by 0."""
        dataset: EncodedSteps = self.train_dataset
        return self.layout([dataset.encode_any()], self.max_tokens)[0]

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """The Trainer leaves it to accelerate, which wraps the forward of a model that it prepares. One that is divided
        by `fully_shard` has been prepared already."""
        if self.engine.name != "fsdp":
            context: AbstractContextManager[Any] = super().autocast_smart_context_manager(cache_enabled)
            return context
        is_half = self.args.bf16 or self.args.fp16
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16
        return torch.autocast(self.args.device.type, dtype, enabled=is_half, cache_enabled=cache_enabled)

    @contextmanager
    def _synced(self, model: Any, is_last: bool) -> Iterator[None]:
        """Gradients are exchanged between processes once a step, after the last row; DeepSpeed also takes its optimizer
        step then."""
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        if self.engine.name == "fsdp":
            model.set_requires_gradient_sync(is_last)
        waits = not is_last and isinstance(model, nn.parallel.DistributedDataParallel)
        with model.no_sync() if waits else nullcontext():
            yield

    @property
    def _scale(self) -> dict[str, bool]:
        return {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}

    def floating_point_ops(self, inputs: Any) -> int:
        """0: the Trainer's formula knows neither frozen layers nor packed rows. `cost.py` counts FLOPs."""
        del inputs
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the tuned weights alone, in float32."""
        if not self._is_finite():
            raise self._explain_diverged()
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder, self.tuned, self._explain_diverged)

    def _explain_diverged(self) -> NotFiniteError:
        return NotFiniteError(
            f"tuned weights are NaN or infinite after step {self.state.global_step}: training has diverged.",
            "Use a smaller --lr; or --dtype float32.",
        )

    @property
    def tuned(self) -> dict[str, nn.Parameter]:
        """The weights that train, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    # The Trainer has no public hooks for what follows: it would write each engine's own files, those of DeepSpeed with
    # the frozen weights in them, and read them in every process. tests/chain/test_engines.py and test_resume.py fail
    # where these are not called.

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        more = {"scheduler": self.lr_scheduler.state_dict(), "scale": read_scale(self.accelerator.scaler, self._zero)}
        save_optimizer(Path(output_dir), self._find_optimizer_state(), more)

    def _save_scaler(self, output_dir: str) -> None:
        """It is saved with the optimizer."""

    def _save_rng_state(self, output_dir: str) -> None:
        with tempfile.TemporaryDirectory() as own:
            super()._save_rng_state(own)
            save_random(Path(output_dir), next(Path(own).iterdir()).read_bytes())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        mine = load_random(Path(checkpoint))
        if mine is None:
            # Of other processes than these. The seed is not to draw again what the first steps drew.
            transformers.set_seed(self.args.seed + self.state.global_step)
            return
        with tempfile.TemporaryDirectory() as own:
            super()._save_rng_state(own)
            next(Path(own).iterdir()).write_bytes(mine)
            super()._load_rng_state(own)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """All is loaded once the engine has the model."""

    def _go_on_from(self, checkpoint: Path) -> None:
        load_weights(checkpoint, self.tuned)
        more = load_optimizer(checkpoint, self._find_optimizer_state())
        self.lr_scheduler.load_state_dict(more["scheduler"])
        restore_scale(self.accelerator.scaler, self._zero, more["scale"])
        if self.is_deepspeed_enabled:
            self.model_wrapped.global_steps = self.state.global_step

    @property
    def _zero(self) -> Any:
        """DeepSpeed's optimizer, None for other engines."""
        return self.model_wrapped.optimizer if self.is_deepspeed_enabled else None

    def _find_optimizer_state(self) -> OptimizerState:
        return find_state(self.model_wrapped if self.is_deepspeed_enabled else None, self.optimizer, self.tuned)

    @property
    def setup(self) -> Setup:
        """What of the ladder is used already."""
        return self._build_setup()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.place = Place.SAVING
        # No public hook either: no callback comes after a checkpoint is written and before older ones are deleted.
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk by a RuntimeError.
            if is_out_of_memory(error):
                raise
            if isinstance(error, RuntimeError) and not any(word in str(error) for word in _WRITING):
                raise
            raise InterlaceError(
                f"cannot write the state of healing in {self.args.output_dir}: {first_line(error)}.",
                "Make room; the same command goes on from the state before.",
            ) from error
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", COMPLETE)


def train_stage(
    trainer: HealingTrainer,
    checkpoint: Path | None,
    advance: Advance,
    begin: Callable[[], None],
    end: Callable[[], None],
) -> list[float]:
    """Runs the Trainer, resuming from `checkpoint` if there is one; `begin` and `end` are called before its first step
    and after its last. Returns the loss of each step from the first on. Raises NotFiniteError at the first step whose
    loss is not finite; the state that was saved before it stays."""
    trainer.add_callback(StepProgress(advance))
    trainer.add_callback(StageEnds(begin, end))
    # It would print every log on stdout, which is for the result alone.
    trainer.remove_callback(transformers.PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise trainer.explain(read_shortage(error, str(trainer.args.device))) from error
    finally:
        # The traceback of what was raised would keep them alive.
        trainer.ahead.close()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _to_local(parameter: Tensor) -> Tensor:
    """This process's part of a sharded weight."""
    local: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return local


def _only(item: list[Encoded]) -> list[Encoded]:
    return item
