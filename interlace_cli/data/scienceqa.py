"""ScienceQA: multiple-choice questions from school lessons. Those without a picture are left out, as in the release."""

from __future__ import annotations

from typing import Any

from interlace_cli.data.answers import build_answers
from interlace_cli.data.columns import read_text, read_texts
from interlace_cli.data.source import RawRecord
from interlace_cli.data.tables import SourceRow
from interlace_cli.errors import UnusableRecordError

REPOSITORY = "derek-thomas/ScienceQA"


def read_scienceqa(row: SourceRow, record: str, images: tuple[Any, ...]) -> list[RawRecord]:
    """Columns: question, choices, answer (the index of a choice), subject, which becomes the kind, image."""
    if not images:
        raise UnusableRecordError("the question has no picture")
    choices, answer = read_texts(row, "choices"), row.get("answer")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise UnusableRecordError("field answer is not the index of a choice")
    lettered = [f"{chr(65 + i)}) {choice}" for i, choice in enumerate(choices)]
    question = "\n".join([read_text(row, "question", ""), *lettered])
    made = build_answers(record, images, question, (lettered[answer],), "multiple_choice", choices)
    return [record.with_kind(read_text(row, "subject", "all")) for record in made]
