"""The two base records: `Record`, a frozen value, and `Artifact`, a record that passes between steps on disk."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Settings = dict[str, JsonValue]


class Record(BaseModel):
    """Frozen, with no unknown fields, no NaN and no infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        # A command builds the validators of the records that it meets, and of no others.
        defer_build=True,
    )


class Origin(Record):
    """Who made an artifact: the version of interlace, the command and its settings (no paths, no secrets)."""

    interlace: str
    command: str
    settings: Settings


class Artifact(Record):
    """A record on disk. `inputs` names what it was made from, each with its sha256; `sha256`, of the file alone, is
    that of all the rest of it."""

    KIND: ClassVar[str]
    SCHEMA: ClassVar[int] = 1
    OLDEST: ClassVar[int | None] = None
    """The first schema whose artifacts are read as they are; None: SCHEMA alone."""

    kind: str
    schema_version: int = Field(alias="schema", ge=1)
    created_by: Origin
    inputs: dict[str, str]
    sha256: str | None = None

    @property
    def is_edited(self) -> bool:
        """Whether it was changed by hand in a way that it allows for."""
        return False
