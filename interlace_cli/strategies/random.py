"""`random`: K random layers are dropped and K of the rest tuned, drawn from a seed (a baseline of the paper, arXiv
2511.19676). Layers without an S_1 are never dropped (by default the last one, as in the released scripts)."""

from __future__ import annotations

import random

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask


def select_random(task: SelectionTask) -> list[Pick]:
    """One pick for each dropped layer, at most `task.count`, and as many as there are layers left to tune. Dropped and
    tuned layers are paired in ascending order."""
    rng = random.Random(task.seed)
    free = [layer for layer in range(task.scores.num_layers) if layer not in task.protected]
    scored = [layer for layer in free if layer < len(task.scores.s1)]
    count = min(task.count, len(scored), len(free) // 2)
    dropped = sorted(rng.sample(scored, count))
    tuned = sorted(rng.sample([layer for layer in free if layer not in dropped], count))
    return [
        Pick(rule="random", layers=sorted((drop, tune)), drop=[drop], tune=[tune], anchor=[], score=None)
        for drop, tune in zip(dropped, tuned, strict=True)
    ]
