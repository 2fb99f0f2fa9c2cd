"""Progress where there is no terminal: a line every EVERY seconds, for the log of a batch job (Slurm's, say)."""

from __future__ import annotations

from collections.abc import Callable

EVERY = 30.0
"""Seconds between two lines."""


class LineTask:
    """Follows one piece of work of `total` units and passes a line to `say` at most every EVERY seconds of `clock`."""

    def __init__(
        self, description: str, total: float, unit: str, say: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self.description, self.total, self.unit, self.say, self.clock = description, total, unit, say, clock
        self.done = 0.0
        self.told = clock()
        # What is done at once when a step is resumed says nothing of the rate: it is counted from the first report.
        self._first: tuple[float, float] | None = None
        self._begun = self.told

    def advance(self, done: float = 1, note: str = "") -> None:
        """Counts `done` more units."""
        self.done += done
        now = self.clock()
        if now - self.told >= EVERY:
            self.told = now
            begun, before = self._first or (self._begun, 0.0)
            self.say(self.describe(self.done - before, now - begun, note))
        self._first = self._first or (now, self.done)

    def describe(self, made: float, seconds: float, note: str) -> str:
        """The line, where `made` units took `seconds`."""
        parts = [f"{self.description}: {self._describe_done()}"]
        if made > 0 and seconds > 0:
            left = max(self.total - self.done, 0) * seconds / made
            parts += [self._describe_rate(made / seconds), f"{describe_time(left)} left"]
        return ", ".join([*parts, *([note] if note else [])])

    def _describe_done(self) -> str:
        share = f"({self.done / self.total:.0%})" if self.total else ""
        if self.unit == "bytes":
            return f"{self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB {share}".strip()
        return f"{self.done:,.0f} of {self.total:,.0f} {self.unit} {share}".strip()

    def _describe_rate(self, rate: float) -> str:
        if self.unit == "bytes":
            return f"{rate / 1e6:,.0f} MB/s"
        return f"{rate:,.1f} {self.unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"


def describe_time(seconds: float) -> str:
    """Example: 90 s, 24 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
