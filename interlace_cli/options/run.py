"""`run`: every option of the steps it runs, under one name each.

An option that several steps have (`--seed`) goes to all of them; one that means something else in another step has a
name of its own here (`run_name`: finetune's `--batch-size` is `--heal-batch-size`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.options.analyze import AnalyzeOptions
from interlace_cli.options.evaluate import EvaluateOptions
from interlace_cli.options.export import ExportOptions
from interlace_cli.options.finetune import FinetuneOptions
from interlace_cli.options.option import Options, option, step
from interlace_cli.options.plan import PlanOptions
from interlace_cli.options.prepare import PrepareOptions
from interlace_cli.options.prune import PruneOptions
from interlace_cli.options.shared import ANEW, FORCE, WORKSPACE


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """`model` None: the workspace's, or the demo in an empty one; `data` None: the workspace's dataset, or the demo's
    for the demo model."""

    model: str | None = option(
        None,
        "demo, a checkpoint folder, or a Hub id.",
        is_argument=True,
        shown_default="the workspace's; demo in an empty one",
    )
    data: str | None = option(
        None, "A source as `prepare` takes it.", shown_default="the workspace's dataset; for the demo model, demo"
    )
    prepare: PrepareOptions = step(PrepareOptions)
    analyze: AnalyzeOptions = step(AnalyzeOptions)
    plan: PlanOptions = step(PlanOptions)
    prune: PruneOptions = step(PruneOptions)
    finetune: FinetuneOptions = step(FinetuneOptions)
    evaluate: EvaluateOptions = step(EvaluateOptions)
    export: ExportOptions = step(ExportOptions)
    dry_run: bool = option(False, "Only say what would be done, and why.", decides=False)
    anew: bool = ANEW.field()
    workspace: Path = WORKSPACE.field()
    force: bool = FORCE.field()
