"""`compare`: the grid of methods; beside it every option of the steps that it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from interlace_cli.errors import UsageError
from interlace_cli.options.analyze import AnalyzeOptions
from interlace_cli.options.evaluate import EvaluateOptions
from interlace_cli.options.finetune import FinetuneOptions
from interlace_cli.options.option import Options, option, step
from interlace_cli.options.plan import STRATEGIES, PlanOptions
from interlace_cli.options.prepare import PrepareOptions
from interlace_cli.options.prune import COMPENSATIONS, PruneOptions
from interlace_cli.options.shared import ANEW, FORCE, WORKSPACE

SPARSE = ("wanda", "magnitude")
BASELINES = (*SPARSE, "dense-ft")
GRID = "Grid"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Every plan is healed by each objective, after each compensation, with each seed."""

    model: str | None = option(
        None,
        "demo, a checkpoint folder, or a Hub id.",
        is_argument=True,
        shown_default="the workspace's; demo in an empty one",
    )
    data: str | None = option(
        None, "A source as `prepare` takes it.", shown_default="the workspace's dataset; for the demo model, demo"
    )
    strategies: tuple[str, ...] = option(
        ("interlace", "sleb", "shortgpt", "random"),
        "With commas between; a strategy may carry its options, as interlace/optimal, interlace/loss, sleb/paired.",
        group=GRID,
    )
    ratios: tuple[float, ...] = option(
        (0.25,), "Shares of the layers to drop, such as 0.1,0.25.", low=0, high=1, is_open=True, group=GRID
    )
    seeds: tuple[int, ...] = option((0,), "Of healing, such as 0,1,2.", low=0, group=GRID)
    more_seeds_at: float | None = option(
        None, "Heal with more than the first seed at this ratio alone.", low=0, high=1, is_open=True, group=GRID
    )
    objective: tuple[str, ...] = option(
        ("ce",), "Of healing, as `finetune` takes it; may be repeated.", separator="", group=GRID
    )
    compensate: tuple[str, ...] = option(
        ("none",), "Before healing: none or linear; may be repeated.", choices=COMPENSATIONS, group=GRID
    )
    baselines: tuple[str, ...] = option(
        BASELINES, "Beside them; an empty text for none.", choices=BASELINES, group=GRID
    )
    sparsity: str = option("2:4", "N:M pattern of the sparse baselines: keep N of every M weights.", group=GRID)
    prepare: PrepareOptions = step(PrepareOptions)
    analyze: AnalyzeOptions = step(AnalyzeOptions)
    plan: PlanOptions = step(PlanOptions, "ratio", "drop", "strategy", "criterion", "selection", "tune")
    # Cells are made from the dense model, so that they belong together; timing is repeated as often as it takes.
    prune: PruneOptions = step(PruneOptions, "compensate", "verify", "allow_mismatch")
    finetune: FinetuneOptions = step(FinetuneOptions, "objective", "allow_mismatch")
    evaluate: EvaluateOptions = step(EvaluateOptions, "repeats", "allow_mismatch")
    keep: bool = option(False, "Keep the checkpoints, in compare/checkpoints.", decides=False)
    anew: bool = ANEW.field()
    workspace: Path = WORKSPACE.field()
    force: bool = FORCE.field()

    def check(self) -> None:
        """Raises UsageError for a grid without cells, or with one that cannot be."""
        examples = {"strategies": ",".join(STRATEGIES[:2]), "ratios": "0.1,0.25", "seeds": "0,1,2"}
        empty = next((name for name in examples if not getattr(self, name)), None)
        if empty is not None:
            raise UsageError(f"--{empty} is empty.", f"Such as --{empty} {examples[empty]}.")
        if not self.objective or not self.compensate:
            raise UsageError("compare needs an objective and a compensation.", "Such as ce and none.")
        for objective in self.objective:
            # A cell's own options: they have to be such as `finetune` takes.
            replace(self.finetune, objective=objective)
