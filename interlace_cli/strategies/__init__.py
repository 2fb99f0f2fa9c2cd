"""Ways of choosing: scores -> picks. Pure functions, one file each, found by name in `STRATEGIES`.

A strategy may return fewer drops than `task.count`, when no span is left; it never returns more. Its caller decides
what to make of that. Those in `DROP_ONLY` say what goes and no more; `tuning.assign_tuned` does the rest.
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
NEEDS = {"sleb": "loss", "taylor": "taylor"}
"""The importance that a strategy chooses by, beside similarity: what `analyze --importance` calls it."""
