"""ANLS, average normalized Levenshtein similarity (Biten et al. 2019, equation 1): 1 minus the edit distance over the
longer length, the best of the right answers; 0 where that is below one half.
"""

from __future__ import annotations

from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points

THRESHOLD = 0.5


def compute_anls(prediction: str, answers: Sequence[str]) -> float:
    """0 ... 1; case and runs of spaces do not matter."""
    said = _normalize(prediction)
    best = max(_similarity(said, _normalize(answer)) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def score_anls(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 ... 1 for each."""
    return Points([compute_anls(answer, sample.references) for answer, sample in zip(answers, samples, strict=True)])


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(a: str, b: str) -> float:
    longer = max(len(a), len(b))
    return 1 - _edit_distance(a, b) / longer if longer else 1.0


def _edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements that turn `a` into `b` (Wagner and Fischer 1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
