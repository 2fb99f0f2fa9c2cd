"""Healing with transformers' Trainer, through its own extension points: a collator, a loss function, callbacks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from interlace_cli.data.batches import Batcher, Inputs
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance, Progress
from interlace_cli.errors import InterlaceError
from interlace_cli.healing.loss import answer_loss, keep_label_places
from interlace_cli.healing.recipe import Recipe
from interlace_cli.io.models import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

transformers = import_transformers()


@dataclass(frozen=True)
class History:
    """`losses[i]` is the mean loss of an answer token in optimizer step i."""

    losses: list[float]

    @property
    def first(self) -> float:
        """Mean over the first tenth of the steps."""
        return self._mean(self.losses[: self._tenth])

    @property
    def last(self) -> float:
        """Mean over the last tenth of the steps."""
        return self._mean(self.losses[-self._tenth :])

    @property
    def _tenth(self) -> int:
        return max(len(self.losses) // 10, 1)

    @staticmethod
    def _mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)


class _Samples(Dataset[Sample]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class _Collator:
    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher

    def __call__(self, samples: Sequence[Sample]) -> Inputs:
        return keep_label_places(self.batcher.build_conversations(samples))


class _ProgressCallback(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Tells the listener of every optimizer step and its loss."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        del args, state, control, rest
        if logs and "loss" in logs:
            self.advance(1, f"loss {logs['loss']:.4f}")


def train(
    model: PreTrainedModel, batcher: Batcher, samples: Sequence[Sample], recipe: Recipe, progress: Progress
) -> History:
    """Trains the parameters of `model` that require gradients, in place."""
    steps = recipe.count_steps(len(samples))
    model.config.get_text_config().use_cache = False
    with tempfile.TemporaryDirectory(prefix="interlace-") as folder, progress.task("heal", steps, "steps") as advance:
        trainer = transformers.Trainer(
            model=model,
            args=_build_arguments(model, recipe, folder),
            train_dataset=_Samples(samples),
            data_collator=_Collator(batcher),
            compute_loss_func=answer_loss,
            callbacks=[_ProgressCallback(advance)],
        )
        # It would print every log on stdout, which belongs to the result.
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    broken = next((step for step, loss in enumerate(losses, start=1) if not loss < float("inf")), None)
    if broken is not None:
        raise InterlaceError(f"the loss is not a finite number at step {broken}.", "Use a smaller --lr.")
    return History(losses)


def _build_arguments(model: PreTrainedModel, recipe: Recipe, folder: str) -> TrainingArguments:
    return transformers.TrainingArguments(
        output_dir=folder,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.lr,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.grad_accum,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        logging_steps=1,
        save_strategy="no",
        report_to=recipe.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=model.device.type == "cuda",
        use_cpu=model.device.type == "cpu",
        seed=recipe.seed,
        **_checkpointing(recipe),
    )


def _checkpointing(recipe: Recipe) -> dict[str, Any]:
    """transformers 5.23 has other names for gradient checkpointing, and warns of the old ones."""
    fields = transformers.TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    return {name: recipe.gradient_checkpointing, f"{name}_kwargs": {"use_reentrant": False}}
