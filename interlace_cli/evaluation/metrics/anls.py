"""ANLS, average normalized Levenshtein similarity (Biten et al. 2019, equation 1).

The similarity of two texts is 1 - edit distance / length of the longer one. An answer gets the highest similarity to
any right answer, or 0 if that is below 0.5. Example: "1 colt" for "1 cold" has distance 1 of 6 characters: 0.83.

Source: Qwen-VL's script for DocVQA, as lmms-eval 0.7.3 carries it. That one takes spaces out of the texts that it
compares, and leaves them in the length that it divides by, so that spaces raise a score; here they are out of both.
"""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points

THRESHOLD = 0.5


def compute_anls(prediction: str, answers: Sequence[str]) -> float:
    """ANLS of one prediction, in 0 ... 1. Case and repeated spaces are ignored. `answers` must not be empty."""
    said = _normalize(prediction)
    best = max(_similarity(said, _normalize(answer)) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def score_anls(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """ANLS of each answer, in 0 ... 1."""
    return Points([compute_anls(answer, sample.references) for answer, sample in zip(answers, samples, strict=True)])


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(a: str, b: str) -> float:
    longer = max(len(a), len(b))
    return 1 - _edit_distance(a, b) / longer if longer else 1.0


def _edit_distance(a: str, b: str) -> int:
    """The fewest insertions, deletions and replacements that turn `a` into `b` (Wagner and Fischer 1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
