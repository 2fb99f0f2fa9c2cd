"""Encoded samples -> the rows of a training step.

Shape legend: T tokens of a sample; B samples in a padded row (1 if it is packed), N tokens of each, padding included; K
positions at which any sample has a target; R rows of position ids (1, or 4 for M-RoPE: text, time, height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from interlace_cli.data.batches import IGNORE, Batcher, Inputs
from interlace_cli.data.packing import group_alike, pack_rows
from interlace_cli.data.padding import HARMLESS, Padding
from interlace_cli.data.sample_lengths import Reader, SampleLengths
from interlace_cli.data.token_fields import stack_left
from interlace_cli.data.transfer import send
from interlace_cli.domain.dataset import Sample

CACHE = 1 << 30
"""Bytes of memory for encoded samples that are kept for the next epoch."""
Positions = Callable[[Inputs], Tensor]
"""Inputs of one sample -> its position ids [R, 1, T]."""


@dataclass(frozen=True)
class Encoded:
    """One sample, or one of its training sequences. `tokens`: the fields of shape [T, ...]; `whole`: those that are not
    per token (pixels); `targets_T`: the id of the next token if it belongs to an answer, else IGNORE; `pad_token`: the
    id that pads a batch."""

    tokens: Inputs
    whole: Inputs
    targets_T: Tensor
    positions_RT: Tensor
    pad_token: int

    @property
    def length(self) -> int:
        """The number of tokens T; 0 if no token has a target."""
        return len(self.targets_T) if bool((self.targets_T != IGNORE).any()) else 0

    @property
    def fields(self) -> frozenset[str]:
        """The names of its inputs."""
        return frozenset(self.tokens) | frozenset(self.whole)

    @property
    def bytes(self) -> int:
        """Bytes of memory of all its tensors."""
        held = [*self.tokens.values(), *self.whole.values(), self.targets_T, self.positions_RT]
        return sum(tensor.nbytes for tensor in held)


@dataclass(frozen=True)
class PackedRow:
    """The input of one forward pass. `inputs`: the model's, among them `logits_to_keep` [K]; `targets_BK`: the targets
    at these positions; `lengths`: where the samples of a packed row lie, if the model is told; `labels_L`: see
    `label_places`, found before the row was moved."""

    inputs: Inputs
    targets_BK: Tensor
    lengths: SampleLengths | None = None
    labels_L: Tensor | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What the model is called with."""
        return {**self.inputs, **(self.lengths.arguments if self.lengths else {}), "use_cache": False}

    @property
    def is_label_BK(self) -> Tensor:
        """True where there is a target. [B, K]"""
        return self.targets_BK != IGNORE

    @property
    def label_places(self) -> Tensor:
        """The places [L] of [B K] where there is a target. On the host a mask is looked at without a wait."""
        return self.is_label_BK.flatten().nonzero()[:, 0] if self.labels_L is None else self.labels_L

    @property
    def padded_tokens(self) -> int:
        """The number of tokens, padding included: B times N."""
        return self.inputs["input_ids"].numel()

    @property
    def tokens(self) -> int:
        """The number of tokens without padding."""
        mask_BN = self.inputs.get("attention_mask")
        return self.padded_tokens if mask_BN is None else int(mask_BN.sum())

    def to(self, device: torch.device | str, dtype: torch.dtype) -> PackedRow:
        """The same on `device`; floating-point tensors (pixels) in `dtype`."""
        moved = {name: send(value, device, dtype) for name, value in self.inputs.items()}
        lengths = self.lengths.to(device) if self.lengths else None
        return PackedRow(moved, send(self.targets_BK, device), lengths, send(self.label_places, device))


class EncodedSteps(Dataset[list[Encoded]]):
    """Item `i` is the encoded sequences of optimizer step `start + i`. `steps`: for each step the indices of its
    samples; `positions` computes position ids."""

    def __init__(
        self,
        samples: Sequence[Sample],
        steps: Sequence[Sequence[int]],
        batcher: Batcher,
        positions: Positions,
        start: int = 0,
    ) -> None:
        self.samples, self.steps, self.batcher, self.positions = samples, steps, batcher, positions
        self.start = start
        self._kept: dict[int, list[Encoded]] = {}
        self._room = CACHE
        self._repeats = _Repeats(steps[start:])

    def __len__(self) -> int:
        return len(self.steps) - self.start

    def __getitem__(self, index: int) -> list[Encoded]:
        return self.read(index, lambda sample: None)

    def list_samples(self, index: int) -> Sequence[int]:
        """The indices of the samples of step `start + index`."""
        return self.steps[self.start + index]

    def is_kept(self, sample: int) -> bool:
        """Whether the sample with this index is kept from an earlier epoch."""
        return sample in self._kept

    def read(self, index: int, find: Callable[[int], list[Encoded] | None]) -> list[Encoded]:
        """Item `index`. `find` returns the sequences of a sample that was encoded elsewhere, or None."""
        return [sequence for i in self.list_samples(index) for sequence in self._take(i, find)]

    def _take(self, index: int, find: Callable[[int], list[Encoded] | None]) -> list[Encoded]:
        """The sample's sequences: kept from the last epoch, found, or encoded now. They are kept if a later step needs
        them and CACHE has room."""
        taken = self._kept.pop(index, None)
        if taken is None:
            taken = find(index)
        else:
            self._room += count_bytes(taken)
        if taken is None:
            taken = encode_sequences(self.samples[index], self.batcher, self.positions)
        if self._repeats.take(index) and count_bytes(taken) <= self._room:
            self._kept[index] = taken
            self._room -= count_bytes(taken)
        return taken

    def encode_any(self) -> Encoded:
        """The first sequence that has a target, encoded."""
        encoded = (one for s in self.samples for one in encode_sequences(s, self.batcher, self.positions))
        return next(sample for sample in encoded if sample.length)


