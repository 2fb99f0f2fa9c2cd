"""`interlace`, the paper's strategy (arXiv 2511.19676, section 3; method.md, "The five strategies", 1).

Triplets by S_3, the most redundant first, without overlap; in each the first or the second layer goes, whichever has
the higher S_1, the other is tuned, the third is the frozen anchor. When triplets run out: pairs by S_2 among layers
not taken yet, by the same rule, without an anchor.

Beyond the paper: `SelectionTask.rank` puts the loss increase of the drop in the place of the similarities, measured
or estimated to first order; `SelectionTask.assign` `optimal` (`strategies/optimal.py`) takes the best set of spans
instead of the best span each time; `SelectionTask.pair_bar` keeps pairs out that carry the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import Assign, Rank, SelectionTask
from interlace_cli.strategies.optimal import Option, find_best_set
from interlace_cli.strategies.spans import iter_free_spans

TRIPLET, PAIR = "triplet", "pair"


def select_interlace(task: SelectionTask) -> list[Pick]:
    """At most `task.count` picks, each of one drop."""
    if task.assign is Assign.OPTIMAL:
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
    """The default of `pair_bar`: the lowest S_3 of the triplets that are taken before any pair. A pair is to be at
    least as redundant as they are. None if there is no triplet at all."""
    greedy = replace(task, assign=Assign.GREEDY, pair_bar=float("inf"))
    return min((task.scores.s3[pick.layers[0]] for pick in select_interlace(greedy)), default=None)


def rate_spans(task: SelectionTask, length: int) -> Sequence[float]:
    """How redundant each span of 3 or 2 layers is: by similarity, or minus the loss increase of its drop."""
    scores = task.scores
    similarity = scores.s3 if length == 3 else scores.s2
    if task.rank is Rank.SIMILARITY:
        return similarity
    loss_increase = _get_loss_increase(task)
    return [-min(loss_increase[i], loss_increase[i + 1]) for i in range(min(len(loss_increase) - 1, len(similarity)))]


def more_redundant_first(first: int, second: int, task: SelectionTask) -> tuple[int, int]:
    """The two layers, in front the one with the higher S_1, or that does the lesser loss_increase; a tie leaves them in
    order."""
    if task.rank is Rank.SIMILARITY:
        s1 = task.scores.s1
        return (second, first) if s1[second] > s1[first] else (first, second)
    loss_increase = _get_loss_increase(task)
    return (second, first) if loss_increase[second] < loss_increase[first] else (first, second)


def _get_loss_increase(task: SelectionTask) -> Sequence[float]:
    return task.scores.loss_increase if task.rank is Rank.LOSS else task.scores.taylor_activation


def _passes(task: SelectionTask, span: list[int]) -> bool:
    return len(span) == 3 or task.pair_bar is None or task.scores.s2[span[0]] >= task.pair_bar


def _build_pick(task: SelectionTask, rule: str, span: list[int], value: float) -> Pick:
    drop, tune = more_redundant_first(span[0], span[1], task)
    return Pick(rule=rule, layers=span, drop=[drop], tune=[tune], anchor=span[2:], score=value)


def _select_optimal(task: SelectionTask) -> list[Pick]:
    """Triplets alone if that many fit; else triplets and pairs, all of them above the bar, so that no poor triplet is
    taken for the sake of one pair less."""
    chosen = find_best_set(_list_options(task, [3], None), task.count, task.scores.num_layers)
    if len(chosen) < task.count:
        chosen = find_best_set(_list_options(task, [3, 2], task.pair_bar), task.count, task.scores.num_layers)
    chosen.sort(key=lambda option: (-option.length, -option.value, option.start))
    return [
        _build_pick(task, TRIPLET if o.length == 3 else PAIR, list(range(o.start, o.start + o.length)), o.value)
        for o in chosen
    ]


def _list_options(task: SelectionTask, lengths: Sequence[int], bar: float | None) -> list[Option]:
    scores, options = task.scores, []
    for length in lengths:
        similarity = scores.s3 if length == 3 else scores.s2
        for start, value in enumerate(rate_spans(task, length)):
            span = range(start, start + length)
            is_free = span[-1] < scores.num_layers and task.protected.isdisjoint(span)
            if is_free and (bar is None or similarity[start] >= bar):
                options.append(Option(start, length, value))
    return options
