"""What tests make with the steps: each of these is a record of options and its step, with nothing said of progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.options import AnalyzeOptions, FinetuneOptions, PrepareOptions, PruneOptions


def make_dataset(source: str | Path, out: Path, progress: Progress | None = None, **options: Any) -> Any:
    """`interlace prepare SOURCE --out OUT`."""
    from interlace_cli.core.prepare import prepare

    return prepare(PrepareOptions(source=str(source), out=out, **options), progress or Silent())


def make_analysis(model: str | Path, dataset: Path, out: Path, progress: Progress | None = None, **options: Any) -> Any:
    """`interlace analyze MODEL --dataset DATASET --out OUT`."""
    from interlace_cli.core.analyze import analyze

    made = AnalyzeOptions(model=str(model), dataset=dataset, out=out, workspace=out.parent, **options)
    return analyze(made, progress or Silent())


def make_cut(
    model: str | Path, drop: Sequence[int], out: Path, progress: Progress | None = None, **options: Any
) -> Any:
    """`interlace prune MODEL --drop-layers DROP --out OUT`; returns the checkpoint's metadata."""
    from interlace_cli.core.prune import prune

    made = PruneOptions(model=str(model), drop_layers=tuple(drop), out=out, workspace=out.parent, **options)
    return prune(made, progress or Silent()).checkpoint


def make_planned_cut(
    model: str | Path | None, plan: Path, out: Path, progress: Progress | None = None, **options: Any
) -> Any:
    """`interlace prune MODEL --plan PLAN --out OUT`; returns the checkpoint's metadata."""
    from interlace_cli.core.prune import prune

    named = None if model is None else str(model)
    made = PruneOptions(model=named, plan=plan, out=out, workspace=out.parent, **options)
    return prune(made, progress or Silent()).checkpoint


def make_healed(pruned: Path, dataset: Path, out: Path, progress: Progress | None = None, **options: Any) -> Any:
    """`interlace finetune PRUNED --dataset DATASET --out OUT`."""
    from interlace_cli.core.finetune import finetune

    made = FinetuneOptions(checkpoint=pruned, dataset=dataset, out=out, workspace=out.parent, **options)
    return finetune(made, progress or Silent())
