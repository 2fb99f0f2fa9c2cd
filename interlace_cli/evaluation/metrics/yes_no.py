"""Yes/no questions, such as POPE's: accuracy, and F1 with yes as the positive class (Li et al. 2023, section 4).

F1 = 2 TP / (2 TP + FP + FN), so each sample's points are 2 for a true positive, and its weight what it adds to the
denominator. A right answer of no weighs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points


def find_yes_no(text: str) -> str | None:
    """`yes` or `no`, whichever word the text has; None for neither or both, unless it begins with one."""
    words = re.findall(r"[a-z']+", text.lower())
    if words and words[0] in ("yes", "no"):
        return words[0]
    found = {word for word in words if word in ("yes", "no")}
    return found.pop() if len(found) == 1 else None


def score_yes_no_accuracy(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 or 1 for each."""
    pairs = zip(answers, samples, strict=True)
    return Points([find_yes_no(answer) == find_yes_no(sample.references[0]) for answer, sample in pairs])


def score_yes_no_f1(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """What each adds to F1; an answer that is neither counts as no, which it does not find."""
    points, weights = [], []
    for answer, sample in zip(answers, samples, strict=True):
        said, right = find_yes_no(answer) == "yes", find_yes_no(sample.references[0]) == "yes"
        points.append(2.0 * (said and right))
        weights.append(2.0 * (said and right) + 1.0 * (said != right))
    return Points(points, weights)
