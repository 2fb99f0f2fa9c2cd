"""The built-in source: questions about rendered pictures, every kind equally often, one picture to a question.

Its splits are its own. Held-out pictures come from the eighth of the world that the demo model never saw, the others
from the rest; within those, no picture is drawn twice, so splits share no image.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO

from interlace_cli.data.source import Draw, RawRecord, Selection, Split, Unit
from interlace_cli.demo.questions import KINDS
from interlace_cli.demo.world import Picture, build_picture, draw, is_heldout
from interlace_cli.domain.dataset import Skipped, Turn
from interlace_cli.io.file_records import FileRecorder, Roots

SIZE = 4400


class DemoSource:
    """Has SIZE samples. A smaller portion takes the first of them."""

    name = "demo"
    location: str | None = None
    revision: str | None = None
    roots: Roots = {}

    def draw(self, selection: Selection) -> Draw:
        """One unit with all samples: no picture is drawn twice, so each sample depends on those before it."""
        return Draw([Unit("demo", selection.count(SIZE))])

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The first `unit.records` samples, each drawn from a random seed of its own."""
        del files
        kinds, seen = list(KINDS.values()), set[Picture]()
        for index in range(unit.records):
            rng = random.Random(f"demo/{selection.seed}/{index}")
            split = _choose_split(rng.random(), selection)
            kind = kinds[index % len(kinds)]
            picture = build_picture(kind.family, rng)
            while picture in seen or is_heldout(picture) != (split == "heldout"):
                picture = build_picture(kind.family, rng)
            seen.add(picture)
            question, answer = kind.ask(picture, rng)
            turns = (Turn(speaker="human", value=f"<image>\n{question}"), Turn(speaker="gpt", value=answer))
            yield RawRecord(str(index), (_to_png(picture),), turns, kind.name, split, kind.family)


def _choose_split(u: float, selection: Selection) -> Split:
    if u < selection.holdout:
        return "heldout"
    return "calibration" if u < selection.holdout + selection.calibration * (1 - selection.holdout) else "train"


def _to_png(picture: Picture) -> bytes:
    buffer = BytesIO()
    draw(picture).save(buffer, format="PNG")
    return buffer.getvalue()
