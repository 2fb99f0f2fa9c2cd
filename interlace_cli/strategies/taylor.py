"""`taylor`: the K layers whose weights matter least to the loss are dropped at once: those with the smallest sum of
|gradient x weight| (Kim et al. 2024, "Shortened LLaMA", arXiv 2402.02834, section 3.2, "Taylor"; after Molchanov et al.
2019, arXiv 1906.10771)."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask


def select_taylor(task: SelectionTask) -> list[Pick]:
    """At most `task.count` picks of one dropped layer each, the smallest sum first; equals in the order of the
    layers."""
    taylor_weight = task.scores.taylor_weight
    free = [layer for layer in range(len(taylor_weight)) if layer not in task.protected]
    free.sort(key=lambda layer: taylor_weight[layer])
    return [
        Pick(rule="taylor_weight", layers=[layer], drop=[layer], tune=[], anchor=[], score=taylor_weight[layer])
        for layer in free[: task.count]
    ]
