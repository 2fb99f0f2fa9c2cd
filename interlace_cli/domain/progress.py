"""The interface by which a step reports its progress. The command line shows it (`cli/console.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """A callback for finished units of work."""

    def __call__(self, done: float = 1, note: str = "") -> None:
        """Reports `done` more finished units, and a `note` to show beside the progress bar."""


class Progress(Protocol):
    """A listener: `task` follows one piece of long work, `say` shows one line."""

    def task(self, description: str, total: float, unit: str) -> AbstractContextManager[Advance]:
        """A context in which work of `total` units runs; `unit` is its name in the plural. Yields the callback."""

    def say(self, line: str) -> None:
        """Shows one line to the user."""


class Silent:
    """A listener that ignores everything."""

    def say(self, line: str) -> None:
        """Ignores the line."""
        del line

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        """Yields a callback that does nothing."""
        del description, total, unit

        def advance(done: float = 1, note: str = "") -> None:
            del done, note

        yield advance
