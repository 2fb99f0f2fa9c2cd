"""Ways of choosing: scores -> picks. Pure functions, one file each, found by name in `STRATEGIES`.

A strategy may return fewer drops than `task.count`, when no span is left; it never returns more. Its caller decides
what to make of that.
"""

from __future__ import annotations

from collections.abc import Callable

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import Task
from interlace_cli.strategies.consecutive import select_consecutive
from interlace_cli.strategies.interlace import select_interlace
from interlace_cli.strategies.interlace_oa import select_interlace_oa
from interlace_cli.strategies.interlace_tn import select_interlace_tn
from interlace_cli.strategies.random import select_random

Strategy = Callable[[Task], list[Pick]]

STRATEGIES: dict[str, Strategy] = {
    "interlace": select_interlace,
    "interlace_oa": select_interlace_oa,
    "interlace_tn": select_interlace_tn,
    "random": select_random,
    "consecutive": select_consecutive,
}
