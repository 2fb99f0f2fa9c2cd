"""Strategies: which layers are dropped and which are tuned, chosen from scores. Pure functions, one file each.

To add a strategy, write a file and add its function to `STRATEGIES`. Change `tuning.py` for which layers are tuned,
`weighting.py` for how an analysis becomes scores, `reasons.py` for what the plan says of each layer.

A strategy may return fewer drops than `task.count` if no span is left, and never more; its caller handles that.
Strategies in `DROP_ONLY` choose only the dropped layers; `tuning.assign_tuned` then chooses the tuned ones.
"""

from __future__ import annotations

from collections.abc import Callable

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask
from interlace_cli.strategies.angular import select_angular
from interlace_cli.strategies.consecutive import select_consecutive
from interlace_cli.strategies.interlace import select_interlace
from interlace_cli.strategies.interlace_oa import select_interlace_oa
from interlace_cli.strategies.interlace_tn import select_interlace_tn
from interlace_cli.strategies.random import select_random
from interlace_cli.strategies.shortgpt import select_shortgpt
from interlace_cli.strategies.sleb import select_sleb
from interlace_cli.strategies.taylor import select_taylor

Strategy = Callable[[SelectionTask], list[Pick]]
"""Scores and limits -> picks, at most `task.count` dropped layers in all."""

STRATEGIES: dict[str, Strategy] = {
    "interlace": select_interlace,
    "interlace_oa": select_interlace_oa,
    "interlace_tn": select_interlace_tn,
    "random": select_random,
    "consecutive": select_consecutive,
    "shortgpt": select_shortgpt,
    "angular": select_angular,
    "sleb": select_sleb,
    "taylor": select_taylor,
}
DROP_ONLY = frozenset({"shortgpt", "angular", "sleb", "taylor"})
"""Strategies whose picks have no tuned layers."""
NEEDS = {"sleb": "loss", "taylor": "taylor"}
"""Strategy -> the importance that it needs beside similarity, by the name that `analyze --importance` takes."""
