"""What `bench` found: two ways to do the same, timed in turns in one run."""

from __future__ import annotations

from typing import ClassVar

from interlace_cli.domain.record import Artifact, Record


class Spread(Record):
    """Seconds."""

    median: float
    low: float
    high: float
    repeats: int


class Case(Record):
    """Ours and what it is held against. `ratio` is the median of the ratios of neighbours in time: how many times as
    fast ours is (`is_speedup`), or how many times as long it takes. `floor_seconds`: what `floor` counts cannot take
    less than on this machine. Peaks are bytes above the model's own."""

    name: str
    against: str
    ours: Spread
    baseline: Spread
    ratio: float
    ratio_range: tuple[float, float]
    is_speedup: bool
    goal: float | None = None
    is_reached: bool | None = None
    floor_seconds: float | None = None
    floor: str = ""
    ours_peak_bytes: int | None = None
    baseline_peak_bytes: int | None = None
    notes: list[str] = []

    @property
    def closeness(self) -> float | None:
        """The floor's share of what ours takes."""
        return None if self.floor_seconds is None else self.floor_seconds / self.ours.median


class Benchmark(Artifact):
    """One part of `bench` on one machine; its time is part of what it says."""

    KIND: ClassVar[str] = "interlace.benchmark"

    part: str
    shape: str
    machine: str
    versions: dict[str, str]
    date: str
    cases: list[Case]
