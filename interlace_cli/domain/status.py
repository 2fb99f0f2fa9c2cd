"""What a workspace holds."""

from __future__ import annotations

from pydantic import JsonValue

from interlace_cli.domain.record import Record


class Holding(Record):
    """One artifact: `condition` is missing, up to date, incomplete, damaged or stale, by the settings that it was made
    with and by what lies there now; `run_would` is an action as in `StepOutlook`, with `run`'s defaults."""

    step: str
    path: str
    what: str
    condition: str
    reasons: list[str] = []
    settings: dict[str, JsonValue] = {}
    inputs: dict[str, str] = {}
    run_would: str = ""
    run_because: list[str] = []


class Status(Record):
    """What `interlace status --json` prints. `mismatches` say which two results do not belong together."""

    workspace: str
    model: str | None
    source: str | None
    holdings: list[Holding]
    mismatches: list[str]
    note: str = ""


class Environment(Record):
    """What `interlace env --json` prints: name -> version, or what there is."""

    programs: dict[str, str]
    machine: dict[str, str]
    optional: dict[str, str]
