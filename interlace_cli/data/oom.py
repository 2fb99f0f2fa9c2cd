"""Out of memory: a batch that does not fit is built again in halves, and those in halves again, until each fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from interlace_cli.data.batches import Batcher, Inputs
from interlace_cli.errors import ShortageError
from interlace_cli.runtime.accelerator import release_memory
from interlace_cli.runtime.memory import is_out_of_memory
from interlace_cli.runtime.shortage import read_shortage

Made = tuple[Inputs, ...]
Result = TypeVar("Result")
MOST_TOKENS = 1 << 15
"""Tokens of a batch, padding included. A batch with more is halved at once, so that one long sample does not pad its
neighbours to its length."""


class Halving:
    """`make(batcher, chosen)` builds the batch of the samples with the indices `chosen`; `say` is called once, with a
    line for people, when the memory is too small."""

    def __init__(
        self,
        batcher: Batcher,
        make: Callable[[Batcher, Sequence[int]], Made],
        say: Callable[[str], None],
        max_tokens: int = MOST_TOKENS,
    ) -> None:
        self.batcher, self.make, self.say, self.max_tokens = batcher, make, say, max_tokens
        self.has_said = False
        self._own: Batcher | None = None

    def run(self, chosen: Sequence[int], made: Made, work: Callable[[Sequence[int], Any], Result]) -> list[Result]:
        """The results of `work(chosen, made)`: one of the whole batch, or those of its parts in order. Raises
        ShortageError if a single sample does not fit into memory."""
        if len(chosen) == 1 or all(batch["input_ids"].numel() <= self.max_tokens for batch in made):
            try:
                return [work(chosen, made)]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                shortage = read_shortage(error)
            # Behind the handler: the error holds on to what did not fit.
            if len(chosen) == 1:
                tokens = made[0]["input_ids"].shape[1]
                raise ShortageError(
                    f"a sample of {tokens:,} tokens does not fit into the memory: {shortage}.",
                    "Bound its images, or its text.",
                )
            release_memory()
            if not self.has_said:
                self.say(f"out of memory: batches of {len(chosen)} are halved, which changes results by rounding alone")
                self.has_said = True
        middle = (len(chosen) + 1) // 2
        parts = (chosen[:middle], chosen[middle:])
        return [result for part in parts for result in self.run(part, self._build(part), work)]

    def _build(self, chosen: Sequence[int]) -> Made:
        # Threads that read ahead may be using the other one.
        self._own = self._own or self.batcher.copy()
        return self.make(self._own, chosen)
