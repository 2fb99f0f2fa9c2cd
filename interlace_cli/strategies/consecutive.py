"""`consecutive`: one block of K layers is dropped, and the K layers after it are tuned (a baseline of the paper, arXiv
2511.19676). The paper's released scripts do not say which block. Ours is the one with the highest mean S_1, the first
of equals, among those whose tuned layers still lie inside the model; the released scripts can run past its end."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask


def select_consecutive(task: SelectionTask) -> list[Pick]:
    """One pick: the largest block of at most `task.count` dropped layers that fits. Empty if none does."""
    scores = task.scores
    for count in range(task.count, 0, -1):
        starts = [
            start
            for start in range(scores.num_layers - 2 * count + 1)
            if start + count <= len(scores.s1) and task.protected.isdisjoint(range(start, start + 2 * count))
        ]
        if starts:
            best = max(starts, key=lambda start: (sum(scores.s1[start : start + count]), -start))
            span = list(range(best, best + 2 * count))
            score = sum(scores.s1[best : best + count]) / count
            return [Pick(rule="block", layers=span, drop=span[:count], tune=span[count:], anchor=[], score=score)]
    return []
