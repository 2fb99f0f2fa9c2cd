"""What a source is: it divides a selection of its records into units of work, and yields the records of each unit."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from interlace_cli.data.sampling import CLUSTERS
from interlace_cli.domain.dataset import PartDraw, Skipped, Turn
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.file_records import FileRead, FileRecorder, Roots

MOST_IMAGES = 64
"""Of a record."""
MOST_UNITS = 4096
"""Of a source whose records are divided evenly."""
Split = Literal["train", "calibration", "heldout"]


@dataclass(frozen=True)
class RawRecord:
    """A conversation with its images: as `data/pictures.py` takes them, and as bytes where a source yields it.

    `part`: the part of the source that it is from, if the source has parts; `split`: set by sources with splits of
    their own; `is_asked`: whether `eval` asks it: of the records of one question, one per answer, only the first. The
    rest is as in `Sample`."""

    id: str
    images: tuple[Any, ...]
    conversations: tuple[Turn, ...]
    kind: str = "all"
    split: Split | None = None
    part: str | None = None
    metric: str = "exact_match"
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    is_asked: bool = True

    def with_kind(self, kind: str) -> RawRecord:
        """A copy with another kind."""
        return replace(self, kind=kind)

    def read_images(self, read: Callable[[Any], bytes]) -> RawRecord:
        """A copy with the bytes of the images. Raises UnusableRecordError, also for more than MOST_IMAGES."""
        if len(self.images) > MOST_IMAGES:
            raise UnusableRecordError(f"more than {MOST_IMAGES} images")
        return replace(self, images=tuple(map(read, self.images)))


@dataclass(frozen=True)
class Selection:
    """Which part of a source to read, and what of a record to keep.

    `portion` None: the source's own. `method`: see `data/sampling.py`. `holdout` and `calibration` are for sources that
    split for themselves. `ratings`: `(name, lowest)` of the source's own rating columns. `max_images`: a record with
    more is left out; `max_messages`: turns are kept until an answer brings their number to so many or more; None: the
    source's own. `allow_download`: images at web addresses are fetched.
    """

    portion: float | None = None
    max_samples: int | None = None
    holdout: float = 0.1
    calibration: float = 0.1
    seed: int = 0
    method: str = CLUSTERS
    subsets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ratings: tuple[tuple[str, int], ...] = ()
    max_images: int | None = None
    max_messages: int | None = None
    hub_split: str | None = None
    allow_download: bool = False

    def count(self, available: int) -> int:
        """How many of `available` records are wanted."""
        wanted = round((1.0 if self.portion is None else self.portion) * available)
        return wanted if self.max_samples is None else min(wanted, self.max_samples)

    def choose(self, available: int) -> Sequence[int]:
        """The indices of the wanted records, drawn at random by the seed, ascending."""
        wanted = self.count(available)
        if wanted == available:
            return range(available)
        return array("q", sorted(random.Random(f"select/{self.seed}").sample(range(available), wanted)))


@dataclass(frozen=True)
class Unit:
    """A piece of a source that one thread reads. `records`: how many; `content`: whatever the source needs to read it.
    Units share nothing."""

    name: str
    records: int
    content: Any = None


@dataclass(frozen=True)
class Draw:
    """The units of a selection. `method`: how records were drawn, None if all are taken; `parts`: what was drawn of
    each part; `notes`: sentences for people; `files_read`: the local files that were read, opened or listed so far."""

    units: Sequence[Unit]
    method: str | None = None
    parts: Sequence[PartDraw] = ()
    notes: Sequence[str] = ()
    files_read: Sequence[FileRead] = ()

    @property
    def records(self) -> int:
        """How many records all units have together."""
        return sum(unit.records for unit in self.units)


class Source(Protocol):
    """The conversations of one dataset: on the Hub, in local files, or made on the spot."""

    @property
    def name(self) -> str:
        """Its name in the manifest and in each sample."""
        ...

    @property
    def location(self) -> str | None:
        """Its Hub id, if it has one."""
        ...

    @property
    def revision(self) -> str | None:
        """Its commit on the Hub, if it has one."""
        ...

    @property
    def roots(self) -> Roots:
        """The folders that the names of its local files are relative to; empty if it has none."""
        ...

    def draw(self, selection: Selection) -> Draw:
        """The units of `selection`. They depend on the source and the selection alone."""
        ...

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The records of one unit, always in the same order. Called from several threads, each with a recorder of its
        own: local files are read through it, or noted in it before they are read."""
        ...


def divide(name: str, indices: Sequence[int], size: int = 256) -> list[Unit]:
    """Indices of records -> units of at most `size` records, or of more where there would be more than `MOST_UNITS`:
    each is a file of the dataset at least. The content of each is its indices."""
    size = max(size, -(-len(indices) // MOST_UNITS))
    return [
        Unit(f"{name} {start}", len(indices[start : start + size]), indices[start : start + size])
        for start in range(0, len(indices), size)
    ]
