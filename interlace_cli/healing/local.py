"""The stage `local`: each tuned layer learns alone, from the dense model's hidden states, to do the work of the layers
it replaces. There is no backward pass through the model, and only one layer's training state is on the device at a
time.

The dense model runs once on each sample. The hidden states that enter and leave the spans are kept on the host, for as
many steps as fit into CHUNK bytes. Then one layer after another takes these steps, with an optimizer of its own.

Shape legend: B samples, N token positions of a row (padding among them), H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.data.rows import Encoded, PackedRow
from interlace_cli.data.transfer import send
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import NotFiniteError
from interlace_cli.families.finite import advise_dtype
from interlace_cli.families.replay import Stop
from interlace_cli.healing.away import Host, take_back
from interlace_cli.healing.layer_pairs import LocalSpan
from interlace_cli.healing.step import sum_errors
from interlace_cli.healing.teacher import Call, capture_inputs

CHUNK = 1 << 32
"""Bytes of hidden states that are kept on the host before the layers learn from them."""
MAX_NORM = 1.0
"""Gradients are clipped to this norm, layer by layer."""


@dataclass
class Learner:
    """A tuned layer, the span it learns, its optimizer and schedule, what scales its losses in float16, and its loss at
    each step so far."""

    span: LocalSpan
    layer: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    losses: list[float] = field(default_factory=list)

    def move(self, device: torch.device | str) -> None:
        """Moves the layer's weights and its optimizer's state to `device`."""
        self.layer.to(device)
        # A step counter (no dimensions) stays on the host, but for kernels that read it where the weights are.
        groups = self.optimizer.param_groups
        moves_counter = any(group.get("fused") or group.get("capturable") for group in groups)
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor) and (value.ndim or moves_counter):
                    state[name] = value.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume: layer, optimizer, schedule and losses."""
        return {
            "layer": self.layer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.layer.load_state_dict(state["layer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.losses = list(state["losses"])


@dataclass(frozen=True)
class Lesson:
    """One row for one span: the arguments beside the hidden state with which the dense model called the tuned layer
    (`args`, `kwargs`; put away by `Host`), the hidden states [B, N, H] that enter and leave the span, and the mask of
    token positions (None if there is no padding). All of it is on the host."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    entering: Tensor
    leaving: Tensor
    mask_BN: Tensor | None


@dataclass(frozen=True)
class LocalTrainer:
    """Trains the learners. `teacher` is the dense model, and `layers` its layers. `rows` turns the samples of a step
    into rows on the device; `autocast` returns the context of a forward. `save(done)` is called about every
    `save_every` steps with the number of finished steps."""

    teacher: Any
    layers: Sequence[nn.Module]
    learners: Sequence[Learner]
    rows: Callable[[list[Encoded]], list[PackedRow]]
    autocast: Callable[[], AbstractContextManager[Any]]
    device: torch.device
    save: Callable[[int], None]
    save_every: int

    def train(self, steps: Iterator[list[Encoded]], done: int, advance: Advance) -> None:
        """Runs the remaining `steps`; `done` steps were finished before. `advance` counts steps."""
        resting = torch.device("cpu")
        for learner in self.learners:
            learner.move(resting)
        for lessons in self._iter_chunks(steps):
            for learner in self.learners:
                learner.move(self.device)
                learner.layer.train()
                for step in lessons:
                    learner.losses.append(self._train_step(learner, [row[learner.span.layer] for row in step]))
                learner.move(resting)
                advance(len(lessons) / len(self.learners), f"local loss {learner.losses[-1]:.4f}")
            before, done = done, done + len(lessons)
            if done // self.save_every > before // self.save_every:
                self.save(done)

    def _train_step(self, learner: Learner, lessons: Sequence[Lesson]) -> float:
        """One optimizer step of one layer. Returns the mean over tokens of the relative squared error."""
        # Filled there: a copy would wait.
        count = torch.full((), sum(map(_count_tokens, lessons)), device=self.device)
        tokens = self.sum_over_processes(count)
        total = torch.zeros((), device=self.device)
        for lesson in lessons:
            mask_BN = None if lesson.mask_BN is None else send(lesson.mask_BN, self.device)
            with self.autocast():
                output = self._call(learner.layer, lesson)
                loss = sum_errors([output], [send(lesson.leaving, self.device)], mask_BN) / tokens
            learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._exchange(learner.layer)
        # The same on all processes, which so agree, and the only wait for the device in a step.
        found = float(self.sum_over_processes(total))
        if not math.isfinite(found):
            dtype = str(self.teacher.dtype).removeprefix("torch.")
            raise NotFiniteError(
                f"the error of layer {learner.span.layer} at local step {len(learner.losses) + 1} is NaN or infinite in"
                f" {dtype}.",
                f"Use a smaller --lr. {advise_dtype(dtype)}",
            )
        learner.scaler.unscale_(learner.optimizer)
        torch.nn.utils.clip_grad_norm_(learner.layer.parameters(), MAX_NORM)
        self._step(learner)
        learner.optimizer.zero_grad()
        return found

    @staticmethod
    def _step(learner: Learner) -> None:
        """One step of optimizer and schedule. In float16 it is left out where a gradient was beyond its range, on all
        processes alike since gradients are summed before; the next losses are scaled less."""
        scaler = learner.scaler
        before = scaler.get_scale() if scaler.is_enabled() else 1.0
        scaler.step(learner.optimizer)
        scaler.update()
        if not scaler.is_enabled() or scaler.get_scale() >= before:
            learner.schedule.step()

    def _exchange(self, layer: nn.Module) -> None:
        """Sums the gradients over all processes, including those that had no sample in this step."""
        for parameter in layer.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.sum_over_processes(parameter.grad)

    @staticmethod
    def sum_over_processes(tensor: Tensor) -> Tensor:
        """Sums the tensor over all processes, in place, and returns it."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(tensor)
        return tensor

    def _call(self, layer: nn.Module, lesson: Lesson) -> Tensor:
        hidden = send(lesson.entering, self.device)
        args, kwargs = take_back((lesson.args, lesson.kwargs), self.device)
        output = layer(hidden, *args[1:], **kwargs) if args else layer(**{**kwargs, _find_name(kwargs): hidden})
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def _iter_chunks(self, steps: Iterator[list[Encoded]]) -> Iterator[list[list[dict[int, Lesson]]]]:
        """Yields the lessons of a few steps at a time: `[step][row][layer]`."""
        chunk: list[list[dict[int, Lesson]]] = []
        held = 0
        for samples in steps:
            lessons = [self._capture(row) for row in self.rows(samples)]
            chunk.append(lessons)
            held += sum(lesson.entering.nbytes + lesson.leaving.nbytes for row in lessons for lesson in row.values())
            if held >= CHUNK or len(chunk) == self.save_every:
                yield chunk
                chunk, held = [], 0
        if chunk:
            yield chunk

    @torch.no_grad()
    def _capture(self, row: PackedRow) -> dict[int, Lesson]:
        """Runs the dense model on a row. Returns tuned layer -> lesson; its hidden states are on the host."""
        spans = [learner.span for learner in self.learners]
        indices = sorted({index for span in spans for index in (span.start, span.layer, span.stop)})
        layers, host = {span.layer for span in spans}, Host()

        def keep(index: int, call: Call) -> Call:
            """The hidden state leaves the device before the next layer runs."""
            hidden = call.hidden.to("cpu")
            if index not in layers:
                return Call(hidden)
            if call.args:
                return Call(hidden, (None, *host.put(call.args[1:])), host.put(dict(call.kwargs)))
            return Call(hidden, (), host.put({**call.kwargs, _find_name(call.kwargs): None}))

        with self.autocast(), capture_inputs(self.layers, indices, True, keep) as found, suppress(Stop):
            self.teacher(**row.arguments)
        mask_BN = row.inputs.get("attention_mask")
        mask_BN = None if mask_BN is None else mask_BN.to("cpu")
        hidden = {index: found[index].hidden for index in indices}
        return {
            s.layer: Lesson(found[s.layer].args, dict(found[s.layer].kwargs), hidden[s.start], hidden[s.stop], mask_BN)
            for s in spans
        }


def _find_name(kwargs: Mapping[str, Any]) -> str:
    """The name of the hidden state among a layer's arguments."""
    return "hidden_states" if "hidden_states" in kwargs else "hidden_state"


def _count_tokens(lesson: Lesson) -> float:
    return (
        lesson.entering.shape[0] * lesson.entering.shape[1] if lesson.mask_BN is None else float(lesson.mask_BN.sum())
    )
