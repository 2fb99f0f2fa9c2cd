"""Retentions of many checkpoints and the noise in them: a bootstrap that draws the same samples for all of them, so
that differences between them are paired (Efron and Tibshirani 1993, chapter 13).

Shape legend: R resamples, S healing seeds, N samples, n samples of one kind. What samples scored is points [N], or
points and weights [N, 2] (`evaluation/aggregation.py`).
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
    """Retention in percent [R, rows]. A row holds what its samples scored, for each seed [S, N] or [S, N, 2]. Samples
    are drawn again within each kind, and seeds among those that a row has; kinds on which the dense model scores
    nothing have no ratio and are left out."""
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
        for place, scored in enumerate(rows_SN2):
            chosen = scored[:, members]
            mean_R = (_divide(np.einsum("rn,snw->rsw", counts_Rn, chosen)) * shares[place]).sum(1)
            # A resample without one dense hit has no ratio; it counts as the kind's own.
            own = _divide(chosen.sum(1)).mean() / _divide(dense.sum(0))
            total[:, place] += np.where(below_R > 0, mean_R / np.where(below_R > 0, below_R, 1), own)
    return 100 * total / max(used, 1)


def bootstrap_retention(
    correct_N: np.ndarray, dense_N: np.ndarray, kinds: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95% interval of one checkpoint's retention; both [N] or [N, 2]."""
    return find_interval(resample_retentions([correct_N[None]], dense_N, kinds, seed, resamples)[:, 0])


def _count_drawn(samples: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each sample is in each resample [R, n]."""
    import numpy as np

    drawn = rng.integers(samples, size=(resamples, samples))
    counts = np.zeros((resamples, samples))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
    return counts


def _draw_shares(seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The weight of each seed in each resample [R, S]."""
    return _count_drawn(seeds, resamples, rng) / seeds


def to_array(scored: Points) -> np.ndarray:
    """[N, 2]."""
    import numpy as np

    return np.array(scored.pairs(), dtype=float)


def _with_weights(scored: np.ndarray, axes: int) -> np.ndarray:
    """Points and weights on the last axis; weights are 1 where there are none."""
    import numpy as np

    points = scored.astype(float)
    return points if points.ndim > axes else np.stack([points, np.ones_like(points)], axis=-1)


def _divide(sums: np.ndarray) -> np.ndarray:
    """Points over weights [..., 2] -> [...]; 0 where there is no weight."""
    import numpy as np

    weights = sums[..., 1]
    result: np.ndarray = np.where(weights > 0, sums[..., 0] / np.where(weights > 0, weights, 1), 0.0)
    return result


def find_interval(values_R: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval."""
    import numpy as np

    low, high = np.percentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def find_deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample (divided by n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None
