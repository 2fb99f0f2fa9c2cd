"""Whether checkpoints are timed in turns, which needs all of them in memory at once, or one after another.

In turns a machine that slows down slows all of them alike, so it is preferred where they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from interlace_cli.runtime.accelerator import release_memory
from interlace_cli.runtime.memory import is_out_of_memory

Found = TypeVar("Found")
SHARE = 0.8
"""Of the free memory, for weights; the rest is for generating."""


@dataclass(frozen=True)
class Turns:
    """`total` bytes of weights of `count` models, and the `free` bytes of the memory that they would share, `where`."""

    total: int
    free: int
    count: int
    where: str

    @property
    def is_together(self) -> bool:
        """Whether all of them fit at once."""
        return self.count > 1 and self.total <= SHARE * self.free

    def describe(self) -> str:
        """Why they were not timed in turns."""
        return (
            f"the checkpoints were timed one after another, not in turns: the weights of all take {_show(self.total)},"
            f" {_show(self.free)} of {self.where} were free, and generating takes some too. Small differences may be"
            " the machine's."
        )


def _show(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def measure_turns(
    loaders: Sequence[Callable[[], Any]], measure: Callable[[Sequence[Any]], Sequence[Found]], is_together: bool = True
) -> tuple[list[Found], bool]:
    """What `measure` finds of each model, and whether they were loaded together. Where they do not fit after all they
    are loaded one after another."""
    if is_together:
        try:
            return list(measure([load() for load in loaders])), True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Behind the handler: the error holds on to the models.
        release_memory()
    found: list[Found] = []
    for load in loaders:
        found += measure([load()])
        release_memory()
    return found, False
