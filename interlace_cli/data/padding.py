"""Whether a model computes in a padded batch what it computes for each row alone, and what it needs for that.

Most models do: their attention is masked, and their positions are relative. A model with absolute positions counts the
padding unless it is given positions that do not (`position_ids` from the attention mask, as `generate` does:
HunYuan-VL, GIT). One may also treat a sample without pictures otherwise beside one with pictures (Llama 3.2 Vision).
It is found out by a trial on two or three samples: no architecture has to be listed.

Shape legend: B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interlace_cli.data.batches import Batcher, Inputs, order_by_length, to_model
from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import UnusableSampleError, first_line
from interlace_cli.io.samples import find_pictured
from interlace_cli.runtime.accelerator import release_memory
from interlace_cli.runtime.memory import is_out_of_memory

TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1
"""Largest relative difference of the logits, |padded - alone| / |alone|, in float32 and in 16 bits."""
FAILURES = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError)
"""What models of all makers raise on inputs that they do not take, and what is raised where memory does not do."""


@dataclass(frozen=True)
class Padding:
    """`needs_positions`: batches get `position_ids` from their mask. `is_harmless` False: samples run one by one."""

    needs_positions: bool = False
    is_harmless: bool = True

    def complete(self, inputs: Inputs) -> Inputs:
        """The batch with what the model needs for its padding."""
        return add_positions(inputs) if self.needs_positions else inputs

    def limit(self, batch_size: int) -> int:
        """The batch size, or 1."""
        return batch_size if self.is_harmless else 1


HARMLESS = Padding()
"""Of a model that computes in a padded batch what it computes alone."""


def add_positions(inputs: Inputs) -> Inputs:
    """The batch with `position_ids` [B, T] that count the tokens that are none of padding, as `generate` does."""
    positions_BT = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
    return {**inputs, "position_ids": positions_BT}


def find_padding(model: Any, batcher: Batcher, samples: Sequence[Sample], say: Callable[[str], None]) -> Padding:
    """Runs the longest and the shortest of the samples alone and together; where some samples have pictures and some
    have none, both kinds are among them. `say` gets a line if samples have to be run one by one. They are too where the
    trial fails: what fails for one alone is raised where it is needed."""
    if len(samples) < 2 or model.config.is_encoder_decoder or not model.can_generate():
        return Padding()
    chosen = [samples[i] for i in choose_trial(samples)]
    alone = [batcher.build_prompts([one]) for one in chosen]
    try:
        together = batcher.build_prompts(chosen)
    # Each can be encoded alone.
    except UnusableSampleError:
        found, why = Padding(is_harmless=False), f"{type(batcher.processor).__name__} cannot encode them together"
    else:
        if len({bool(one.image) for one in chosen}) == 1 and bool(together["attention_mask"].all()):
            return Padding()
        name = type(model).__name__
        try:
            found, why = choose_padding(model, alone, together), f"{name} computes something else in a batch than alone"
        except FAILURES as error:
            short = is_out_of_memory(error)
            found, why = Padding(is_harmless=False), "out of memory" if short else f"{name}: {first_line(error)}"
        if not found.is_harmless:
            # Behind the handler: the error's traceback holds the activations.
            release_memory()
    if not found.is_harmless:
        say(f"{why}: samples are run one by one")
    return found


def choose_trial(samples: Sequence[Sample]) -> list[int]:
    """Indices of the longest and the shortest sample, and of the longest of the samples with pictures, or without, if
    neither is one of them."""
    order = order_by_length(samples)
    found = [order[0], order[-1]]
    is_pictured = find_pictured(samples)
    kinds = {bool(is_pictured[i]) for i in found}
    return found + [i for i in order if bool(is_pictured[i]) not in kinds][:1]


@torch.inference_mode()
def choose_padding(model: Any, alone: Sequence[Inputs], together: Inputs) -> Padding:
    """By the logits of the last token of each row: padding is harmless, or it is with positions, or it is not. Raises
    what the model raises (FAILURES) where it computes neither."""
    wanted = torch.cat([_run(model, inputs) for inputs in alone])
    plain = differ(_run(model, together), wanted)
    tolerance = TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
    if plain <= TOLERANCE / 10 or not plain < float("inf"):
        return Padding()
    try:
        counted = differ(_run(model, add_positions(together)), wanted)
    # A model that knows no such positions.
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        counted = plain
    if counted < plain / 2:
        return Padding(needs_positions=True, is_harmless=counted <= tolerance)
    return Padding(is_harmless=plain <= tolerance)


def _run(model: Any, inputs: Inputs) -> Tensor:
    """Logits [B, V] of the last token."""
    last = torch.tensor([inputs["input_ids"].shape[1] - 1])
    moved = to_model({**inputs, "logits_to_keep": last}, model)
    logits: Tensor = model(**moved, use_cache=False).logits
    return logits[:, -1].float()


def differ(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, of tensors of one shape."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))
