"""`report`: one page of everything that a workspace knows of a model: what was measured, decided, healed, and its
cost."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.record import Artifact
from interlace_cli.errors import InterlaceError, MissingInputError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.datasets import MANIFEST
from interlace_cli.io.files import write_atomically
from interlace_cli.io.workspace import METADATA, Workspace
from interlace_cli.report.html import Pieces, build_report

A = TypeVar("A", bound=Artifact)


def write_report(space: Workspace, out: Path, evaluation_path: Path | None = None) -> Pieces:
    """Builds the page of what is there and fits together, and writes it to `out`.

    Raises MissingInputError if there is neither an analysis nor a plan nor an evaluation.
    """
    pieces = collect_pieces(space, evaluation_path or space.evaluation)
    if pieces.evaluation is None and pieces.analysis is None and pieces.plan is None:
        raise MissingInputError(f"{space.root} holds nothing to report on.", "Run `interlace analyze` first.")
    write_atomically(out, build_report(pieces).encode())
    return pieces


def collect_pieces(space: Workspace, evaluation_path: Path) -> Pieces:
    """The artifacts of the workspace; those of another model than the evaluation's, or the plan's, are left out."""
    evaluation = _load(evaluation_path, Evaluation)
    plan, analysis = _load(space.plan, Plan), _load(space.analysis, Analysis)
    cards = [_load(folder / METADATA, CheckpointCard) for folder in (space.pruned, space.healed)]
    dense = {result.fingerprint for result in evaluation.results[:1]} if evaluation else set()
    dense = dense or ({plan.model.fingerprint} if plan and plan.model else set())
    if dense:
        plan = plan if plan and (plan.model is None or plan.model.fingerprint in dense) else None
        analysis = analysis if analysis and analysis.model.fingerprint in dense else None
        cards = [card if card and card.base.fingerprint in dense else None for card in cards]
    return Pieces(analysis, plan, cards[0], cards[1], evaluation, _load(space.dataset / MANIFEST, Manifest))


def _load(path: Path, cls: type[A]) -> A | None:
    """The artifact, if it is there and can be read: a report leaves out what it cannot show."""
    try:
        return load_artifact(path, cls) if path.exists() else None
    except InterlaceError:
        return None
