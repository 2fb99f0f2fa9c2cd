"""Exact match: 1 if the answer equals a right answer; case, spacing and full stops at the end are ignored.

Source: the open answers of RealWorldQA, as lmms-eval 0.7.3 scores them. Here spaces inside are ignored too, and full
stops at the end of a right answer; there "red ." is not "red".
"""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points


def normalize_answer(text: str) -> str:
    """Lower case, single spaces, no full stop at the end. Example: " Red  circle." -> "red circle"."""
    plain = " ".join(text.lower().split())
    return plain.rstrip(" .") or plain


def is_exact_match(prediction: str, answer: str) -> bool:
    """Whether the two are the same answer once normalized."""
    return normalize_answer(prediction) == normalize_answer(answer)


def score_exact_match(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 or 1 for each answer."""
    pairs = zip(answers, samples, strict=True)
    return Points([any(is_exact_match(answer, right) for right in sample.references) for answer, sample in pairs])
