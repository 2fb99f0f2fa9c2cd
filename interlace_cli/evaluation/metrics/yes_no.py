"""Accuracy and F1 on yes/no questions, such as POPE's (Li et al. 2023, section 4). "Yes" is the positive class.

F1 = 2 TP / (2 TP + FP + FN). As points and weights, with score = sum(points) / sum(weights):

| outcome | points | weight |
|---|---|---|
| true positive | 2 | 2 |
| false positive, false negative | 0 | 1 |
| true negative | 0 | 0 |

Source: lmms-eval 0.7.3's POPE. That one takes "yes" and "no" alone, so that "Yes." is wrong; here the word is looked
for. POPE's own script takes any reply without "no" or "not" as yes, also an empty one; here such a reply is neither,
unless it says that there is something ("There is a dog").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points


def find_yes_no(text: str) -> str | None:
    """`yes` or `no`: the first word if it is one of them, else the one that occurs, else what "there is" and "there is
    not" say; None for neither or both."""
    plain = text.lower().replace("’", "'")
    words = re.findall(r"[a-z']+", plain)
    if words and words[0] in ("yes", "no"):
        return words[0]
    found = {word for word in words if word in ("yes", "no")}
    if found:
        return found.pop() if len(found) == 1 else None
    there = re.search(r"\bthere(?:'s|\s+is|\s+are)(n't|\s+not)?\b", plain)
    return None if there is None else "no" if there[1] else "yes"


def check_yes_no(sample: Sample) -> str | None:
    """Why no answer to the sample could be right; None if one could."""
    right = sample.references[0]
    return None if find_yes_no(right) else f"the right answer {right!r} is neither yes nor no"


def score_yes_no_accuracy(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 or 1 for each answer."""
    pairs = zip(answers, samples, strict=True)
    return Points([find_yes_no(answer) == find_yes_no(sample.references[0]) for answer, sample in pairs])


def score_yes_no_f1(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """Points and weights of F1 for each answer. An answer that is neither yes nor no counts as no."""
    points, weights = [], []
    for answer, sample in zip(answers, samples, strict=True):
        said, right = find_yes_no(answer) == "yes", find_yes_no(sample.references[0]) == "yes"
        points.append(2.0 * (said and right))
        weights.append(2.0 * (said and right) + 1.0 * (said != right))
    return Points(points, weights)
