"""An image with a caption -> a conversation."""

from __future__ import annotations

from typing import Any

from interlace_cli.data.columns import make_turn
from interlace_cli.data.source import RawRecord
from interlace_cli.data.tables import read_conversation
from interlace_cli.errors import UnusableRecordError

QUESTION = "Describe this image in one sentence."
CONVERSATION_COLUMNS = ("conversations", "messages", "texts")
CAPTION_COLUMNS = ("caption", "text", "txt")


def read_captioned(data: dict[str, Any], record: str, images: tuple[bytes, ...]) -> RawRecord:
    """The row's conversation, if it has one; else its first caption as the answer to `QUESTION`, with all captions as
    references. Raises UnusableRecordError."""
    if any(data.get(name) is not None for name in CONVERSATION_COLUMNS):
        return read_conversation(data, record, images)[0]
    value = next((data[name] for name in CAPTION_COLUMNS if data.get(name) is not None), None)
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) and c.strip() for c in captions):
        raise UnusableRecordError("there is neither a conversation nor a caption")
    turns = (make_turn("human", QUESTION), make_turn("gpt", captions[0].strip()))
    answers = tuple(caption.strip() for caption in captions)
    return RawRecord(record, images, turns, metric="cider", answers=answers)
