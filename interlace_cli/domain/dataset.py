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

    `image` holds paths relative to the dataset's folder; `source` is the source, or the part of it, that the sample is
    from; `kind` groups samples in tables.
    """

    id: str
    image: list[str]
    conversations: list[Turn]
    source: str
    kind: str = "all"

    @property
    def question(self) -> str:
        """The first human turn."""
        return next(turn.value for turn in self.conversations if turn.speaker == "human")

    @property
    def answer(self) -> str:
        """The first answer."""
        return next(turn.value for turn in self.conversations if turn.speaker == "gpt")


class Skipped(Record):
    """A record that could not be used: where it stands in the source, and why."""

    record: str
    reason: str


class SplitFacts(Record):
    """How much a split holds, and the sha256 of its JSONL file."""

    samples: int = Field(ge=0)
    images: int = Field(ge=0)
    sha256: str


class Manifest(Artifact):
    """What a prepared dataset holds, and what was left out of it."""

    KIND: ClassVar[str] = "interlace.dataset"

    source: str
    splits: dict[str, SplitFacts]
    kinds: dict[str, int]
    skipped: dict[str, int]
    skipped_records: list[Skipped]
