"""`interlace_oa`, ordered assignment: the triplets of `interlace`, but always the first layer goes and the second is
tuned (the paper's ablation; method.md, "The five strategies", 2). The release has no pair fallback here; neither has
this, so at high ratios it may fall short, which `plan` reports."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask
from interlace_cli.strategies.spans import iter_free_spans


def select_interlace_oa(task: SelectionTask) -> list[Pick]:
    """At most `task.count` picks, each of one drop."""
    scores, taken, picks = task.scores, set(task.protected), []
    for span in iter_free_spans(scores.s3, 3, scores.num_layers, taken):
        first, second, anchor = span
        score = scores.s3[first]
        picks.append(Pick(rule="triplet", layers=span, drop=[first], tune=[second], anchor=[anchor], score=score))
        if len(picks) == task.count:
            break
    return picks
