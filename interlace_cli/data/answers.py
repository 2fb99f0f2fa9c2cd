"""A question with several right answers -> records."""

from __future__ import annotations

from typing import Any

from interlace_cli.data.columns import make_turn
from interlace_cli.data.source import RawRecord
from interlace_cli.errors import UnusableRecordError


def build_answers(
    record: str,
    images: tuple[Any, ...],
    question: str,
    answers: tuple[str, ...],
    metric: str,
    choices: tuple[str, ...] = (),
) -> list[RawRecord]:
    """One record per distinct answer, in the order in which answers first appear. Each record holds all `answers`.

    Raises UnusableRecordError if there is no question or no answer.
    """
    distinct = [answer for answer in dict.fromkeys(answers) if answer.strip()]
    if not question.strip() or not distinct:
        raise UnusableRecordError("the question or its answer is missing")
    ask = make_turn("human", question)
    return [
        RawRecord(
            record if number == 0 else f"{record}/{number}",
            images,
            (ask, make_turn("gpt", answer)),
            metric=metric,
            answers=answers,
            choices=choices,
            is_asked=number == 0,
        )
        for number, answer in enumerate(distinct)
    ]
