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
from interlace_cli.options.shard import SHARD, parse_shard
from interlace_cli.options.shared import ANEW, FORCE, WORKSPACE, join_flags

SPARSE = ("wanda", "magnitude")
BASELINES = (*SPARSE, "dense-ft")
GRID, CLUSTER = "Grid", "Cluster"


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
    analyze: AnalyzeOptions = step(AnalyzeOptions, "local_workspaces")
    plan: PlanOptions = step(PlanOptions, "ratio", "drop", "strategy", "criterion", "selection", "tune")
    # Cells are made from the dense model, so that they belong together; timing is repeated as often as it takes.
    prune: PruneOptions = step(PruneOptions, "compensate", "verify", "allow_mismatch")
    finetune: FinetuneOptions = step(FinetuneOptions, "objective", "allow_mismatch", "local_workspaces")
    evaluate: EvaluateOptions = step(EvaluateOptions, "repeats", "allow_mismatch", "backend", "local_workspaces")
    keep: bool = option(False, "Keep the checkpoints, in compare/checkpoints.", decides=False)
    shard: str | None = SHARD.field()
    collect: bool = option(
        False, "Make the table of the cells that are there, and no cell; says which lack.", group=CLUSTER, decides=False
    )
    submit: str | None = option(
        None,
        "Write a batch script: a job array that makes the cells, and a job that collects them. It is shown, and handed"
        " in with --yes alone.",
        choices=("slurm",),
        group=CLUSTER,
        decides=False,
    )
    workers: int = option(4, "With --submit: tasks of the job array.", low=1, group=CLUSTER, decides=False)
    sbatch: str | None = option(
        None,
        'With --submit: sbatch\'s options for both jobs, such as "--partition=gpu --gpus=1 --time=8:00:00".',
        metavar="OPTIONS",
        group=CLUSTER,
        decides=False,
    )
    # YAML reads a key `yes` as true.
    hand_in: bool = option(False, "With --submit: hand the script in.", flag="--yes", group=CLUSTER, decides=False)
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
        if self.shard is not None:
            parse_shard(self.shard)
        modes = {"--shard": self.shard, "--collect": self.collect, "--submit": self.submit}
        if sum(map(bool, modes.values())) > 1:
            raise UsageError(f"{join_flags(modes)} exclude each other.", "Take one of them.")
        if self.collect and self.anew:
            raise UsageError("--collect makes no cell, and --anew makes all of them.", "Take one of them.")
        for_submit = join_flags({"--sbatch": self.sbatch, "--yes": self.hand_in})
        if for_submit and not self.submit:
            raise UsageError(f"{for_submit} {'belong' if ' and ' in for_submit else 'belongs'} to --submit.")
        for objective in self.objective:
            # A cell's own options: they have to be such as `finetune` takes.
            replace(self.finetune, objective=objective)

    @property
    def locks_workspace(self) -> bool:
        """Any number of comparisons work in one workspace, beside other commands."""
        return False
