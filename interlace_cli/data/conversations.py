"""One row of a dataset -> a record: its conversation, or its image and caption. The one rule for rows of tables, of
files of records, and of those that lie beside pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interlace_cli.data.columns import (
    ANSWERED,
    ASKED,
    build_conversation,
    find_filled,
    find_images,
    has_conversation,
    read_references,
    read_text,
    read_texts,
)
from interlace_cli.data.source import RawRecord
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.any_json import parse_any_json

QUESTION = "Describe this image in one sentence."
CAPTION_COLUMNS = ("caption", "captions", "text", "txt")


def read_record(row: Mapping[str, Any], record: str, images: tuple[Any, ...]) -> RawRecord:
    """The record of a row with a conversation in any of the layouts of `data/columns.py`. Of a row without one the
    first caption is the answer to QUESTION, and all captions are right. `images`: those of the row, not read yet.
    Raises UnusableRecordError."""
    if images and not has_conversation(row) and (captions := _read_captions(row)):
        if len(images) > 1:
            raise UnusableRecordError("a caption of several images")
        row = {**row, **_build_question(row, captions)}
    turns, pictures = build_conversation(row, images)
    return RawRecord(
        record,
        pictures,
        turns,
        kind=read_text(row, "kind", "all"),
        metric=read_text(row, "metric", "exact_match"),
        answers=read_references(row),
        choices=read_texts(row, "choices"),
    )


def read_beside(row: Mapping[str, Any], record: str, files: tuple[Any, ...]) -> RawRecord:
    """The record of a row that lies beside the image files `files`: texts in its own image column are their names, as
    other tools write them. Without any, that column counts. Raises UnusableRecordError."""
    named = find_images(row)
    if files and not all(isinstance(name, str) for name in named):
        raise UnusableRecordError("an image column beside image files is not read")
    return read_record(row, record, files or tuple(named))


def _read_captions(row: Mapping[str, Any]) -> list[str]:
    """All captions of the row's one image."""
    columns = find_filled(row, CAPTION_COLUMNS)
    found = [[text.strip() for text in read_texts(row, name)] for name in columns]
    other = next((name for name, own in zip(columns, found, strict=True) if own != found[0]), None)
    if other is not None:
        raise UnusableRecordError(f"fields {columns[0]} and {other} are two captions")
    if not found or not all(found[0]):
        return []
    if any(isinstance(parse_any_json(text.encode("utf-8", "surrogatepass")), (dict, list)) for text in found[0]):
        raise UnusableRecordError(f"field {columns[0]} is JSON, and no caption")
    beside = find_filled(row, (*ASKED, *ANSWERED))
    if beside:
        raise UnusableRecordError(f"field {beside[0]} beside a caption is not read")
    return found[0]


def _build_question(row: Mapping[str, Any], captions: list[str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": captions[0]}]
    return {
        "conversations": turns,
        "metric": row.get("metric") or "cider",
        "answers": row.get("answers") or captions,
    }
