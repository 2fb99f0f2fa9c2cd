"""TextVQA: questions about text in photographs, each with ten people's answers.

One sample for each distinct answer, as the released `dataset_prep_domain.py` makes them; held-out ones are asked once.
"""

from __future__ import annotations

from typing import Any

from interlace_cli.data.answers import build_answers
from interlace_cli.data.columns import read_text, read_texts
from interlace_cli.data.source import RawRecord
from interlace_cli.data.tables import SourceRow

REPOSITORY = "lmms-lab/textvqa"


def read_textvqa(row: SourceRow, record: str, images: tuple[Any, ...]) -> list[RawRecord]:
    """Columns: question, answers (of ten people), question_id (optional), image."""
    question = read_text(row, "question", "")
    name = str(row["question_id"]) if row.get("question_id") is not None else record
    return build_answers(name, images, question, read_texts(row, "answers"), "vqa_accuracy")
