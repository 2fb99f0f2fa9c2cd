"""`interlace_oa`, ordered assignment: the triplets of `interlace`, but the first layer is always dropped and the second
tuned (an ablation of the paper, arXiv 2511.19676). As in the paper's released scripts, there are no pairs when triplets
run out, so at high ratios it may drop fewer layers than asked for, which `plan` reports."""

from __future__ import annotations

from interlace_cli.domain.plan import Pick
from interlace_cli.domain.scores import SelectionTask
from interlace_cli.strategies.spans import iter_free_spans


def select_interlace_oa(task: SelectionTask) -> list[Pick]:
    """At most `task.count` triplets; each drops one layer and tunes one."""
    scores, taken, picks = task.scores, set(task.protected), []
    for span in iter_free_spans(scores.s3, 3, scores.num_layers, taken):
        first, second, anchor = span
        score = scores.s3[first]
        picks.append(Pick(rule="triplet", layers=span, drop=[first], tune=[second], anchor=[anchor], score=score))
        if len(picks) == task.count:
            break
    return picks
