"""`interlace`, the paper's strategy (arXiv 2511.19676, section 3).

Triplets are sorted by S_3, the most redundant first. A triplet is taken if none of its layers is taken yet, until K
layers are dropped. Of its first two layers, the one with the higher S_1 is dropped (the first of equals) and the other
is tuned; the third is the frozen anchor. If triplets run out, pairs are taken by S_2 among the layers left, by the same
rule, without an anchor.

Beyond the paper, three fields of `SelectionTask`: `criterion` ranks by the loss increase of the drop, measured or
estimated to first order, instead of by similarity; `search` "optimal" takes the best set of spans
(`strategies/optimal.py`) instead of the best span each time; `pair_bar` excludes pairs that are less redundant than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask
from interlace_cli.strategies.optimal import Candidate, find_best_set
from interlace_cli.strategies.spans import iter_free_spans

TRIPLET, PAIR = "triplet", "pair"


def select_interlace(task: SelectionTask) -> list[Pick]:
    """At most `task.count` picks, triplets and then pairs; each drops one layer and tunes one."""
    if task.search == "optimal":
        return _select_optimal(task)
    taken = set(task.protected)
    picks: list[Pick] = []
    for rule, length in ((TRIPLET, 3), (PAIR, 2)):
        if len(picks) == task.count:
            break
        values = rate_spans(task, length)
        for span in iter_free_spans(values, length, task.scores.num_layers, taken, lambda s: _passes(task, s)):
            picks.append(_build_pick(task, rule, span, values[span[0]]))
            if len(picks) == task.count:
                break
    return picks


def find_pair_bar(task: SelectionTask) -> float | None:
    """The default of `pair_bar`: the lowest S_3 of the triplets that are taken before any pair, so that a pair is at
    least as redundant as they are. None if no triplet is taken."""
    greedy = replace(task, search="greedy", pair_bar=float("inf"))
    return min((task.scores.s3[pick.layers[0]] for pick in select_interlace(greedy)), default=None)


def rate_spans(task: SelectionTask, length: int) -> Sequence[float]:
    """How redundant the span of `length` (3 or 2) layers at each start is; higher = drop sooner. S_3 or S_2, or minus
    the loss increase of its better drop, by `task.criterion`."""
    scores = task.scores
    similarity = scores.s3 if length == 3 else scores.s2
    if task.criterion == "similarity":
        return similarity
    loss_increase = _get_loss_increase(task)
    return [-min(loss_increase[i], loss_increase[i + 1]) for i in range(min(len(loss_increase) - 1, len(similarity)))]


def more_redundant_first(first: int, second: int, task: SelectionTask) -> tuple[int, int]:
    """The two layers, the one to drop first: that with the higher S_1, or with the smaller loss increase, by
    `task.criterion`. A tie leaves them in order."""
    if task.criterion == "similarity":
        s1 = task.scores.s1
        return (second, first) if s1[second] > s1[first] else (first, second)
    loss_increase = _get_loss_increase(task)
    return (second, first) if loss_increase[second] < loss_increase[first] else (first, second)


def _get_loss_increase(task: SelectionTask) -> Sequence[float]:
    return task.scores.loss_increase if task.criterion == "loss" else task.scores.taylor_activation


def _passes(task: SelectionTask, span: list[int]) -> bool:
    return len(span) == 3 or task.pair_bar is None or task.scores.s2[span[0]] >= task.pair_bar


def _build_pick(task: SelectionTask, rule: str, span: list[int], value: float) -> Pick:
    drop, tune = more_redundant_first(span[0], span[1], task)
    return Pick(rule=rule, layers=span, drop=[drop], tune=[tune], anchor=span[2:], score=value)


def _select_optimal(task: SelectionTask) -> list[Pick]:
    """Triplets alone if `task.count` of them fit; else triplets and pairs. Then both have to reach `pair_bar`, so that
    no poor triplet is taken only to save a pair."""
    chosen = find_best_set(_list_candidates(task, [3], None), task.count, task.scores.num_layers)
    if len(chosen) < task.count:
        chosen = find_best_set(_list_candidates(task, [3, 2], task.pair_bar), task.count, task.scores.num_layers)
    chosen.sort(key=lambda span: (-span.length, -span.value, span.start))
    return [
        _build_pick(task, TRIPLET if c.length == 3 else PAIR, list(range(c.start, c.start + c.length)), c.value)
        for c in chosen
    ]


def _list_candidates(task: SelectionTask, lengths: Sequence[int], bar: float | None) -> list[Candidate]:
    scores, candidates = task.scores, []
    for length in lengths:
        similarity = scores.s3 if length == 3 else scores.s2
        for start, value in enumerate(rate_spans(task, length)):
            span = range(start, start + length)
            is_free = span[-1] < scores.num_layers and task.protected.isdisjoint(span)
            if is_free and (bar is None or similarity[start] >= bar):
                candidates.append(Candidate(start, length, value))
    return candidates
