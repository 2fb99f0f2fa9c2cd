"""The content of a turn -> its text, with a mark where each image stands, and the images. Pure.

Content is text, or a list of parts. A part is read by what it holds, so that the forms of transformers, TRL, Qwen,
OpenAI, Anthropic and of Parquet files, whose rows have every field, are one: a text under `text`; or one picture, under
one of PICTURE_FIELDS or inside of an object there. A part that says it is an image and holds none stands for the next
image of the image column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlace_cli.data.unread import DEPTH, check_part, is_nothing, show
from interlace_cli.domain.image_marks import IMAGE_MARK
from interlace_cli.errors import UnusableRecordError

TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image", "image_url", "input_image")
PICTURE_FIELDS = ("image", "image_url", "source", "url", "path", "base64", "bytes", "data")
NEXT = object()
"""The image column's next image."""


@dataclass(frozen=True)
class Content:
    """`text` has IMAGE_MARK where an image stands; `images`: in their order NEXT, or a picture as `data/pictures.py`
    takes it."""

    text: str
    images: tuple[Any, ...] = ()


def read_content(value: Any) -> Content:
    """Raises UnusableRecordError if something of the content is not read."""
    if isinstance(value, str):
        return Content(value, (NEXT,) * value.count(IMAGE_MARK))
    if not isinstance(value, (list, tuple)):
        raise UnusableRecordError("a turn has no text")
    parts = [read_part(part) for part in value]
    images = tuple(part.images[0] for part in parts if isinstance(part, Content))
    text = "".join(part if isinstance(part, str) else part.text for part in parts)
    if not images:
        return Content(text, (NEXT,) * text.count(IMAGE_MARK))
    if text.count(IMAGE_MARK) != len(images):
        raise UnusableRecordError(f"{IMAGE_MARK} in the text beside image parts")
    return Content(text, images)


def read_part(part: Any) -> str | Content:
    """The text of a part, or its one image. Raises UnusableRecordError for a part of any other kind."""
    if not isinstance(part, Mapping):
        raise UnusableRecordError("a content part is not an object")
    fields = {name: value for name, value in part.items() if not is_nothing(value) or (name == "text" and value)}
    kind = fields.pop("type", None)
    if kind not in (None, *TEXT_TYPES, *IMAGE_TYPES):
        raise UnusableRecordError(f"a content part of type {show(str(kind))} is not read")
    if kind in TEXT_TYPES or (kind is None and "text" in fields):
        check_part(fields, ("text",))
        text = fields.get("text", "")
        if not isinstance(text, str):
            raise UnusableRecordError("a text part has no text")
        return text
    picture = find_picture(fields)
    if picture is None and (kind is None or any(name in fields for name in PICTURE_FIELDS)):
        raise UnusableRecordError("a content part is neither a text nor one image")
    return Content(IMAGE_MARK, (NEXT if picture is None else picture,))


def find_picture(fields: Mapping[str, Any], depth: int = DEPTH) -> Any:
    """The one picture that an object holds: a text or bytes; None if it holds none. Raises UnusableRecordError for
    several, or for a field beside it that is not read."""
    check_part(fields, ("type", *PICTURE_FIELDS))
    held = {name: fields[name] for name in PICTURE_FIELDS if not is_nothing(fields.get(name))}
    if held.keys() == {"bytes", "path"}:
        # As in `datasets`: the path is where the bytes were.
        del held["path"]
    if len(held) > 1:
        raise UnusableRecordError("a content part names more than one image")
    if not held:
        return None
    ((name, value),) = held.items()
    if depth and isinstance(value, Mapping):
        inner = {key: item for key, item in value.items() if not is_nothing(item)}
        return find_picture(inner, depth - 1)
    if isinstance(value, str) and name in ("base64", "data", "bytes") and not value.startswith("data:"):
        return f"data:;base64,{value}"
    if not isinstance(value, (str, bytes)):
        raise UnusableRecordError("an image part is not one picture")
    return value
