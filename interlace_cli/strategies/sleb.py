"""`sleb`: the layer whose removal hurts the calibration loss least goes, and again, measured anew after each drop (Song
et al. 2024, "SLEB", arXiv 2402.09025, algorithm 1). The search itself needs the model: `importance/loss.py` made it,
and `scores.path` is the order that it found."""

from __future__ import annotations

from itertools import takewhile

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask


def select_sleb(task: SelectionTask) -> list[Pick]:
    """The first `task.count` layers of the search. It ends at a protected layer, since what comes behind that one was
    found without it."""
    path = takewhile(lambda layer: layer not in task.protected, task.scores.path)
    return [Pick(rule="loss", layers=[layer], drop=[layer], tune=[], anchor=[], score=None) for layer in path][
        : task.count
    ]
