"""`random`: K random layers go, K of the rest are tuned, from a seed (the paper's baseline; method.md, "The five
strategies", 4). Layers without an S_1 (the last one, as the release scores) are never dropped."""

from __future__ import annotations

import random

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask


def select_random(task: SelectionTask) -> list[Pick]:
    """One pick for each drop, which pairs the drawn layers in order. As many as can each have a tuned layer."""
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
