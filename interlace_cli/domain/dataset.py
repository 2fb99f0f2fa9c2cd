"""The records of a prepared dataset: conversations about images, and the manifest."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from interlace_cli.domain.image_marks import IMAGE_MARK, split_marks
from interlace_cli.domain.record import Artifact, Record

SPLITS = ("train", "calibration", "heldout")


class Turn(Record):
    """One turn of a conversation, in LLaVA's JSON format: `{"from": "human", "value": "What is this?"}`."""

    speaker: Literal["system", "human", "gpt"] = Field(alias="from")
    value: str


class Sample(Record):
    """A conversation and its images, which stand where `domain/image_marks.py` says.

    - `image`: the images, named by their content, in the order in which they stand.
    - `source`: the source, or the part of a source, that the sample is from.
    - `kind`: the group of the sample in tables of scores.
    - `metric`: the metric (`evaluation/metrics`) that scores an answer to the first human turn.
    - `answers`: all answers that count as right; empty means the conversation's own first answer.
    - `choices`: the choices of a multiple-choice question, in order.
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
        """The text of the first human turn."""
        return next(turn.value for turn in self.conversations if turn.speaker == "human")

    @property
    def answer(self) -> str:
        """The text of the first `gpt` turn."""
        return next(turn.value for turn in self.conversations if turn.speaker == "gpt")

    @property
    def parts(self) -> list[list[str | None]]:
        """The parts of each turn in their order: its texts, and None where the next image stands."""
        values = [turn.value for turn in self.conversations]
        if any(IMAGE_MARK in value for value in values):
            return [split_marks(value) if self.image else [value] for value in values]
        first = next(index for index, turn in enumerate(self.conversations) if turn.speaker == "human")
        return [[None] * len(self.image) * (index == first) + [value] for index, value in enumerate(values)]

    @property
    def references(self) -> list[str]:
        """All answers that count as right; at least one."""
        return self.answers or [self.answer]


class Skipped(Record):
    """A record that could not be used.

    `record` says where it is in the source, `reason` why. `count` is above 1 if a whole block could not be read.
    """

    record: str
    reason: str
    count: int = 1


class SplitFacts(Record):
    """The size of a split. `sha256` is over the digests of its samples as JSON lines (`io/sample_index.py`); images are
    in it by their content names."""

    samples: int = Field(ge=0)
    images: int = Field(ge=0)
    sha256: str


class PartDraw(Record):
    """How many records were drawn from one part of a source.

    `taken` of `available` records, from `groups` Parquet row groups in `files` files, for which about `bytes` bytes
    are read.
    """

    part: str
    available: int = Field(ge=0)
    taken: int = Field(ge=0)
    groups: int = Field(ge=0)
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)


class SourceDraw(Record):
    """What `prepare --dry-run` prints: what a selection would read. Only the footers of the Parquet files were read."""

    source: str
    revision: str | None
    selection: str | None
    records: int
    draws: list[PartDraw]
    description: str


class StagedShare(Record):
    """What `prepare --shard 2/8` prints where it is not the last: its `share`, how many `units` of the source that is,
    the `samples` that were read of them, and how many units of all shares are `missing` still."""

    share: str
    units: int
    samples: int
    missing: int


class Manifest(Artifact):
    """The record of `manifest.json`: what a prepared dataset holds, how it was drawn, and what was left out.

    `location` is the Hub id of the source and `revision` its commit; None for a source that is not on the Hub.
    `selection` says how records were chosen (`data/sampling.py`); None means in the order of the source. `kinds` is
    kind -> samples. `skipped` counts records left out by reason; `skipped_records` names the first `LISTED` of them.
    `notes` are sentences on what was not read, and on splits of too few samples.

    SCHEMA is raised when records are read otherwise, too: up to 2, parts of some were dropped, and all images stood
    before the first turn. Up to 3 each split had files of its own, and its `sha256` was over them.
    """

    KIND: ClassVar[str] = "interlace.dataset"
    SCHEMA: ClassVar[int] = 4
    OLDEST: ClassVar[int] = 3
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
    notes: list[str] = []
