"""Multiple choice: 1 if the answer is the right letter, or the right choice in words.

The letter is looked for as the benchmarks' own scripts do (MMMU's, `parse_multi_choice_response`): alone or at the
beginning, in brackets, after "answer is", at the end; then the text of a choice. An answer that names none is wrong: no
letter is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.metrics.exact_match import normalize_answer


def find_choice(text: str, choices: Sequence[str]) -> int | None:
    """The place of the choice that `text` names; None if it names none, or several."""
    letters = "".join(chr(65 + place) for place in range(len(choices)))
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
    alike = [place for place, choice in enumerate(choices) if normalize_answer(choice) == said]
    inside = alike or [place for place, choice in enumerate(choices) if _is_inside(normalize_answer(choice), said)]
    return inside[0] if len(inside) == 1 else None


def score_multiple_choice(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 or 1 for each; the right choice is the one that the sample's own answer names."""
    points = []
    for answer, sample in zip(answers, samples, strict=True):
        right = {find_choice(text, sample.choices) for text in sample.references} - {None}
        points.append(float(find_choice(answer, sample.choices) in right))
    return Points(points)


def _is_inside(choice: str, said: str) -> bool:
    return bool(choice) and re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", said) is not None