class _Repeats:
    """How often each sample is still to come, of those that come more than once: 16 bytes for each."""

    def __init__(self, steps: Iterable[Sequence[int]]) -> None:
        import numpy as np

        indices, counts = np.unique(np.fromiter(chain.from_iterable(steps), np.int64), return_counts=True)
        self.indices, self.counts = indices[counts > 1], counts[counts > 1]

    def take(self, index: int) -> bool:
        """Takes the sample once. Returns whether it comes again."""
        at = int(self.indices.searchsorted(index))
        if at == len(self.indices) or self.indices[at] != index:
            return False
        self.counts[at] -= 1
        return bool(self.counts[at] > 0)


def encode_sequences(sample: Sample, batcher: Batcher, positions: Positions) -> list[Encoded]:
    """Tokenizes the sample, processes its images and computes position ids: of each of its training sequences."""
    return [_encode(batch, batcher, positions) for batch in batcher.build_sequences(sample)]


def encode(sample: Sample, batcher: Batcher, positions: Positions) -> Encoded:
    """The last of the sample's training sequences, which holds all of its turns."""
    return _encode(batcher.build_conversations([sample]), batcher, positions)


def count_bytes(sequences: Sequence[Encoded]) -> int:
    """Bytes of memory of all tensors."""
    return sum(sequence.bytes for sequence in sequences)


def _encode(batch: Inputs, batcher: Batcher, positions: Positions) -> Encoded:
    labels_T = batch.pop("labels")[0]
    positions_RT = positions(batch)[:, 0]
    tokens = {name: batch.pop(name)[0] for name in batcher.token_fields.names(batch)}
    return Encoded(
        tokens, batch, functional.pad(labels_T[1:], (0, 1), value=IGNORE), positions_RT, batcher.tokenizer.pad_token_id
    )


def build_rows(
    samples: Sequence[Encoded],
    is_packed: bool,
    max_tokens: int,
    max_samples: int,
    padding: Padding = HARMLESS,
    lengths: Reader | None = None,
) -> list[PackedRow]:
    """The rows of one optimizer step, of at most `max_tokens` tokens each, padding included; padded rows have at most
    `max_samples` samples, and packed ones tell the model their `lengths`, or do not. Samples with pictures and samples
    without have other fields, and never share a row."""
    rows: list[PackedRow] = []
    for fields in dict.fromkeys(sample.fields for sample in samples):
        alike = [sample for sample in samples if sample.fields == fields]
        tokens = [sample.length for sample in alike]
        if is_packed:
            rows += [pack([alike[i] for i in row], lengths) for row in pack_rows(tokens, max_tokens)]
        else:
            groups = group_alike(tokens, max_tokens, padding.limit(max_samples))
            rows += [complete_row(pad([alike[i] for i in group]), padding) for group in groups]
    return rows


def complete_row(row: PackedRow, padding: Padding) -> PackedRow:
    """The padded row with what the model needs for its padding."""
    return replace(row, inputs=padding.complete(row.inputs))


def pack(samples: Sequence[Encoded], lengths: Reader | None = None) -> PackedRow:
    """One row [1, N] with the samples end to end. It has no attention mask: transformers finds where a sample begins by
    the position ids, which start again there (`masking_utils.find_packed_sequence_indices`), or by its `lengths`."""
    names = [name for name in samples[0].tokens if name != "attention_mask"]
    inputs = {name: torch.cat([sample.tokens[name] for sample in samples])[None] for name in names}
    positions_R1N = torch.cat([sample.positions_RT for sample in samples], 1)[:, None]
    inputs["position_ids"] = positions_R1N if len(positions_R1N) > 1 else positions_R1N[0]
    row = _finish(samples, inputs, torch.cat([sample.targets_T for sample in samples])[None])
    if lengths is None:
        return row
    return replace(row, lengths=SampleLengths.build([len(sample.targets_T) for sample in samples], lengths))


def pad(samples: Sequence[Encoded]) -> PackedRow:
    """A batch [B, N] of the samples, padded on the left."""
    inputs = {
        name: stack_left([s.tokens[name] for s in samples], samples[0].pad_token if name == "input_ids" else 0)
        for name in samples[0].tokens
    }
    return _finish(samples, inputs, stack_left([s.targets_T for s in samples], IGNORE))


def _finish(samples: Sequence[Encoded], inputs: Inputs, targets_BN: Tensor) -> PackedRow:
    for name in samples[0].whole:
        inputs[name] = _join([sample.whole[name] for sample in samples])
    positions_K = (targets_BN != IGNORE).any(0).nonzero()[:, 0]
    inputs["logits_to_keep"] = positions_K
    return PackedRow(inputs, targets_BN[:, positions_K])


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenates the parts along their first axis. If they differ in another axis (number of image tiles, say), the
    smaller ones are padded with zeros, as processors do."""
    shape = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
    filled = []
    for part in parts:
        pads: list[int] = []
        for axis in range(part.ndim - 1, 0, -1):
            pads += [0, shape[axis - 1] - part.shape[axis]]
        filled.append(functional.pad(part, pads) if any(pads) else part)
    return torch.cat(filled)
