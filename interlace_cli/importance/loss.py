"""By how much the loss increases when layers are dropped: first each layer alone, then greedily one after another
(SLEB, Song et al. 2024, arXiv 2402.09025, algorithm 1). The loss is measured here, not trained (that is
`healing/loss.py`).

The naive search runs the whole model for every candidate of every step: about L K forwards to drop K of L layers. Here
no layer is run twice on the same input. A candidate starts from the hidden state in front of it, which does not depend
on it, and the next step starts from the states behind the best candidate.

Shape legend: B samples, T tokens, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from interlace_cli.data.batches import IGNORE, to_model
from interlace_cli.data.labels import read_losses, sum_losses
from interlace_cli.domain.importance import GreedyStep
from interlace_cli.domain.progress import Advance
from interlace_cli.errors import NotFiniteError
from interlace_cli.families.finite import advise_dtype, explain_not_finite
from interlace_cli.families.modules import bypassed, find_entangled
from interlace_cli.families.replay import Inputs, Recording, Replay
from interlace_cli.families.ways import Way
from interlace_cli.importance.room import Room
from interlace_cli.importance.search_state import SearchState
from interlace_cli.runtime.accelerator import bring_to
from interlace_cli.runtime.dispatch import HOST_INPUTS, find_input_device, is_dispatched
from interlace_cli.runtime.processes import gather, shard

T = TypeVar("T", int, float)

Stream = dict[int, Tensor]
"""Layer -> the hidden state [B, T, H] that enters it; of one batch."""


@dataclass(frozen=True)
class Limits:
    """What the search may drop. `locked` layers are never tried. `protected` layers are tried alone, but the greedy
    search does not drop them. It ends after `depth` drops."""

    locked: frozenset[int]
    protected: frozenset[int]
    depth: int


@torch.inference_mode()
def search_by_loss(
    model: nn.Module,
    layers: nn.ModuleList,
    stack: str,
    batches: Sequence[Inputs],
    limits: Limits,
    state: SearchState,
    save: Callable[[SearchState], None],
    advance: Advance,
    way: Way,
    room: Room | None = None,
) -> None:
    """Runs the search from `state` to its end, updating it in place, and calls `save` after each candidate. `batches`
    hold `labels` [B, K] for the logits that they ask for; they may lie on the host. `way`: see `find_way`. `room` says
    where each of this process's batches is kept; None: on the device. `advance` counts candidates. The device is waited
    for once a candidate."""
    room = Room((True,) * len(shard(batches))) if room is None else room
    with Replay(model, layers, way is Way.DIRECT) as replay:
        _Search(replay, stack, batches, limits, state, save, advance, way, room).run()


def count_candidates(num_layers: int, limits: Limits) -> int:
    """The number of candidates of a whole search, with the dense model as one."""
    free = num_layers - len(limits.locked | limits.protected)
    greedy = sum(max(free - step, 0) for step in range(1, limits.depth))
    return 1 + num_layers - len(limits.locked) + greedy


class _Search:
    def __init__(
        self,
        replay: Replay,
        stack: str,
        batches: Sequence[Inputs],
        limits: Limits,
        state: SearchState,
        save: Callable[[SearchState], None],
        advance: Advance,
        way: Way,
        room: Room,
    ) -> None:
        self.replay, self.stack, self.limits, self.state = replay, stack, limits, state
        self.batches = len(batches)
        mine = shard(batches)
        self.moves = [room.find_move(index) for index in range(len(mine))]
        self.device = find_input_device(replay.model)
        self.dtype = next(replay.model.parameters()).dtype
        self.tokens = [(batch["labels"] != IGNORE).sum(-1).tolist() for batch in mine]
        self.labels = [batch["labels"].to(self.device, non_blocking=True) for batch in mine]
        self.inputs = [{name: value for name, value in batch.items() if name != "labels"} for batch in mine]
        self.save, self.advance = save, advance
        self.num_layers = len(replay.layers)
        # The side modules of these layers run before the first layer (DeepStack): dropping one changes the recording.
        whole = range(self.num_layers)
        self.entangled = find_entangled(replay.model, stack) if way is not Way.WHOLE else frozenset(whole)
        self.recordings: list[Recording] = []
        self.streams: list[Stream] = []
        self.runs_before = state.layer_runs

    def run(self) -> None:
        state = self.state
        losses = self._begin(state.dropped)
        if not state.is_new:
            self._discount()
        else:
            state.tokens = _join(self.tokens)
            state.dense, state.single = losses, [None] * self.num_layers
            self._count(self.num_layers)
        while len(state.path) < max(self.limits.depth, 1):
            best = self._step()
            if len(state.path) >= self.limits.depth or best is None:
                break
            layer, streams, recordings = best
            if streams is None or recordings is None:
                _, streams, recordings = self._try(layer)
                self._discount()
            for stream, after in zip(self.streams, streams, strict=True):
                stream.update(after)
            self.recordings = recordings
            state.path.append(GreedyStep(layer=layer, loss=state.tried[layer]))
            state.tried = {}
            self.save(state)

    def _begin(self, dropped: frozenset[int]) -> list[float]:
        """Records all batches without the layers dropped so far. Returns each sample's summed loss."""
        found, self.streams, self.recordings = self._record(dropped)
        losses = read_losses(found)
        for inputs, values in zip(self.inputs, losses, strict=True):
            if not all(map(math.isfinite, values)):
                there = to_model(inputs, self.replay.model)
                raise explain_not_finite(self.replay.model, self.replay.layers, there, "the loss")
        return _join(losses)

    def _record(self, drop: frozenset[int]) -> tuple[list[Tensor], list[Stream], list[Recording]]:
        """Runs all batches whole, without the layers `drop`. Each sample's summed loss, and what later runs start
        from."""
        losses: list[Tensor] = []
        streams: list[Stream] = []
        recordings = []
        with self._bypassing(drop & self.entangled):
            for inputs, labels, move in zip(self.inputs, self.labels, self.moves, strict=True):
                streams.append({})
                there = to_model(inputs, self.replay.model)
                recording, outputs = self.replay.record(there, drop, _keep_in(streams[-1], move))
                losses.append(sum_losses(outputs, labels, recording.inputs["logits_to_keep"]))
                starts = [layer for layer in streams[-1] if layer not in self.entangled]
                if all(recording.calls.list_run(start, None, self.num_layers) is not None for start in starts):
                    self.replay.forget_parts(recording)
                recordings.append(recording if move is None else recording.move(move))
        return losses, streams, recordings

    def _step(self) -> tuple[int, list[Stream] | None, list[Recording] | None] | None:
        """Tries every candidate of one step. Returns the best layer, with the streams and recordings without it (None
        if an earlier call had tried it); None if there is no candidate."""
        state, kept = self.state, None
        is_first = not state.path
        untouchable = self.limits.locked | state.dropped | (frozenset() if is_first else self.limits.protected)
        total = sum(state.tokens)
        for layer in range(self.num_layers):
            if layer in untouchable or layer in state.tried:
                continue
            losses, streams, recordings = self._try(layer)
            if not all(map(math.isfinite, losses)):
                dtype = str(self.dtype).removeprefix("torch.")
                raise NotFiniteError(
                    f"without layer {layer} the loss is NaN or infinite in {dtype}.", advise_dtype(dtype)
                )
            state.tried[layer] = sum(losses) / total
            if is_first:
                state.single[layer] = losses
            if layer == self._find_best():
                kept = (layer, streams, recordings)
            self._count(self.num_layers - len(state.path) - 1)
        best = self._find_best()
        if best is None:
            return None
        return kept if kept is not None and kept[0] == best else (best, None, None)

    def _find_best(self) -> int | None:
        """The unprotected candidate with the lowest loss, the first of equals; None if there is none."""
        tried = self.state.tried
        allowed = [layer for layer in sorted(tried) if layer not in self.limits.protected]
        return min(allowed, key=lambda layer: tried[layer], default=None)

    def _try(self, layer: int) -> tuple[list[float], list[Stream], list[Recording]]:
        """Each sample's summed loss without this layer too, and the streams and recordings that the next step would
        start from."""
        drop = self.state.dropped | {layer}
        if layer in self.entangled:
            found, streams, recordings = self._record(drop)
            return _join(read_losses(found)), streams, recordings
        losses: list[Tensor] = []
        streams = []
        batches = zip(self.recordings, self.streams, self.labels, self.moves, strict=True)
        for recording, before, labels, move in batches:
            streams.append({})
            # A layer that this batch skips changes nothing: the next one that it runs has the same state.
            start = min((other for other in before if other >= layer), default=max(before))
            there = recording if move is None else self._bring(recording)
            outputs = self.replay.run(there, start, before[start], drop, _keep_in(streams[-1], move))
            losses.append(sum_losses(outputs, labels, there.inputs["logits_to_keep"]))
        return _join(read_losses(losses)), streams, self.recordings

    def _bring(self, recording: Recording) -> Recording:
        """Back to the device, but for what a dispatched model takes from the host."""
        there = recording.move(bring_to(self.device))
        if is_dispatched(self.replay.model):
            there.inputs |= {name: recording.inputs[name] for name in HOST_INPUTS if name in recording.inputs}
        return there

    def _bypassing(self, drop: Collection[int]) -> AbstractContextManager[None]:
        return bypassed(self.replay.model, sorted(drop), self.stack) if drop else nullcontext()

    def _discount(self) -> None:
        """Leaves out the layer runs that only repeat work of an interrupted call, so that the count does not depend on
        interruptions."""
        self.runs_before = self.state.layer_runs - sum(gather([self.replay.layer_runs]))

    def _count(self, naive: int) -> None:
        """Counts a finished candidate and saves. `naive`: layers that the naive search runs for it on each batch."""
        self.state.layer_runs = self.runs_before + sum(gather([self.replay.layer_runs]))
        self.state.naive_layer_runs += naive * self.batches
        self.save(self.state)
        self.advance(1)


def _join(by_batch: Sequence[Sequence[T]]) -> list[T]:
    """Values of this process's batches -> values of all processes' samples, in the order of the samples."""
    return [value for values in gather(by_batch) for value in values]


def _keep_in(stream: Stream, move: Callable[[Tensor], Tensor] | None) -> Callable[[int, Tensor], None]:
    """A callback that stores the states in `stream`, where the batch is kept."""

    def keep(layer: int, hidden_BTH: Tensor) -> None:
        stream[layer] = hidden_BTH if move is None else move(hidden_BTH)

    return keep
