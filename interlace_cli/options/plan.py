"""`plan`: how many layers go, and by what they are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.errors import UsageError
from interlace_cli.options.option import Options, option
from interlace_cli.options.shared import (
    FIGURE,
    FORCE,
    OUT,
    PAPER,
    PLACES,
    PROTECT,
    SEED,
    SELECTION,
    STACK,
    WORKSPACE,
    check_figure,
    parse_weights,
)

STRATEGIES = (
    *("interlace", "interlace_oa", "interlace_tn", "random", "consecutive"),
    *("shortgpt", "angular", "sleb", "taylor"),
)
CRITERIA = ("similarity", "loss", "taylor")
SEARCHES = ("greedy", "optimal")
TUNED = ("paired", "nearest", "none")


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """`ratio` or `drop`, a number of layers. `protect` None: DeepStack layers and the last; `tune` None: as the
    strategy says, `nearest` where it does not say; `threshold` None: the lowest S_3 of the triplets taken."""

    ratio: float | None = option(
        None, "Share of the layers to drop.", low=0, high=1, is_open=True, metavar="0.25", group=SELECTION
    )
    drop: int | None = option(None, "Number of layers to drop, instead of --ratio.", low=1, group=SELECTION)
    strategy: str | None = option(
        None, "How layers are chosen.", choices=STRATEGIES, shown_default="interlace", group=SELECTION
    )
    criterion: str = option(
        "similarity",
        "What `interlace` ranks triplets by: similarity, or the loss increase of the drop, measured (loss) or estimated"
        " (taylor).",
        choices=CRITERIA,
        older=("rank",),
        group=SELECTION,
    )
    selection: str = option(
        "greedy",
        "How `interlace` puts triplets together: the best one each time, or the best set of them.",
        choices=SEARCHES,
        older=("assign",),
        run_name="triplet_selection",
        group=SELECTION,
    )
    tune: str | None = option(
        None,
        "Which layers are tuned for the dropped ones.",
        choices=TUNED,
        shown_default="as the strategy says, or nearest",
        group=SELECTION,
    )
    threshold: float | None = option(
        None,
        "Similarity S2 that a pair needs to be taken.",
        low=-1,
        high=1,
        shown_default="the lowest S3 of the triplets taken",
        group=SELECTION,
    )
    weight: tuple[tuple[str, float], ...] = option(
        (),
        "Plan for these tokens, sources or kinds alone, such as text=2,chartqa=1.",
        parse=parse_weights,
        metavar="NAME=WEIGHT",
        group=SELECTION,
    )
    protect: tuple[int, ...] | None = PROTECT.field()
    paper: bool = PAPER.field()
    stack: str | None = STACK.field()
    scores: tuple[Path, Path, Path] | None = option(
        None,
        "Plan from the three released score files, with no model at hand.",
        is_alone=True,
        decides=False,
        group=PLACES,
    )
    analysis: Path | None = option(
        None, "An analysis, instead of the workspace's.", is_alone=True, decides=False, group=PLACES
    )
    model: str | None = option(
        None,
        "Model to read layer constraints from: demo, a folder or a Hub id (only config.json is needed).",
        is_alone=True,
        decides=False,
        group=PLACES,
    )
    figure: Path | None = FIGURE.field()
    dry_run: bool = option(False, "Show the plan, and write nothing.", is_alone=True, decides=False)
    seed: int = SEED.field()
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    force: bool = FORCE.field()

    @property
    def chosen_strategy(self) -> str:
        """The strategy, or the one that is taken where none is named."""
        return self.strategy or "interlace"

    def check(self) -> None:
        """Raises UsageError for options that contradict each other, whatever the model."""
        if self.ratio is not None and self.drop is not None:
            raise UsageError("plan needs either --ratio or --drop.", "Such as --ratio 0.25.")
        if self.paper and self.protect:
            raise UsageError("--paper protects nothing, and --protect does.", "Give one of them.")
        if self.chosen_strategy != "interlace":
            own = {
                "--criterion": self.criterion != "similarity",
                "--selection": self.selection != "greedy",
                "--threshold": self.threshold is not None,
            }
            wrong = next((flag for flag, is_given in own.items() if is_given), None)
            if wrong is not None:
                raise UsageError(f"{wrong} belongs to the strategy interlace, not to {self.strategy}.", "Leave it out.")
        check_figure(self.figure)
