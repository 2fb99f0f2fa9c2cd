"""Confidence intervals of retention by the bootstrap (Efron and Tibshirani 1993, chapter 13: percentile intervals).

Every resample draws the same samples for all checkpoints, so differences between checkpoints are paired.

Shape legend: R resamples, S healing seeds, N samples, n samples of one kind. Scored samples are an array of points [N],
or of points and weights [N, 2] (`evaluation/aggregation.py`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interlace_cli.evaluation.aggregation import Points

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


def resample_retentions(
    rows: Sequence[np.ndarray], dense_N: np.ndarray, kinds: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """Retention in percent in each resample, [R, rows].

    A row is one method: its scored samples per healing seed, [S, N] or [S, N, 2]; `dense_N` is [N] or [N, 2] and
    `kinds[i]` the kind of sample i. Each resample draws, with replacement, n of the n samples of every kind (the same
    for all rows) and S of the S seeds of a row. Its retention is the mean over kinds of score / dense score. Kinds on
    which the dense model scores 0 are left out. If the dense score of a kind is 0 in one resample only, the ratio of
    the whole kind is used there.
    """
    import numpy as np

    rng, rng_seeds = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    labels = np.asarray(kinds)
    shares = [_draw_shares(len(scored), resamples, rng_seeds) for scored in rows]
    dense_N2, rows_SN2 = _with_weights(dense_N, 1), [_with_weights(scored, 2) for scored in rows]
    total, used = np.zeros((resamples, len(rows))), 0
    for kind in sorted(set(kinds)):
        members = np.flatnonzero(labels == kind)
        dense = dense_N2[members]
        if not dense[:, 0].any():
            continue
        used += 1
        counts_Rn = _count_drawn(len(members), resamples, rng)
        below_R = _divide(counts_Rn @ dense)
        for row, scored in enumerate(rows_SN2):
            chosen = scored[:, members]
            mean_R = (_divide(np.einsum("rn,snw->rsw", counts_Rn, chosen)) * shares[row]).sum(1)
            # A resample in which the dense model scores 0 has no ratio; the ratio of the whole kind takes its part.
            own = _divide(chosen.sum(1)).mean() / _divide(dense.sum(0))
            total[:, row] += np.where(below_R > 0, mean_R / np.where(below_R > 0, below_R, 1), own)
    return 100 * total / max(used, 1)


def bootstrap_retention(
    correct_N: np.ndarray, dense_N: np.ndarray, kinds: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95% interval `(low, high)` of one checkpoint's retention, in percent. Both arrays are [N] or [N, 2]."""
    return find_interval(resample_retentions([correct_N[None]], dense_N, kinds, seed, resamples)[:, 0])


def _count_drawn(samples: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How many times each sample is in each resample, [R, n]; every row sums to n."""
    import numpy as np

    drawn = rng.integers(samples, size=(resamples, samples))
    counts = np.zeros((resamples, samples))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
    return counts


def _draw_shares(seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The weight of each seed in each resample, [R, S]; every row sums to 1."""
    return _count_drawn(seeds, resamples, rng) / seeds


def to_array(scored: Points) -> np.ndarray:
    """The points and weights of each sample as an array [N, 2]."""
    import numpy as np

    return np.array(scored.pairs(), dtype=float)


def _with_weights(scored: np.ndarray, axes: int) -> np.ndarray:
    """`scored` with a last axis of points and weights, as float.

    `axes` is the number of axes of `scored` when it holds points alone; then all weights are 1.
    """
    import numpy as np

    points = scored.astype(float)
    return points if points.ndim > axes else np.stack([points, np.ones_like(points)], axis=-1)


def _divide(sums: np.ndarray) -> np.ndarray:
    """Sums of points and weights [..., 2] -> scores [...]; 0 where the weights sum to 0."""
    import numpy as np

    weights = sums[..., 1]
    result: np.ndarray = np.where(weights > 0, sums[..., 0] / np.where(weights > 0, weights, 1), 0.0)
    return result


def find_interval(values_R: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval `(low, high)`: the 2.5th and 97.5th percentile of the resampled values [R]."""
    import numpy as np

    low, high = np.percentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def find_deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (divisor n - 1) in the unit of the values; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None
