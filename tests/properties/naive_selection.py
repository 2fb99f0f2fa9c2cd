"""The paper's strategies a second time, from its words alone: one choice at a time, each time over all that is free.

A choice is `(dropped, tuned, anchors)`, three lists of layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.scores import SelectionTask

Choice = tuple[list[int], list[int], list[int]]
Numbers = Sequence[float]


def best_free(scores: Numbers, width: int, layers: int, used: set[int]) -> int | None:
    """The start of the best span that fits and holds no used layer; the first of equals."""
    best = None
    for start in range(len(scores)):
        fits = start + width <= layers and all(start + step not in used for step in range(width))
        if fits and (best is None or scores[start] > scores[best]):
            best = start
    return best


def naive_interlace(
    s1: Numbers, s2: Numbers, s3: Numbers, layers: int, count: int, protected: set[int]
) -> list[Choice]:
    chosen: list[Choice] = []
    while len(chosen) < count:
        used = protected.union(*(drop + tune + anchor for drop, tune, anchor in chosen))
        triplet = best_free(s3, 3, layers, used)
        start = best_free(s2, 2, layers, used) if triplet is None else triplet
        if start is None:
            break
        first, second = [start], [start + 1]
        drop, tune = (second, first) if s1[start + 1] > s1[start] else (first, second)
        chosen.append((drop, tune, [] if triplet is None else [start + 2]))
    return chosen


def naive_ordered(s1: Numbers, s2: Numbers, s3: Numbers, layers: int, count: int, protected: set[int]) -> list[Choice]:
    chosen: list[Choice] = []
    used = set(protected)
    while len(chosen) < count and (start := best_free(s3, 3, layers, used)) is not None:
        used |= {start, start + 1, start + 2}
        chosen.append(([start], [start + 1], [start + 2]))
    return chosen


def naive_train_next(
    s1: Numbers, s2: Numbers, s3: Numbers, layers: int, count: int, protected: set[int]
) -> list[Choice]:
    used = set(protected)
    chosen: list[Choice] = []
    for _, layer in sorted((-score, layer) for layer, score in enumerate(s1)):
        if len(chosen) < count and layer + 1 < layers and not used & {layer, layer + 1}:
            used |= {layer, layer + 1}
            chosen.append(([layer], [layer + 1], []))
    return chosen


def naive_consecutive(
    s1: Numbers, s2: Numbers, s3: Numbers, layers: int, count: int, protected: set[int]
) -> list[Choice]:
    """The dropped block and the tuned block; shorter ones are tried when none of `count` layers fits."""
    while count > 0:
        options = []
        for start in range(layers - 2 * count + 1):
            drop, tune = [list(range(begin, begin + count)) for begin in (start, start + count)]
            if drop[-1] < len(s1) and not protected.intersection(drop + tune):
                options.append((-sum(s1[layer] for layer in drop), drop, tune))
        if options:
            _, drop, tune = min(options)
            return [(drop, tune, [])]
        count -= 1
    return []


NAIVE = {
    "interlace": naive_interlace,
    "interlace_oa": naive_ordered,
    "interlace_tn": naive_train_next,
    "consecutive": naive_consecutive,
}


def naive_influence(task: SelectionTask) -> list[int]:
    """Block influence 1 - S_1, the smallest first."""
    layers = [layer for layer in range(len(task.scores.s1)) if layer not in task.protected]
    return sorted(layers, key=lambda layer: (-task.scores.s1[layer], layer))[: task.count]


def naive_angle(task: SelectionTask) -> list[int]:
    for width in range(min(task.count, len(task.scores.angular)), 0, -1):
        best: tuple[float, list[int]] | None = None
        for start, distance in enumerate(task.scores.angular[width - 1]):
            block = list(range(start, start + width))
            if not any(layer in task.protected for layer in block) and (best is None or distance < best[0]):
                best = (distance, block)
        if best is not None:
            return best[1]
    return []


def naive_search(task: SelectionTask) -> list[int]:
    drops: list[int] = []
    for layer in task.scores.path:
        if layer in task.protected or len(drops) == task.count:
            break
        drops.append(layer)
    return drops


def naive_taylor(task: SelectionTask) -> list[int]:
    drops: list[int] = []
    while len(drops) < task.count:
        left = [i for i in range(len(task.scores.taylor_weight)) if i not in task.protected and i not in drops]
        if not left:
            break
        drops.append(min(left, key=lambda i: (task.scores.taylor_weight[i], i)))
    return drops


NAIVE_DROPS = {
    "shortgpt": naive_influence,
    "angular": naive_angle,
    "sleb": naive_search,
    "taylor": naive_taylor,
}
"""`random` has no second implementation, as any draw is right that keeps the rules: `most_random_drops`."""


def most_random_drops(s1: Numbers, layers: int, count: int, protected: set[int]) -> int:
    """How many layers `random` must drop: as many as wanted, scored, and left with another one to tune for each."""
    free = [layer for layer in range(layers) if layer not in protected]
    while count > len([layer for layer in free if layer < len(s1)]) or 2 * count > len(free):
        count -= 1
    return count
