"""The commands that look and do not make: `report`, `status`, `env`, `schema`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.options.option import Options, option
from interlace_cli.options.shared import FORCE, OUT, WORKSPACE

ARTIFACTS = ("dataset", "analysis", "plan", "checkpoint", "evaluation", "comparison")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Where the page is written."""

    open: bool = option(False, "Show it in the browser.", decides=False)
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    force: bool = FORCE.field()


@dataclass(frozen=True, kw_only=True)
class StatusOptions(Options):
    """Which workspace is looked at."""

    workspace: Path = WORKSPACE.field()


@dataclass(frozen=True, kw_only=True)
class EnvOptions(Options):
    """Nothing can be chosen."""


@dataclass(frozen=True, kw_only=True)
class SchemaOptions(Options):
    """Of which artifact; `options` is the schema of a command's options."""

    artifact: str = option(
        None,
        "dataset, analysis, plan, checkpoint, evaluation or comparison; or options.COMMAND, of its config file.",
        is_argument=True,
    )
