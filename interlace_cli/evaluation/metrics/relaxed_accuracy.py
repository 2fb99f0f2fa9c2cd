"""Relaxed accuracy: a number may be off by 5%; any other answer must be the same text, ignoring case.

From PlotQA (Methani et al. 2020) and ChartQA (Masry et al. 2022, end of section 5.1). "12%" is read as 0.12. If the
right answer is 0, 5% of it is 0 too, so the text must be the same. "1,000" is no number.

Source: Qwen-VL's `relaxed_correctness`, as lmms-eval 0.7.3 carries it. Here spaces around an answer and a full stop at
its end are ignored; there "red." is not "red". "nan" and "inf" are words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points

TOLERANCE = 0.05


def is_relaxed_match(prediction: str, answer: str) -> bool:
    """Whether the prediction is within 5% of the answer, or the same text."""
    said, right = _to_number(prediction), _to_number(answer)
    if said is not None and right:
        return abs(said - right) / abs(right) <= TOLERANCE
    return prediction.lower() == answer.lower()


def score_relaxed_accuracy(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 or 1 for each answer. A full stop at the end of an answer is ignored."""
    points = []
    for answer, sample in zip(answers, samples, strict=True):
        said = answer.strip().rstrip(" .")
        points.append(any(is_relaxed_match(said, right.strip()) for right in sample.references))
    return Points(points)


def _to_number(text: str) -> float | None:
    try:
        number = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
