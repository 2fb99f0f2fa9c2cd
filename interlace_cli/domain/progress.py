"""How a step says how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called with how many units were done, and optionally a word to show beside the bar."""

    def __call__(self, done: float = 1, note: str = "") -> None:
        """`done` more units are done."""


class Progress(Protocol):
    """A listener: `task` shows one piece of long work, `say` one line."""

    def task(self, description: str, total: float, unit: str) -> AbstractContextManager[Advance]:
        """Work of `total` units, under way inside the context."""

    def say(self, line: str) -> None:
        """One line for people."""


class Silent:
    """The listener that listens to nothing."""

    def say(self, line: str) -> None:
        """Nothing."""
        del line

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        """Nothing."""
        del description, total, unit

        def advance(done: float = 1, note: str = "") -> None:
            del done, note

        yield advance
