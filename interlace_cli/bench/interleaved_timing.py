"""Times two ways to do the same in alternation, so that a machine that slows down or is shared slows both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from interlace_cli.domain.benchmark import Case, Spread

OURS, BASELINE = "ours", "baseline"


def time_interleaved(
    ways: Mapping[str, Callable[[], object]], repeats: int, advance: Callable[[], None], warm_ups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way, `repeats` each; `warm_ups` rounds before that are not counted.

    In each round every way runs once. The order is reversed from round to round. `advance` is called after each run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_ups + repeats):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            ways[name]()
            taken = time.perf_counter() - began
            if turn >= warm_ups:
                seconds[name].append(taken)
            advance()
    return seconds


def build_spread(seconds: Sequence[float]) -> Spread:
    """Median, minimum and maximum of the seconds."""
    return Spread(median=statistics.median(seconds), low=min(seconds), high=max(seconds), repeats=len(seconds))


def build_case(
    name: str,
    against: str,
    seconds: Mapping[str, Sequence[float]],
    goal: float | None,
    is_speedup: bool,
    **more: object,
) -> Case:
    """The case of `seconds[OURS]` against `seconds[BASELINE]`, which were timed in alternation.

    With `is_speedup` the ratio is baseline / ours (times as fast), and the goal is reached if ratio >= goal. Otherwise
    it is ours / baseline (times as long), and the goal is reached if ratio <= goal. The ratio is the median over rounds
    of the ratio within a round. `more` are further fields of `Case`.
    """
    pairs = list(zip(seconds[OURS], seconds[BASELINE], strict=True))
    ratios = sorted(b / a if is_speedup else a / b for a, b in pairs)
    ratio = statistics.median(ratios)
    is_reached = None if goal is None else (ratio >= goal if is_speedup else ratio <= goal)
    fields = {
        "name": name,
        "against": against,
        "ours": build_spread(seconds[OURS]),
        "baseline": build_spread(seconds[BASELINE]),
        "ratio": ratio,
        "ratio_range": (ratios[0], ratios[-1]),
        "is_speedup": is_speedup,
        "goal": goal,
        "is_reached": is_reached,
        **more,
    }
    return Case.model_validate(fields)
