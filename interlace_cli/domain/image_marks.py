"""Where the images of a conversation stand in its text. Pure.

`<image>` in a human turn is the place of an image; all marks, in their order, are those of the images, in theirs. A
conversation with images and no mark has them before its first human turn. This is the form that samples are stored in,
and the rule by which records are read, so that a prepared dataset read again gives the same samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interlace_cli.errors import UnusableRecordError

if TYPE_CHECKING:
    from interlace_cli.domain.dataset import Turn

IMAGE_MARK = "<image>"
_LEADING = re.compile(rf"\s*(?:{IMAGE_MARK}\s*)*")


def split_marks(text: str) -> list[str | None]:
    """The parts of a human turn in their order: its texts, and None where an image stands. Marks at the start take the
    white space around them along, as LLaVA's `<image>\\n` means it; that around others belongs to the text."""
    leading = _LEADING.match(text)
    end = leading.end() if leading else 0
    parts: list[str | None] = [None] * text.count(IMAGE_MARK, 0, end)
    for index, piece in enumerate(text[end if parts else 0 :].split(IMAGE_MARK)):
        parts += [None] if index else []
        parts += [piece] if piece else []
    return parts


def place_images(turns: Sequence[Turn], images: int) -> tuple[Turn, ...]:
    """The turns in the one form that stands for them: without white space around them, `<image>\\n` for a mark at the
    start of a turn, and no mark where all images stand before the text of the first human turn. Placed twice they stay
    the same. A human turn may be images alone.

    Raises UnusableRecordError where the place of an image cannot be told: the marks in human turns are not as many as
    the images, or the word stands where there can be no image. The same for a turn of nothing.
    """
    marks = [turn.value.count(IMAGE_MARK) for turn in turns]
    is_human = [turn.speaker == "human" for turn in turns]
    if any(marks) and not images:
        raise UnusableRecordError(f"{IMAGE_MARK} in the text of a record without images")
    if any(count for count, human in zip(marks, is_human, strict=True) if not human):
        raise UnusableRecordError(f"{IMAGE_MARK} in a system turn or an answer")
    if any(marks) and sum(marks) != images:
        raise UnusableRecordError(f"{_count(sum(marks), f'{IMAGE_MARK} mark')}, {_count(images, 'image')}")
    parts = [split_marks(turn.value.strip()) for turn in turns]
    if not all(any(part is None or part.strip() for part in own) for own in parts):
        raise UnusableRecordError("a turn has no text")
    first = is_human.index(True) if any(is_human) else 0
    is_before = len(parts[first]) > images and parts[first][:images] == [None] * images
    return tuple(
        turn.model_copy(update={"value": _join(own[images:] if is_before and index == first else own)})
        for index, (turn, own) in enumerate(zip(turns, parts, strict=True))
    )


def _join(parts: Sequence[str | None]) -> str:
    leading = next((index for index, part in enumerate(parts) if part is not None), len(parts))
    rest = "".join(IMAGE_MARK if part is None else part for part in parts[leading:])
    return f"{IMAGE_MARK}\n" * leading + rest


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
