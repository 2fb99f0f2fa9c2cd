"""What a source is: something that yields raw records, or says why one cannot be used."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from interlace_cli.domain.dataset import Skipped, Turn

Split = Literal["train", "calibration", "heldout"]


@dataclass(frozen=True)
class RawRecord:
    """A conversation with the bytes of its images. `part` names the part of the source that it is from, if it has
    parts; `split` is set by sources that come with splits of their own."""

    id: str
    images: tuple[bytes, ...]
    conversations: tuple[Turn, ...]
    kind: str = "all"
    split: Split | None = None
    part: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which part of a source to read. `holdout` and `calibration` are for sources that split for themselves."""

    portion: float = 1.0
    max_samples: int | None = None
    holdout: float = 0.1
    calibration: float = 0.1
    seed: int = 0

    def count(self, available: int) -> int:
        """How many of `available` records are wanted."""
        wanted = round(self.portion * available)
        return wanted if self.max_samples is None else min(wanted, self.max_samples)

    def choose(self, available: int) -> list[int]:
        """The indices wanted, at random by the seed, ascending."""
        return sorted(random.Random(f"select/{self.seed}").sample(range(available), self.count(available)))


class Source(Protocol):
    """`name` stands in the manifest and in each sample."""

    name: str

    def iter_records(self, selection: Selection) -> Iterator[RawRecord | Skipped]:
        """The records of `selection`, in an order that the selection alone decides."""
        ...

    def count(self, selection: Selection) -> int:
        """How many `iter_records` will yield."""
        ...
