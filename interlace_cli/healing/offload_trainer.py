"""The Trainer of `--engine offload` (`offload.py` says what is held where). All is done at the Trainer's own places for
it: an optimizer class, a callback before its step, and methods that are there to be overridden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.rows import Encoded
from interlace_cli.healing.offload import HostAdamW
from interlace_cli.healing.trainer import HealingTrainer
from interlace_cli.io.models import import_transformers

transformers = import_transformers()


class OffloadTrainer(HealingTrainer):
    """Takes what HealingTrainer takes. The tuned weights have masters (`keep_masters`)."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _, options = self.get_optimizer_cls_and_kwargs(self.args)
        tuned = [layer for layer in self.layers if any(p.requires_grad for p in layer.parameters())]
        self.optimizer_cls_and_kwargs = (HostAdamW, {**options, "layers": tuned})
        self.add_callback(_Clip(self))
        if self.args.fp16:
            # One on the GPU would hand its scale to the host, where the gradients are, without waiting for it.
            self.accelerator.scaler = torch.amp.GradScaler("cpu")
            self.accelerator.scaler.scale(torch.zeros(()))

    @property
    def host(self) -> HostAdamW:
        """The optimizer, without accelerate's wrapper."""
        optimizer: Any = self.optimizer
        found: HostAdamW = getattr(optimizer, "optimizer", optimizer)
        return found

    def train(self, *arguments: Any, **named: Any) -> Any:
        """As the Trainer's; afterwards the model is as it was, with other weights."""
        try:
            return super().train(*arguments, **named)
        finally:
            if self.optimizer is not None:
                self.host.close()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer sees no gradients, so their norm is put in here."""
        if "grad_norm" in logs:
            logs["grad_norm"] = self.host.grad_norm
        super().log(logs, start_time)

    def _accumulate(self, model: Any, samples: Sequence[Encoded]) -> Tensor:
        self.host.forget()
        try:
            loss = super()._accumulate(model, samples)
            self.host.land()
        except BaseException:
            self.host.forget()
            raise
        return loss

    def _is_finite(self) -> bool:
        self.host.finish()
        return super()._is_finite()


class _Clip(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Clips the gradients on the host. The Trainer itself finds none to clip on the device."""

    def __init__(self, trainer: OffloadTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        del state, control, rest
        self.trainer.host.clip(args.max_grad_norm)
