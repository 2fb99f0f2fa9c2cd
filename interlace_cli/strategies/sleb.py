"""`sleb`: the layer whose drop increases the calibration loss least is dropped, then the next one, measured again after
each drop (Song et al. 2024, "SLEB", arXiv 2402.09025, algorithm 1). The search needs the model and is done in
`importance/loss.py`; `scores.path` is the order that it found."""

from __future__ import annotations

from itertools import takewhile

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask


def select_sleb(task: SelectionTask) -> list[Pick]:
    """The first `task.count` layers of the search, one pick each. It ends before a protected layer, since the layers
    after that one were found without it."""
    path = takewhile(lambda layer: layer not in task.protected, task.scores.path)
    return [Pick(rule="loss", layers=[layer], drop=[layer], tune=[], anchor=[], score=None) for layer in path][
        : task.count
    ]
