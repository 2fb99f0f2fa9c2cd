"""Which of a processor's outputs have a value for every token, and which values an answer's tokens get in them.

Answers are tokenized apart from their prompts, so their values in such a field (`token_type_ids`, Llama 3.2 Vision's
`cross_attention_mask`) are not the processor's own. How the field goes on is found by a trial: one sample is encoded as
it is and with more text at its end. A field is per token exactly if it grows as `input_ids` do; nothing else in an
encoding depends on the length of the text.

Shape legend: B samples, T tokens, A added tokens, "..." the rest of a field's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from interlace_cli.errors import UnsupportedModelError

Inputs = dict[str, Tensor]
ALWAYS = ("input_ids", "attention_mask")
"""Per token in every encoding; `Batcher` itself gives their values."""


@dataclass(frozen=True)
class Continuation:
    """How a field goes on behind a prompt: every token gets `constant`, or, if that is None, the value of the token
    before it plus `step`."""

    constant: int | float | None
    step: int = 0

    def build(self, values_T: Tensor, added: int) -> Tensor:
        """Values [A, ...] of `added` tokens behind those with the values [T, ...]."""
        shape = (added, *values_T.shape[1:])
        if self.constant is not None or not len(values_T):
            return torch.full(shape, self.constant or 0, dtype=values_T.dtype)
        steps_A = (self.step * torch.arange(1, added + 1)).view(-1, *[1] * (values_T.ndim - 1))
        return (values_T[-1:] + steps_A).to(values_T.dtype) if self.step else values_T[-1:].expand(shape)


@dataclass
class TokenFields:
    """What is known of the fields of one processor's encodings. `found` maps a name to its continuation, or to None if
    the field is not per token. `owner` names the processor in errors."""

    owner: str
    found: dict[str, Continuation | None] = field(default_factory=dict)

    def learn(self, batch: Inputs, encode: Callable[[int, bool], Inputs]) -> None:
        """Finds out about the fields of `batch` that could be per token and are not known yet. `encode(row, longer)`
        encodes that row of the batch alone, with more text at its end if `longer`. Raises UnsupportedModelError for a
        field that is per token and goes on in no way that is known."""
        samples, length = batch["input_ids"].shape
        for name in [name for name, value in batch.items() if name not in self.found and name not in ALWAYS]:
            if length not in batch[name].shape[1:]:
                # Of this length it cannot be per token; the next batch may say more.
                continue
            for row in range(samples):
                short = encode(row, False)
                if name in short:
                    self.found[name] = self._compare(name, short, encode(row, True))
                    break

    def names(self, batch: Inputs) -> list[str]:
        """The fields of the batch that are per token; `input_ids` is the first."""
        return [name for name in batch if name in ALWAYS or self.found.get(name) is not None]

    def extend(self, name: str, values_T: Tensor, added: int) -> Tensor:
        """`values_T` [T, ...] with the values of `added` further tokens behind them."""
        rule = self.found[name]
        assert rule is not None
        return torch.cat([values_T, rule.build(values_T, added)])

    def _compare(self, name: str, short: Inputs, long: Inputs) -> Continuation | None:
        before, after = short["input_ids"].shape[1], long["input_ids"].shape[1]
        value, longer = short[name], long[name]
        assert before < after
        grown = [
            axis for axis, sizes in enumerate(zip(value.shape, longer.shape, strict=True)) if sizes == (before, after)
        ]
        if not grown:
            return None
        rule = _find_continuation(value[0], longer[0, before:]) if grown == [1] and len(value) == 1 else None
        if rule is None:
            raise UnsupportedModelError(
                f"{self.owner} gives every token values in the field {name}, and they follow no rule by which an answer"
                " could have them too.",
                "This model can be analyzed by similarity on prompts alone.",
            )
        return rule


def _find_continuation(values_T: Tensor, added_A: Tensor) -> Continuation | None:
    """The rule that the added values [A, ...] follow. A single value for each token says what kind of token it is, and
    these are tokens of text; several say what it attends to (which pictures), as the token before it does."""
    if values_T.ndim == 1 and bool((added_A == added_A[0]).all()):
        return Continuation(added_A[0].item())
    for step in (0, 1):
        if torch.equal(Continuation(None, step).build(values_T, len(added_A)), added_A):
            return Continuation(None, step)
    return None


def stack_left(parts: Sequence[Tensor], fill: int | float = 0) -> Tensor:
    """Fields [T, ...] of several samples -> [B, longest T, ...]. Samples end at the same position: `fill` is put before
    them, and zeros behind the ends of other axes (numbers of pictures or tiles) where samples differ in them."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(parts[0].ndim)]
    padded = []
    for part in parts:
        for axis in range(1, part.ndim):
            part = functional.pad(part, [0, 0] * (part.ndim - 1 - axis) + [0, sizes[axis] - part.shape[axis]])
        before = part.new_full((sizes[0] - len(part), *part.shape[1:]), fill)
        padded.append(torch.cat([before, part]))
    return torch.stack(padded)
