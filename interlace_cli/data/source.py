"""What a source is: something that says which units of work a selection comes to, and yields the records of each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from interlace_cli.data.sampling import CLUSTERS
from interlace_cli.domain.dataset import PartDraw, Skipped, Turn
from interlace_cli.io.file_records import FileRead, FileRecorder, Roots

Split = Literal["train", "calibration", "heldout"]


@dataclass(frozen=True)
class RawRecord:
    """A conversation with the bytes of its images. `part` names the part of the source that it is from, if it has
    parts; `split` is set by sources that come with splits of their own. `is_asked`: whether `eval` is to ask it; of a
    question's several answers one is. The rest is as in `Sample`."""

    id: str
    images: tuple[bytes, ...]
    conversations: tuple[Turn, ...]
    kind: str = "all"
    split: Split | None = None
    part: str | None = None
    metric: str = "exact_match"
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    is_asked: bool = True

    def with_kind(self, kind: str) -> RawRecord:
        """The same of another kind."""
        return replace(self, kind=kind)

    def with_images(self, images: tuple[bytes, ...]) -> RawRecord:
        """The same with these images."""
        return replace(self, images=images)


@dataclass(frozen=True)
class Selection:
    """Which part of a source to read, and what of a record to keep.

    `portion` None: the source's own. `method`: see `data/sampling.py`. `holdout` and `calibration` are for sources that
    split for themselves. `ratings`: `(name, lowest)` of the source's own rating columns. `max_images`: a record with
    more is left out; `max_messages`: turns are kept until an answer brings their number to so many or more; None: the
    source's own.
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

    def count(self, available: int) -> int:
        """How many of `available` records are wanted."""
        wanted = round((1.0 if self.portion is None else self.portion) * available)
        return wanted if self.max_samples is None else min(wanted, self.max_samples)

    def choose(self, available: int) -> list[int]:
        """The indices wanted, at random by the seed, ascending."""
        return sorted(random.Random(f"select/{self.seed}").sample(range(available), self.count(available)))


@dataclass(frozen=True)
class Unit:
    """A piece of a source that is read at once, by one thread: `content` is the source's own. Units share nothing."""

    name: str
    records: int
    content: Any = None


@dataclass(frozen=True)
class Draw:
    """What a selection of a source comes to. `method` is None where there was nothing to draw; `notes` are sentences
    for people; `files_read` are the local files that were read, opened or listed to come to it."""

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
    """`name` stands in the manifest and in each sample; `location` and `revision` say where on the Hub it is, if it is;
    `roots` are the folders of its local files, if it has any."""

    @property
    def name(self) -> str:
        """The name in the manifest."""
        ...

    @property
    def location(self) -> str | None:
        """The Hub id."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit on the Hub."""
        ...

    @property
    def roots(self) -> Roots:
        """The folders that the names of its local files are relative to."""
        ...

    def draw(self, selection: Selection) -> Draw:
        """The units of `selection`, which it alone decides."""
        ...

    def iter_records(self, unit: Unit, selection: Selection, files: FileRecorder) -> Iterator[RawRecord | Skipped]:
        """The records of one unit, always in the same order. Called from several threads, each with a recorder of its
        own: local files are read through it, or noted in it before they are read."""
        ...


def divide(name: str, indices: Sequence[int], size: int = 256) -> list[Unit]:
    """Indices of records -> units of at most `size`; the content of each is its indices."""
    return [
        Unit(f"{name} {start}", len(indices[start : start + size]), tuple(indices[start : start + size]))
        for start in range(0, len(indices), size)
    ]
