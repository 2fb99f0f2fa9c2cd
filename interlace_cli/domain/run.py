"""What `run` says when it is done, and what it would do."""

from __future__ import annotations

from pydantic import JsonValue

from interlace_cli.domain.evaluation import Result
from interlace_cli.domain.record import Record


class Outcome(Record):
    """One checkpoint in the record of a run: milliseconds, bytes, shares and percent as in `domain/evaluation.py`."""

    layers: int
    parameters: int
    bytes: int
    score: float
    loss: float | None
    ttft_ms: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    kinds: dict[str, float]
    retention: float | None
    retention_interval: tuple[float, float] | None


class PlanOutcome(Record):
    """The plan in the record of a run: dense indices."""

    strategy: str
    drop: list[int]
    tune: list[int]
    anchor: list[int]


class RunRecord(Record):
    """What `interlace run --json` prints. `seconds` holds each step that ran, `skipped` those that were up to date;
    `options` are all of the call, as a file of `--config` has them."""

    model: str
    workspace: str
    export: str
    dense: Outcome
    pruned: Outcome
    healed: Outcome
    plan: PlanOutcome
    recipe: dict[str, str | int | float | bool]
    device: str
    options: dict[str, JsonValue] = {}
    seconds: dict[str, float]
    skipped: list[str]


class StepOutlook(Record):
    """What would be done in a step: `action` is skip, make, complete, make anew, replace or refuse; of what
    depends on a step that is made first also "skip or replace" or "skip or refuse"."""

    step: str
    action: str
    reasons: list[str]


class Outlook(Record):
    """What `run --dry-run` prints."""

    steps: list[StepOutlook]


def build_outcome(result: Result) -> Outcome:
    """The figures of one checkpoint."""
    speed = result.speed
    return Outcome(
        layers=result.layers,
        parameters=result.parameters,
        bytes=result.bytes,
        score=result.score,
        loss=result.loss,
        ttft_ms=speed.ttft_ms if speed else None,
        tokens_per_second=speed.tokens_per_second if speed else None,
        peak_memory_bytes=speed.peak_memory_bytes if speed else None,
        kinds=result.kinds,
        retention=result.retention,
        retention_interval=result.retention_interval,
    )
