"""The record that `interlace bench` writes: two ways to do the same, timed in alternation in one run."""

from __future__ import annotations

from typing import ClassVar

from interlace_cli.domain.record import Artifact, Record


class Spread(Record):
    """Median, minimum and maximum of `repeats` runs, in seconds."""

    median: float
    low: float
    high: float
    repeats: int


class Case(Record):
    """Our way beside a baseline, which `against` describes.

    `ratio` is the median over rounds of baseline / ours (`is_speedup`: times as fast) or of ours / baseline (times as
    long); `ratio_range` is its minimum and maximum. `floor_seconds` is the least time that the work described by
    `floor` can take on this machine. Peaks are bytes above those of the model itself.
    """

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
        """`floor_seconds` / our median; 1 means that it cannot get faster. None without a floor."""
        return None if self.floor_seconds is None else self.floor_seconds / self.ours.median


class Benchmark(Artifact):
    """The cases of one part of `interlace bench`, and the machine, versions and date of the run."""

    KIND: ClassVar[str] = "interlace.benchmark"

    part: str
    shape: str
    machine: str
    versions: dict[str, str]
    date: str
    cases: list[Case]
