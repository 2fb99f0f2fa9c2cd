"""What nobody reads of a record: a label that may be left behind, or content that a sample would lose. Pure.

A rule by value first, by name second. Nothing (null, an empty text or list: Parquet fills the fields that a row lacks)
and numbers are no content. Neither is a short line of text in a field of no telling name: an id, a date, a language.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from interlace_cli.errors import UnusableRecordError

LABELS = ("cache_control", "detail", "format", "id", "index", "media_type", "mime_type", "name")
"""Fields of content parts that say how to handle the part."""
MOST_CHARACTERS = 100
DEPTH = 8
"""Objects and lists inside each other that are looked into."""
_CONTENT = re.compile(
    "answer|audio|call|chosen|content|document|file|function|history|image|picture|prompt|reason|refusal|reject"
    "|response|text|think|thought|tool|value|video"
)
_LEARNING = re.compile("loss|train|weight")
_NOT_LEARNT = re.compile(
    r"(audio|chosen|function|object|reject(ed|ion)?|tool|video)s?(_(call|file|list|path|response|url)s?)?"
)
_IS_GOOD, _WEIGHT = re.compile("kto_tag|label|loss|train"), re.compile("(loss_|sample_)?weight")
"""Columns of a record: whether its answer is one to learn (TRL's and LLaMA-Factory's KTO), and how much."""
_PICTURE_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)(\?|$)|^data:image/", re.IGNORECASE)
_NUMBERED = re.compile(r"(image|img|photo|picture)s?[_-]?\d+", re.IGNORECASE)


def is_nothing(value: Any) -> bool:
    """Null, or empty, or a text that says so in JSON."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return value is None or (isinstance(value, (bytes, list, tuple, dict)) and not value)


def check_part(fields: Mapping[str, Any], read: Collection[str]) -> None:
    """Raises UnusableRecordError for a content part with a field, not `read`, that is neither a number nor one of
    LABELS."""
    for name, value in fields.items():
        if (
            name not in read
            and name not in LABELS
            and not is_nothing(value)
            and not isinstance(value, (bool, int, float))
        ):
            raise UnusableRecordError(f"a content part has a field {show(name)}, which is not read")


def check_turn(fields: Mapping[str, Any], read: Collection[str]) -> None:
    """Raises UnusableRecordError for a turn with a field, not `read`, that is content, or says that the turn is not to
    be learnt (`weight: 0`, `train: false`)."""
    for name, value in fields.items():
        if name not in read and is_content(name, value):
            raise UnusableRecordError(f"a turn has a field {show(name)}, which is not read")


def is_content(name: str, value: Any, depth: int = DEPTH) -> bool:
    """Whether a field of a turn is more than a label."""
    if is_nothing(value):
        return False
    if isinstance(value, (bool, int, float)):
        return not value and _LEARNING.search(name.lower()) is not None
    if _CONTENT.search(name.lower()) or isinstance(value, (bytes, list, tuple)):
        return True
    if isinstance(value, dict):
        return not depth or any(is_content(str(inner), item, depth - 1) for inner, item in value.items())
    return isinstance(value, str) and (len(value) > MOST_CHARACTERS or "\n" in value.strip())


def check_record(row: Mapping[str, Any], read: Collection[str], has_images: bool) -> None:
    """Raises UnusableRecordError for a record with a column, not `read`, of a kind that is not learnt here: pictures,
    films, sounds, tools, a second conversation, answers not to be learnt. Other columns describe the record.
    `has_images`: whether images of it are read; a text that names one is then most likely theirs."""
    for name, value in row.items():
        if name not in read and (
            (value is False and _IS_GOOD.fullmatch(name)) or (value == 0 and _WEIGHT.fullmatch(name))
        ):
            raise UnusableRecordError(f"field {show(name)} says that the answer is not to be learnt")
        if name in read or is_nothing(value) or isinstance(value, (bool, int, float)):
            continue
        is_named = _NOT_LEARNT.fullmatch(name.lower()) is not None
        if is_named or _holds_media(value) or _is_conversation(value):
            raise UnusableRecordError(f"field {show(name)} is of a kind that is not read")
        if _names_picture(value) and (not has_images or _NUMBERED.fullmatch(name)):
            raise UnusableRecordError(f"field {show(name)} names an image and is not read")


def show(name: str) -> str:
    """A name from a stranger's file, short enough to count by."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _holds_media(value: Any, depth: int = DEPTH) -> bool:
    if depth and isinstance(value, (list, tuple)):
        return any(_holds_media(item, depth - 1) for item in value)
    if depth and isinstance(value, dict):
        is_file = value.keys() == {"bytes", "path"} and any(value.values())
        return is_file or any(_holds_media(item, depth - 1) for item in value.values())
    return isinstance(value, (bytes, bytearray))


def _is_conversation(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, dict) for item in value):
        return False
    return any({"role", "from"} & item.keys() and {"content", "value"} & item.keys() for item in value)


def _names_picture(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, str) and _names_picture(item) for item in value)
    return isinstance(value, str) and "\n" not in value and _PICTURE_FILE.search(value) is not None
