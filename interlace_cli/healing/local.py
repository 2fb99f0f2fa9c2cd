"""The stage `local`: each tuned layer learns alone, from the dense model's hidden states, to do the work of the pair it
replaces. There is no backward pass through the model, and one layer's training state is on the device at a time.

The dense model runs once on each sample. What enters and leaves the spans is kept for as many steps as fit into CHUNK
bytes; then one layer after another takes these steps, with an optimizer of its own.

Shape legend: B samples, N places, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interlace_cli.data.rows import Encoded, PackedRow
from interlace_cli.domain.progress import Advance
from interlace_cli.families.replay import Stop
from interlace_cli.healing.layer_pairs import LocalSpan
from interlace_cli.healing.step import sum_errors
from interlace_cli.healing.teacher import Call, capture_inputs

CHUNK = 1 << 32
MAX_NORM = 1.0


@dataclass
class Learner:
    """A tuned layer, the span it learns, and what trains it."""

    span: LocalSpan
    layer: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: list[float] = field(default_factory=list)

    def move(self, device: torch.device | str) -> None:
        """The layer's weights and its optimizer's state."""
        self.layer.to(device)
        for state in self.optimizer.state.values():
            for name, value in state.items():
                # AdamW's step counter stays on the host.
                if isinstance(value, Tensor) and value.ndim:
                    state[name] = value.to(device)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "layer": self.layer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self.layer.load_state_dict(state["layer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.losses = list(state["losses"])


@dataclass(frozen=True)
class Lesson:
    """One row, as a span sees it: how the dense model called the layer, the hidden states [B, N, H] that enter and
    leave the span, and which places are tokens."""

    call: Call
    entering: Tensor
    leaving: Tensor
    mask_BN: Tensor | None


@dataclass(frozen=True)
class LocalTrainer:
    """`rows` lays out the samples of a step on the device; `autocast` makes the context of a forward; `save` is told
    after how many steps the learners may be written down."""

    teacher: nn.Module
    layers: Sequence[nn.Module]
    learners: Sequence[Learner]
    rows: Callable[[list[Encoded]], list[PackedRow]]
    autocast: Callable[[], AbstractContextManager[Any]]
    device: torch.device
    save: Callable[[int], None]
    save_every: int

    def train(self, steps: Iterator[list[Encoded]], done: int, advance: Advance) -> None:
        """Takes the steps that are left; `done` of them were before."""
        resting = torch.device("cpu")
        for learner in self.learners:
            learner.move(resting)
        for lessons in self._iter_chunks(steps):
            for learner in self.learners:
                learner.move(self.device)
                learner.layer.train()
                for step in lessons:
                    learner.losses.append(self._take(learner, [row[learner.span.layer] for row in step]))
                learner.move(resting)
                advance(len(lessons) / len(self.learners), f"local loss {learner.losses[-1]:.4f}")
            before, done = done, done + len(lessons)
            if done // self.save_every > before // self.save_every:
                self.save(done)

    def _take(self, learner: Learner, lessons: Sequence[Lesson]) -> float:
        """One optimizer step. Returns the mean relative error of a token."""
        tokens = self.sum_over_processes(torch.tensor(sum(map(_count_tokens, lessons)), device=self.device))
        total = torch.zeros((), device=self.device)
        for lesson in lessons:
            with self.autocast():
                output = self._call(learner.layer, lesson)
                loss = sum_errors([output], [lesson.leaving.to(self.device)], lesson.mask_BN) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._exchange(learner.layer)
        torch.nn.utils.clip_grad_norm_(learner.layer.parameters(), MAX_NORM)
        learner.optimizer.step()
        learner.schedule.step()
        learner.optimizer.zero_grad()
        return float(self.sum_over_processes(total))

    def _exchange(self, layer: nn.Module) -> None:
        """Sums the gradients over all processes, also where one has had nothing to learn in this step."""
        for parameter in layer.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.sum_over_processes(parameter.grad)

    @staticmethod
    def sum_over_processes(tensor: Tensor) -> Tensor:
        """In place."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(tensor)
        return tensor

    def _call(self, layer: nn.Module, lesson: Lesson) -> Tensor:
        hidden, call = lesson.entering.to(self.device), lesson.call
        if call.args:
            output = layer(hidden, *call.args[1:], **call.kwargs)
        else:
            name = "hidden_states" if "hidden_states" in call.kwargs else "hidden_state"
            output = layer(**{**call.kwargs, name: hidden})
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def _iter_chunks(self, steps: Iterator[list[Encoded]]) -> Iterator[list[list[dict[int, Lesson]]]]:
        """Lessons of a few steps: by step, row and layer."""
        chunk: list[list[dict[int, Lesson]]] = []
        held = 0
        for samples in steps:
            lessons = [self._listen(row) for row in self.rows(samples)]
            chunk.append(lessons)
            held += sum(lesson.entering.nbytes + lesson.leaving.nbytes for row in lessons for lesson in row.values())
            if held >= CHUNK or len(chunk) == self.save_every:
                yield chunk
                chunk, held = [], 0
        if chunk:
            yield chunk

    @torch.no_grad()
    def _listen(self, row: PackedRow) -> dict[int, Lesson]:
        """What the dense model's hidden states teach each span; kept on the host."""
        spans = [learner.span for learner in self.learners]
        places = sorted({place for span in spans for place in (span.start, span.layer, span.stop)})
        with self.autocast(), capture_inputs(self.layers, places, stop=True) as found, suppress(Stop):
            self.teacher(**row.inputs, use_cache=False)
        hidden = {place: found[place].hidden.to("cpu") for place in places}
        mask_BN = row.inputs.get("attention_mask")
        return {s.layer: Lesson(found[s.layer], hidden[s.start], hidden[s.stop], mask_BN) for s in spans}


def _count_tokens(lesson: Lesson) -> float:
    return (
        lesson.entering.shape[0] * lesson.entering.shape[1] if lesson.mask_BN is None else float(lesson.mask_BN.sum())
    )
