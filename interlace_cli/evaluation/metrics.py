"""Scores from answers. Pure.

A sample's `kind` plays the part of a task: `score` is the macro mean over kinds, `retention` the mean over kinds of
the ratio to the dense model's score, in percent (method.md, "Words").
"""

from __future__ import annotations

from collections.abc import Sequence


def normalize_answer(text: str) -> str:
    """Lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".")


def is_exact_match(prediction: str, answer: str) -> bool:
    """Whether the two are the same answer once normalized."""
    return normalize_answer(prediction) == normalize_answer(answer)


def score_kinds(correct: Sequence[bool], kinds: Sequence[str]) -> dict[str, float]:
    """Share of correct answers of each kind, kinds in alphabetical order."""
    result = {}
    for kind in sorted(set(kinds)):
        hits = [hit for hit, k in zip(correct, kinds, strict=True) if k == kind]
        result[kind] = sum(hits) / len(hits)
    return result


def score_macro(by_kind: dict[str, float]) -> float:
    """Mean over kinds."""
    return sum(by_kind.values()) / len(by_kind)


def score_retention(by_kind: dict[str, float], dense: dict[str, float]) -> float | None:
    """Percent of the dense score kept: the mean of the ratios over kinds that the dense model scores on at all; None if
    there is no such kind."""
    ratios = [by_kind[kind] / value for kind, value in dense.items() if value > 0]
    return 100 * sum(ratios) / len(ratios) if ratios else None
