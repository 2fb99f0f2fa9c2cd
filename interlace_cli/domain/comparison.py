"""A comparison of methods on one model and dataset: the cells that were measured, and the table made of them."""

from __future__ import annotations

from typing import ClassVar

from interlace_cli.domain.record import Artifact, Record


class Cell(Artifact):
    """One checkpoint that was made and evaluated: dense layers dropped and tuned, the seed of its healing if it was
    healed, and what each held-out sample scored, by its weight; `weights` None: 1 each."""

    KIND: ClassVar[str] = "interlace.cell"
    SCHEMA: ClassVar[int] = 2

    name: str
    dropped: list[int]
    tuned: list[int]
    seed: int | None
    loss: float
    points: list[float]
    weights: list[float] | None = None
    seconds: float


class SpeedCell(Artifact):
    """The dense model and one that lacks layers or weights, timed in turns: medians of the time to the first token, and
    the median of the ratio of each two that were timed one after the other, which a drifting machine moves least."""

    KIND: ClassVar[str] = "interlace.speed-cell"

    dense_ttft_ms: float
    short_ttft_ms: float
    speedup: float
    repeats: int


class ComparisonRow(Record):
    """One line of the table; scores in 0 ... 1, retentions in percent, means over the seeds with the standard deviation
    over them where there is more than one.

    `sparsity` is the share of the layers, or of their weights, that is gone. `retention` is relative to dense,
    `relative_dense_ft` to the fine-tuned dense model. `margin` is the retention minus that of the best of the same
    ratio, healed alike; `is_within_noise` says that its 95% interval (paired bootstrap over samples and seeds) holds 0.
    """

    method: str
    ratio: float | None
    sparsity: float
    dropped: list[int]
    tuned: list[int]
    is_healed: bool
    seeds: list[int]
    ttft_speedup: float | None
    families: dict[str, float]
    score: float
    score_deviation: float | None
    loss: float
    retention: float | None
    retention_deviation: float | None
    retention_interval: tuple[float, float] | None
    relative_dense_ft: float | None = None
    margin: float | None = None
    margin_interval: tuple[float, float] | None = None
    is_within_noise: bool = False


class Unreached(Record):
    """A method that cannot drop as many layers as a ratio asks for, and why."""

    method: str
    ratio: float
    reason: str


class Comparison(Artifact):
    """The table: dense first, then the baselines, then the methods by ratio."""

    KIND: ClassVar[str] = "interlace.comparison"

    model: str
    num_layers: int
    samples: int
    device: str
    dtype: str
    recipe: dict[str, str | int | float | bool]
    correlation: float | None
    rows: list[ComparisonRow]
    unreached: list[Unreached]
    seconds: float
