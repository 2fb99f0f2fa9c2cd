"""`angular`: one block of K layers is dropped, the one across which the last token's hidden state turns least (Gromov
et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887, section 3.1: the start l that
minimizes d(x_l, x_{l+K}) = arccos(cos(x_l, x_{l+K})) / pi, in 0 ... 1)."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask


def select_angular(task: SelectionTask) -> list[Pick]:
    """One pick: the largest block of at most `task.count` unprotected layers, of these the one with the smallest
    distance, the first of equals. Empty if no block fits."""
    for count in range(min(task.count, len(task.scores.angular)), 0, -1):
        distances = task.scores.angular[count - 1]
        starts = [start for start in range(len(distances)) if task.protected.isdisjoint(range(start, start + count))]
        if starts:
            best = min(starts, key=lambda start: distances[start])
            block = list(range(best, best + count))
            return [Pick(rule="angle", layers=block, drop=block, tune=[], anchor=[], score=distances[best])]
    return []
