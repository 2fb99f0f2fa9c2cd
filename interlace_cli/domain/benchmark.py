"""What `bench` found: two ways to do the same, timed in turns in one run."""

from __future__ import annotations

from interlace_cli.domain.record import Record


class Side(Record):
    """Medians over the repeats. The peak is of the device's memory; None on a CPU."""

    tokens_per_second: float
    seconds_per_step: float
    peak_memory_bytes: int | None


class HealBenchmark(Record):
    """A step of healing our way and the released recipe's way; `speedup` is the median of the ratios of the two that
    were timed one after the other."""

    shape: str
    layers: int
    tuned: int
    tokens: int
    samples: int
    layout: str
    optim: str
    machine: str
    dtype: str
    ours: Side
    released: Side
    speedup: float
