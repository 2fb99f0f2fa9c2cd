"""FineVision (HuggingFaceM4/FineVision): 24 million conversations in 185 subsets, rated turn by turn; 5 TB.

A percent of every subset, without reading it all: row groups by seed, rows inside them. The released rules of
`dataset_prep.py` hold: subsets up to and with `yesbut`, at most 3 images, turns until an answer makes them 5 or more;
`--selection head` is its choice of records to the letter, the first percent of each subset, and its way with images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from interlace_cli.data.known import load_known_counts
from interlace_cli.data.sampling import HEAD
from interlace_cli.data.source import Draw, RawRecord, Selection, Unit
from interlace_cli.data.tables import SourceRow, TableDefaults, TableSource, read_one
from interlace_cli.domain.dataset import Skipped
from interlace_cli.domain.image_marks import IMAGE_MARK
from interlace_cli.io.file_records import FileRecorder
from interlace_cli.io.repositories import count_examples, open_repository

REPOSITORY = "HuggingFaceM4/FineVision"
RELEASED = TableDefaults(portion=0.01, max_images=3, max_messages=5, last_subset="yesbut")


def open_finevision(revision: str | None, mirror: Path | None) -> FineVisionSource:
    """FineVision on the Hub at `revision` (its newest commit by default), or the local copy `mirror`."""
    return FineVisionSource(open_repository(REPOSITORY, revision, mirror), "finevision", RELEASED)


class FineVisionSource(TableSource):
    """A table source that knows how many records each subset has: by the Hub's card, else by the counts of the
    release."""

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """As in TableSource; of `head` with the released rule: all images stand before the first turn, wherever their
        marks were."""
        source = replace(self, reader=_read_released) if selection.method == HEAD else self
        return super(FineVisionSource, source).iter_records(unit, selection, files)

    def draw(self, selection: Selection) -> Draw:
        """As in TableSource, with a note if subsets are incomplete here: a percent of the copy is less than a percent
        of the subset."""
        draw = super().draw(selection)
        known = load_known_counts("finevision") | count_examples(self.repository)
        short = [part for part in draw.parts if part.available < known.get(part.part, 0)]
        if not short:
            return draw
        first = short[0]
        note = (
            f"{len(short)} of {len(draw.parts)} subsets are incomplete here: {first.part} has {first.available:,} of"
            f" {known[first.part]:,} records. The portion is taken of what is here."
        )
        return replace(draw, notes=(*draw.notes, note))


def _read_released(row: SourceRow, record: str, images: tuple[Any, ...]) -> list[RawRecord]:
    return read_one({**row, "texts": _without_marks(row.get("texts"))}, record, images)


def _without_marks(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(IMAGE_MARK, "")
    if isinstance(value, dict):
        return {name: _without_marks(item) for name, item in value.items()}
    return [_without_marks(item) for item in value] if isinstance(value, list) else value
