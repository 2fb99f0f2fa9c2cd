"""Two ways to do the same, timed in turns: a machine that drifts, or is shared, touches both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from interlace_cli.domain.benchmark import Case, Spread

OURS, BASELINE = "ours", "baseline"


def time_interleaved(
    ways: Mapping[str, Callable[[], object]], repeats: int, advance: Callable[[], None], warm_ups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way, `repeats` of them after the warm-ups; who goes first changes from turn to turn."""
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
    """Median, least and most."""
    return Spread(median=statistics.median(seconds), low=min(seconds), high=max(seconds), repeats=len(seconds))


def build_case(
    name: str,
    against: str,
    seconds: Mapping[str, Sequence[float]],
    goal: float | None,
    is_speedup: bool,
    **more: object,
) -> Case:
    """`is_speedup`: the ratio is how many times as fast ours is, and the goal is to be reached; else how many times as
    long it takes, and the goal is not to be passed. The ratio is the median of those of neighbours in time."""
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
