"""The records of `interlace compare`: the cells that were measured, and the table made from them."""

from __future__ import annotations

from typing import ClassVar

from interlace_cli.domain.record import Artifact, Record


class Cell(Artifact):
    """One checkpoint that was made and evaluated.

    `dropped` and `tuned` are 0-based indices in the dense model. `seed` is the healing seed, None if it was not healed.
    `points` and `weights` are those of each held-out sample (`evaluation/aggregation.py`); `weights` None means 1 each.
    `loss` is in nats per answer token. `device` is what it was made and evaluated on.
    """

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
    device: str = ""


class SpeedCell(Artifact):
    """Time to the first token of the dense model and of a pruned one, timed in alternation.

    The times are medians in milliseconds. `speedup` is the median over rounds of dense / pruned within a round. A
    machine that slows down during the run changes it less than the ratio of the medians. `device` is that machine's.
    """

    KIND: ClassVar[str] = "interlace.speed-cell"

    dense_ttft_ms: float
    short_ttft_ms: float
    speedup: float
    repeats: int
    device: str = ""


class ComparisonRow(Record):
    """One row of the table: the mean over healing seeds, and the standard deviation if there is more than one seed.

    Scores are in 0 ... 1, retentions in percent. `families` is source -> score. `sparsity` is the share of the layers,
    or of their weights, that was removed. `retention` is relative to the dense model, `relative_dense_ft` to the
    fine-tuned dense model. `margin` is the retention minus that of the best row of the same ratio; healed rows are
    compared with healed ones. `is_within_noise`: the 95% interval of the margin (paired bootstrap over samples and
    seeds) holds 0.
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
    """A method that cannot drop as many layers as `ratio` asks for, and the reason."""

    method: str
    ratio: float
    reason: str


class Comparison(Artifact):
    """The table of methods: the dense model first, then the baselines, then the methods by ratio.

    `correlation` is that of the analysis (`domain/analysis.py`). `unreached` lists methods without a row. `device` is
    the dense model's; `devices` says how many cells were made on each, `timed_on` where the speed-ups were measured.
    """

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
    devices: dict[str, int] = {}
    timed_on: list[str] = []


class GridState(Record):
    """A comparison that is not finished: how many cells and timings it has, and how many of them are there; which lack,
    and who is making them, as far as somebody is."""

    workspace: str
    cells: int
    present: int
    lacking: list[str]
    holders: dict[str, str]


class Submission(Record):
    """A batch script that makes a comparison, its text, and the ids of the jobs that it was handed in as."""

    workspace: str
    script: str
    text: str
    jobs: list[str]
