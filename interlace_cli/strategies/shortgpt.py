"""`shortgpt`: the K layers with the lowest block influence are dropped at once (Men et al. 2024, "ShortGPT", arXiv
2403.03853, section 3: BI_i = 1 - E[cos(x_i, x_{i+1})], which is 1 - S_1; 0 ... 2)."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask
from interlace_cli.strategies.spans import rank_spans


def select_shortgpt(task: SelectionTask) -> list[Pick]:
    """At most `task.count` picks of one dropped layer each, the least influential first; none has a tuned layer."""
    s1 = task.scores.s1
    free = [layer for layer in rank_spans(s1) if layer not in task.protected]
    return [
        Pick(rule="influence", layers=[layer], drop=[layer], tune=[], anchor=[], score=1 - s1[layer])
        for layer in free[: task.count]
    ]
