"""`taylor`: the K layers whose weights matter least to the loss go, all at once: those with the smallest sum of
|gradient x weight| (Kim et al. 2024, "Shortened LLaMA", arXiv 2402.02834, section 3.2, "Taylor"; after Molchanov et al.
2019, arXiv 1906.10771)."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import Task


def select_taylor(task: Task) -> list[Pick]:
    """At most `task.count` picks, each of one drop; equals in the order of the layers."""
    sensitivity = task.scores.sensitivity
    free = [layer for layer in range(len(sensitivity)) if layer not in task.protected]
    free.sort(key=lambda layer: sensitivity[layer])
    return [
        Pick(rule="sensitivity", layers=[layer], drop=[layer], tune=[], anchor=[], score=sensitivity[layer])
        for layer in free[: task.count]
    ]
