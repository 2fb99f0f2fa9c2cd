"""`interlace_tn`, train next: layers sorted by S_1, the most redundant first; layer i is dropped and i+1 tuned, if
neither is taken yet (an ablation of the paper, arXiv 2511.19676)."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask
from interlace_cli.strategies.spans import iter_free_spans


def select_interlace_tn(task: SelectionTask) -> list[Pick]:
    """At most `task.count` picks of two layers: the first is dropped, the next tuned."""
    scores, taken, picks = task.scores, set(task.protected), []
    for span in iter_free_spans(scores.s1, 2, scores.num_layers, taken):
        dropped, tuned = span
        picks.append(Pick(rule="next", layers=span, drop=[dropped], tune=[tuned], anchor=[], score=scores.s1[dropped]))
        if len(picks) == task.count:
            break
    return picks
