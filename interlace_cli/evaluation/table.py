"""The cells of a comparison -> the rows of its table: means and deviations over seeds, and which gaps are noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interlace_cli.domain.comparison import Cell, ComparisonRow, SpeedCell
from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points, score_kinds, score_macro, score_retention
from interlace_cli.evaluation.statistics import find_deviation, find_interval, resample_retentions, to_array

if TYPE_CHECKING:
    import numpy as np

DENSE_FT = "dense-ft"
"""Name of the row of the dense model that was fine-tuned like the healed ones."""


@dataclass(frozen=True)
class Measured:
    """What one table row is made from. Its cells differ only in the healing seed."""

    method: str
    ratio: float | None
    sparsity: float
    cells: Sequence[Cell]
    speed: SpeedCell | None

    @property
    def is_healed(self) -> bool:
        """Whether its checkpoints were healed (fine-tuned)."""
        return self.cells[0].seed is not None


def build_rows(measured: Sequence[Measured], samples: Sequence[Sample], seed: int) -> list[ComparisonRow]:
    """One row per entry of `measured`, in the same order. The first is the dense model, the reference of retention.

    `seed` is the seed of the bootstrap.
    """
    import numpy as np

    kinds = [sample.kind for sample in samples]
    hits = [np.array([to_array(Points(cell.points, cell.weights)) for cell in one.cells]) for one in measured]
    draws = resample_retentions(hits, hits[0][0], kinds, seed)
    rows = [_build_row(one, hits[index], hits[0][0], samples) for index, one in enumerate(measured)]
    rows = [
        row.model_copy(update={"retention_interval": find_interval(draws[:, index])}) if index else row
        for index, row in enumerate(rows)
    ]
    return _compare_rows(rows, hits, draws, kinds)


def _build_row(one: Measured, hits: np.ndarray, dense: np.ndarray, samples: Sequence[Sample]) -> ComparisonRow:
    """A row without what needs other rows. `hits` is [S, N, 2] (seeds, samples, points and weights), `dense` [N, 2]."""
    kinds = [sample.kind for sample in samples]
    base = score_kinds(_to_points(dense), kinds)
    by_seed = [score_kinds(_to_points(row), kinds) for row in hits]
    scores = [score_macro(by_kind) for by_kind in by_seed]
    retentions = [score_retention(by_kind, base) for by_kind in by_seed]
    known = [value for value in retentions if value is not None]
    speed = one.speed
    return ComparisonRow(
        method=one.method,
        ratio=one.ratio,
        sparsity=one.sparsity,
        dropped=one.cells[0].dropped,
        tuned=one.cells[0].tuned,
        is_healed=one.is_healed,
        seeds=[cell.seed for cell in one.cells if cell.seed is not None],
        ttft_speedup=speed.speedup if speed else None,
        families=_score_families(hits, samples),
        score=sum(scores) / len(scores),
        score_deviation=find_deviation(scores),
        loss=sum(cell.loss for cell in one.cells) / len(one.cells),
        retention=sum(known) / len(known) if known else None,
        retention_deviation=find_deviation(known),
        retention_interval=None,
    )


def _to_points(scored_N2: np.ndarray) -> Points:
    return Points(scored_N2[:, 0].tolist(), scored_N2[:, 1].tolist())


def _score_families(hits: np.ndarray, samples: Sequence[Sample]) -> dict[str, float]:
    """Source -> macro mean over its kinds, in 0 ... 1, averaged over seeds. `hits` is [S, N, 2]."""
    families = {}
    for source in sorted({sample.source for sample in samples}):
        members = [index for index, sample in enumerate(samples) if sample.source == source]
        kinds = [samples[index].kind for index in members]
        families[source] = sum(score_macro(score_kinds(_to_points(row[members]), kinds)) for row in hits) / len(hits)
    return families


def _compare_rows(
    rows: Sequence[ComparisonRow], hits: Sequence[np.ndarray], draws: np.ndarray, kinds: Sequence[str]
) -> list[ComparisonRow]:
    """Adds to each row its retention relative to Dense-FT and its margin to the best rival.

    Rivals have the same ratio and are all healed or all not. A margin is within the noise if the 95% interval of the
    paired difference in retention holds 0.
    """
    tuned = next((index for index, row in enumerate(rows) if row.method == DENSE_FT), None)
    base = None if tuned is None else score_kinds(_to_points(hits[tuned].sum(0)), kinds)
    result = []
    for index, row in enumerate(rows):
        update: dict[str, object] = {}
        if base is not None:
            mean = score_kinds(_to_points(hits[index].sum(0)), kinds)
            update["relative_dense_ft"] = score_retention(mean, base)
        rivals = [
            other
            for other, rival in enumerate(rows)
            if row.ratio is not None and (rival.ratio, rival.is_healed) == (row.ratio, row.is_healed)
        ]
        best = max(rivals, key=lambda other: rows[other].retention or 0.0, default=None)
        if best is not None and len(rivals) > 1 and row.retention is not None:
            interval = find_interval(draws[:, index] - draws[:, best])
            update["margin"] = row.retention - (rows[best].retention or 0.0)
            update["margin_interval"] = interval
            update["is_within_noise"] = index == best or interval[0] <= 0 <= interval[1]
        result.append(row.model_copy(update=update))
    return result
