"""An image with a caption -> a conversation."""

from __future__ import annotations

from typing import Any

from interlace_cli.data.columns import READ, find_images, has_conversation, make_turn
from interlace_cli.data.source import RawRecord
from interlace_cli.data.tables import read_conversation
from interlace_cli.data.unread import check_record
from interlace_cli.errors import UnusableRecordError

QUESTION = "Describe this image in one sentence."
CAPTION_COLUMNS = ("caption", "text", "txt")


def read_captioned(data: dict[str, Any], record: str, images: tuple[Any, ...]) -> RawRecord:
    """The row's conversation, if it has one; else its first caption as the answer to `QUESTION`, with all captions as
    references. `images`: those that lie beside the row; without any, its own column counts, whose texts are else their
    names. Raises UnusableRecordError."""
    named = find_images(data)
    if images and not all(isinstance(name, str) for name in named):
        raise UnusableRecordError("an image column beside image files is not read")
    images = images or tuple(named)
    if has_conversation(data):
        return read_conversation(data, record, images)[0]
    value = next((data[name] for name in CAPTION_COLUMNS if data.get(name) is not None), None)
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) and c.strip() for c in captions):
        raise UnusableRecordError("there is neither a conversation nor a caption")
    turns = (make_turn("human", QUESTION), make_turn("gpt", captions[0].strip()))
    check_record(data, (*READ, *CAPTION_COLUMNS), bool(images))
    answers = tuple(caption.strip() for caption in captions)
    return RawRecord(record, images, turns, metric="cider", answers=answers)
