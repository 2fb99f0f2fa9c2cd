"""What of a record is kept: how many images and turns it may have, and how good its ratings must be. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from interlace_cli.data.source import RawRecord, Selection
from interlace_cli.domain.dataset import Skipped, Turn
from interlace_cli.domain.image_marks import IMAGE_MARK, place_images
from interlace_cli.errors import UnusableRecordError

T = TypeVar("T")

RATINGS = ("relevance", "image_correspondence", "formatting", "visual_dependency")
"""FineVision rates every turn from 1 to 5 on each; the column `<rating>_min` holds the lowest of a record."""


def keep_record(record: RawRecord, max_images: int | None, max_messages: int | None) -> RawRecord | Skipped:
    """The record with its turns cut to `max_messages`, and without the images of the turns behind; or why it is left
    out: it has more than `max_images`, or nothing says where one stands."""
    if max_images is not None and len(record.images) > max_images:
        return Skipped(record=record.id, reason=f"more than {max_images} images")
    if max_messages is None:
        return record
    try:
        turns = place_images(record.conversations, len(record.images))
    except UnusableRecordError as error:
        return Skipped(record=record.id, reason=str(error))
    kept = cut_turns(turns, max_messages)
    is_marked = any(IMAGE_MARK in turn.value for turn in turns)
    shown = sum(turn.value.count(IMAGE_MARK) for turn in kept) if is_marked else len(record.images)
    return replace(record, conversations=kept, images=record.images[:shown])


def cut_turns(turns: Sequence[Turn], most: int) -> tuple[Turn, ...]:
    """The turns up to the first answer that brings their number to `most` or more, as the released `dataset_prep.py`
    cuts them; all turns if no answer does."""
    for count, turn in enumerate(turns, start=1):
        if turn.speaker == "gpt" and count >= most:
            return tuple(turns[:count])
    return tuple(turns)


def iter_kept(
    items: Iterable[tuple[str, T]], build: Callable[[str, T], RawRecord], selection: Selection
) -> Iterator[RawRecord | Skipped]:
    """`build(where, item)` of each item, cut or left out as the selection says; Skipped for an item of which `build`
    raises UnusableRecordError."""
    for where, item in items:
        try:
            record = build(where, item)
        except UnusableRecordError as error:
            yield Skipped(record=f"{where}, {error.place}" if error.place else where, reason=str(error))
            continue
        yield keep_record(record, selection.max_images, selection.max_messages)


def check_ratings(row: dict[str, Any], selection: Selection) -> None:
    """Raises UnusableRecordError if a rating of the row is missing or below the bound in `selection.ratings`."""
    low = find_low_rating(row, selection.ratings)
    if low is not None:
        raise UnusableRecordError(low)


def find_low_rating(row: dict[str, Any], ratings: Sequence[tuple[str, int]]) -> str | None:
    """The reason if a rating of the row is missing or below its bound, else None. `ratings`: `(name, lowest)`."""
    for name, lowest in ratings:
        value = row.get(f"{name}_min")
        if value is None:
            return f"no rating of {name}"
        try:
            # In CSV a number is a text.
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            return f"the rating of {name} is not a number"
        if number < lowest:
            return f"{name} below {lowest}"
    return None
