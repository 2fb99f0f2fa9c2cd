"""A record whose images are read -> a sample, or why it is left out: its bounds, its texts, and each of its images."""

from __future__ import annotations

from dataclasses import replace

from interlace_cli.data.source import MOST_IMAGES, RawRecord
from interlace_cli.domain.dataset import Sample, Skipped
from interlace_cli.domain.image_marks import place_images
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.file_index import NAME_DIGITS
from interlace_cli.io.files import hash_bytes
from interlace_cli.io.images import inspect_image

MOST_TURNS, MOST_TEXT = 400, 100_000
"""Of a record: turns, characters. A chat template is rendered for each answer, so the time grows with the
square of the turns."""


def build_sample(record: RawRecord, source: str) -> tuple[Sample, dict[str, bytes]] | Skipped:
    """The record as a sample, and its images named by content; or why it cannot be used."""
    # Names of files, whose bytes need not be a text.
    record = replace(record, id=to_text(record.id), part=record.part and to_text(record.part))
    if len(record.images) > MOST_IMAGES:
        return Skipped(record=record.id, reason=f"more than {MOST_IMAGES} images")
    if len(record.conversations) > MOST_TURNS:
        return Skipped(record=record.id, reason=f"more than {MOST_TURNS} turns")
    if sum(len(turn.value) for turn in record.conversations) > MOST_TEXT:
        return Skipped(record=record.id, reason=f"more than {MOST_TEXT:,} characters of text")
    texts = (*(turn.value for turn in record.conversations), *record.answers, *record.choices)
    if not all(map(_is_unicode, (*texts, record.kind, record.metric))):
        return Skipped(record=record.id, reason="text with half of a character (a lone surrogate)")
    try:
        turns = place_images(record.conversations, len(record.images))
    except UnusableRecordError as error:
        return Skipped(record=record.id, reason=str(error))
    images: dict[str, bytes] = {}
    names = []
    for data in record.images:
        suffix, reason = inspect_image(data)
        if suffix is None:
            return Skipped(record=record.id, reason=reason)
        names.append(f"{hash_bytes(data)[:NAME_DIGITS]}.{suffix}")
        images[names[-1]] = data
    sample = Sample(
        id=record.id,
        image=names,
        conversations=list(turns),
        source=record.part or source,
        kind=record.kind,
        metric=record.metric,
        answers=list(record.answers),
        choices=list(record.choices),
    )
    return sample, images


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_text(name: str) -> str:
    """A name as text: those of files need not be."""
    return name.encode("utf-8", "replace").decode()
