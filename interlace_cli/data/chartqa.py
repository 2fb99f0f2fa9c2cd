"""ChartQA: questions about charts that people and a model wrote, most answers numbers."""

from __future__ import annotations

from typing import Any

from interlace_cli.data.answers import build_answers
from interlace_cli.data.columns import read_text, read_texts
from interlace_cli.data.source import RawRecord
from interlace_cli.data.tables import SourceRow

REPOSITORY = "HuggingFaceM4/ChartQA"


def read_chartqa(row: SourceRow, record: str, images: tuple[Any, ...]) -> list[RawRecord]:
    """Columns: query, label (a list), image, human_or_machine (0 or 1), which becomes the kind `human` or `machine`."""
    kind = {0: "human", 1: "machine"}.get(row.get("human_or_machine", -1), "all")
    made = build_answers(record, images, read_text(row, "query", ""), read_texts(row, "label"), "relaxed_accuracy")
    return [record.with_kind(kind) for record in made]
