"""Multiple choice: 1 if the answer is the letter or the text of the right choice.

The letter is searched for as in MMMU's script (`parse_multi_choice_response`): alone, at the beginning, after "answer
is", in brackets, at the end. Without a letter, the text of a choice is searched for. An answer that names no choice is
wrong; MMMU's script guesses a letter then, this one does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.metrics.exact_match import normalize_answer


def find_choice(text: str, choices: Sequence[str]) -> int | None:
    """The 0-based index of the choice that `text` names; None if it names no choice, or several.

    Example: with the choices ["cat", "dog"], "B", "(b)", "The answer is B." and "a dog" all give 1.
    """
    letters = "".join(chr(65 + index) for index in range(len(choices)))
    if not letters:
        return None
    one = f"[{letters}]"
    for pattern in (
        rf"^\s*\(?({one})\)?[.:,)]?\s*$",
        rf"^\s*\(?({one})[).:](?:\s|$)",
        rf"(?i:answer(?:\s+is)?)\s*:?\s*\(?({one})\b",
        rf"\(({one})\)",
        rf"(?:^|\s)({one})[).:](?:\s|$)",
        rf"(?:^|\s)({one})\.?\s*$",
    ):
        found = set(re.findall(pattern, text.strip()))
        if len(found) == 1:
            return letters.index(found.pop())
    if re.fullmatch(rf"\(?{one.lower()}\)?\.?", text.strip()):
        return letters.index(text.strip().strip("().").upper())
    said = normalize_answer(text)
    alike = [index for index, choice in enumerate(choices) if normalize_answer(choice) == said]
    inside = alike or [index for index, choice in enumerate(choices) if _is_inside(normalize_answer(choice), said)]
    return inside[0] if len(inside) == 1 else None


def score_multiple_choice(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 or 1 for each answer. The right choice is the one that the sample's own answer names."""
    points = []
    for answer, sample in zip(answers, samples, strict=True):
        right = {find_choice(text, sample.choices) for text in sample.references} - {None}
        points.append(float(find_choice(answer, sample.choices) in right))
    return Points(points)


def _is_inside(choice: str, said: str) -> bool:
    """Whether `choice` occurs in `said` as whole words."""
    return bool(choice) and re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", said) is not None
