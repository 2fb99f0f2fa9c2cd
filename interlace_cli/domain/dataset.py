"""Conversations about images, and the manifest of a prepared dataset."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from interlace_cli.domain.record import Artifact, Record

SPLITS = ("train", "calibration", "heldout")


class Turn(Record):
    """One turn, in the released format's words: `from` is who speaks, `value` what they say."""

    speaker: Literal["system", "human", "gpt"] = Field(alias="from")
    value: str


class Sample(Record):
    """A conversation and the images that stand in front of its first human turn.

    `image` names images by their content; `source` is the source, or the part of it, that the sample is from; `kind`
    groups samples in tables. `metric` scores an answer to the first human turn (`evaluation/metrics`) against
    `answers`, all that count as right, or the conversation's own first answer where there are none; `choices` are what
    a question offers to choose from.
    """

    id: str
    image: list[str]
    conversations: list[Turn]
    source: str
    kind: str = "all"
    metric: str = "exact_match"
    answers: list[str] = []
    choices: list[str] = []

    @property
    def question(self) -> str:
        """The first human turn."""
        return next(turn.value for turn in self.conversations if turn.speaker == "human")

    @property
    def answer(self) -> str:
        """The first answer."""
        return next(turn.value for turn in self.conversations if turn.speaker == "gpt")

    @property
    def references(self) -> list[str]:
        """All answers that count as right."""
        return self.answers or [self.answer]


class Skipped(Record):
    """A record that could not be used: where it stands in the source, and why; `count` of them where a whole stretch
    cannot be read."""

    record: str
    reason: str
    count: int = 1


class SplitFacts(Record):
    """How much a split holds. `sha256` is over its samples as JSON lines, in which images are named by content."""

    samples: int = Field(ge=0)
    images: int = Field(ge=0)
    sha256: str


class PartDraw(Record):
    """What was drawn from one part of a source: `taken` of `available` records, from `groups` row groups of `files`
    files, for which about `bytes` were read."""

    part: str
    available: int = Field(ge=0)
    taken: int = Field(ge=0)
    groups: int = Field(ge=0)
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)


class SourceDraw(Record):
    """What `prepare --dry-run` prints: what a selection of a source comes to, before anything but footers is read."""

    source: str
    revision: str | None
    selection: str | None
    records: int
    draws: list[PartDraw]
    description: str


class Manifest(Artifact):
    """What a prepared dataset holds, how it was drawn, and what was left out of it: all of it counted in `skipped`, the
    first `LISTED` records named.

    `location` is the Hub id of the source and `revision` its commit, where it has them; `selection` says how records
    were chosen (`data/sampling.py`), None where the source is taken in its own order.
    """

    KIND: ClassVar[str] = "interlace.dataset"
    SCHEMA: ClassVar[int] = 2
    LISTED: ClassVar[int] = 1000

    source: str
    location: str | None = None
    revision: str | None = None
    selection: str | None = None
    draws: list[PartDraw] = []
    splits: dict[str, SplitFacts]
    kinds: dict[str, int]
    skipped: dict[str, int]
    skipped_records: list[Skipped]
