"""`interlace`, the paper's strategy (arXiv 2511.19676, section 3; method.md, "The five strategies", 1).

Triplets by S_3, the most redundant first, without overlap; in each the first or the second layer goes, whichever has
the higher S_1, the other is tuned, the third is the frozen anchor. When triplets run out: pairs by S_2 among layers
not taken yet, by the same rule, without an anchor.
"""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import Scores, Task
from interlace_cli.strategies.spans import iter_free_spans


def select_interlace(task: Task) -> list[Pick]:
    """At most `task.count` picks, each of one drop."""
    scores, taken = task.scores, set(task.protected)
    picks: list[Pick] = []
    for rule, similarity, length in (("triplet", scores.s3, 3), ("pair", scores.s2, 2)):
        if len(picks) == task.count:
            break
        for span in iter_free_spans(similarity, length, scores.num_layers, taken):
            drop, tune = more_redundant_first(span[0], span[1], scores)
            score = similarity[span[0]]
            picks.append(Pick(rule=rule, layers=span, drop=[drop], tune=[tune], anchor=span[2:], score=score))
            if len(picks) == task.count:
                break
    return picks


def more_redundant_first(first: int, second: int, scores: Scores) -> tuple[int, int]:
    """The two layers, the one with the higher S_1 in front; a tie leaves them in order."""
    return (second, first) if scores.s1[second] > scores.s1[first] else (first, second)
