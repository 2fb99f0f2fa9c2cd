"""Retentions of many checkpoints and the noise in them: a bootstrap that draws the same samples for all of them, so
that differences between them are paired (Efron and Tibshirani 1993, chapter 13).

Shape legend: R resamples, S healing seeds, N samples, n samples of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


def resample_retentions(
    rows: Sequence[np.ndarray], dense_N: np.ndarray, kinds: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """Retention in percent [R, rows]. A row holds 0/1 hits [S, N]. Samples are drawn again within each kind, and seeds
    among those that a row has; kinds on which the dense model scores nothing have no ratio and are left out."""
    import numpy as np

    rng = np.random.default_rng(seed)
    labels = np.asarray(kinds)
    shares = [rng.multinomial(len(hits), [1 / len(hits)] * len(hits), size=resamples) / len(hits) for hits in rows]
    total, used = np.zeros((resamples, len(rows))), 0
    for kind in sorted(set(kinds)):
        members = np.flatnonzero(labels == kind)
        dense = dense_N[members]
        if not dense.any():
            continue
        used += 1
        counts_Rn = rng.multinomial(len(members), [1 / len(members)] * len(members), size=resamples)
        below_R = counts_Rn @ dense / len(members)
        for place, hits in enumerate(rows):
            mean_R = ((counts_Rn @ hits[:, members].T) / len(members) * shares[place]).sum(1)
            # A resample without one dense hit has no ratio; it counts as the kind's own.
            own = hits[:, members].mean() / dense.mean()
            total[:, place] += np.where(below_R > 0, mean_R / np.where(below_R > 0, below_R, 1), own)
    return 100 * total / max(used, 1)


def find_interval(values_R: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval."""
    import numpy as np

    low, high = np.percentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def find_deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample (divided by n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5)
