"""`report`: one page of everything that a workspace knows of a model: what was measured, decided, healed, and its
cost."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from interlace_cli.core.lineage import Member, find_mismatches
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.record import Artifact
from interlace_cli.errors import ExistsError, InterlaceError, MissingInputError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.checkpoints import fingerprint, open_checkpoint
from interlace_cli.io.datasets import MANIFEST
from interlace_cli.io.files import write_atomically
from interlace_cli.io.workspace import METADATA, Workspace
from interlace_cli.options.report import ReportOptions
from interlace_cli.report.caveats import describe_overlap
from interlace_cli.report.html import Pieces, build_report

REPORT_MARK, MARK_WITHIN = b"<title>interlace: ", 1024
"""What stands near the beginning of each report, and within how many bytes."""
A = TypeVar("A", bound=Artifact)


def report(options: ReportOptions) -> Path:
    """Writes the page, and says where it is. Raises ExistsError where another file is: a report is made anew freely."""
    space = Workspace(options.workspace)
    out = options.out or space.report
    if out.exists() and not options.force and REPORT_MARK not in out.read_bytes()[:MARK_WITHIN]:
        raise ExistsError(f"{out} exists already, and is no report of interlace.", "Add --force to replace it.")
    write_report(space, out)
    return out


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
    """The artifacts of the workspace; those of another model than the evaluation's, or the plan's, are left out, and
    what does not belong together of the others is said."""
    evaluation = _load(evaluation_path, Evaluation)
    plan, analysis = _load(space.plan, Plan), _load(space.analysis, Analysis)
    pruned, healed = (_load(folder / METADATA, CheckpointCard) for folder in (space.pruned, space.healed))
    dense = {result.fingerprint for result in evaluation.results[:1]} if evaluation else set()
    dense = dense or ({plan.model.fingerprint} if plan and plan.model else set())
    if dense:
        plan = plan if plan and (plan.model is None or plan.model.fingerprint in dense) else None
        analysis = analysis if analysis and analysis.model.fingerprint in dense else None
        pruned = pruned if pruned and pruned.base.fingerprint in dense else None
        healed = healed if healed and healed.base.fingerprint in dense else None
    notices = tuple(_find_notices(space, plan, pruned, healed, evaluation))
    dataset = _load(space.dataset / MANIFEST, Manifest)
    return Pieces(analysis, plan, pruned, healed, evaluation, dataset, notices)


def _find_notices(
    space: Workspace,
    plan: Plan | None,
    pruned: CheckpointCard | None,
    healed: CheckpointCard | None,
    evaluation: Evaluation | None,
) -> list[str]:
    members = []
    for folder, card in ((space.pruned, pruned), (space.healed, healed)):
        try:
            if card is not None:
                members.append(Member(folder.name, fingerprint(open_checkpoint(folder)), card))
        except InterlaceError:
            continue
    found = find_mismatches(members, plan)
    if evaluation is not None:
        there = {one.name: one.fingerprint for one in members}
        changed = [one.name for one in evaluation.results if there.get(one.name, one.fingerprint) != one.fingerprint]
        found += [
            f"the evaluation and {name} do not belong together: {name} was made again after it" for name in changed
        ]
        found += [line.rstrip(".") for line in describe_overlap(evaluation)]
    return found


def _load(path: Path, cls: type[A]) -> A | None:
    """The artifact, if it is there and can be read: a report leaves out what it cannot show."""
    try:
        return load_artifact(path, cls) if path.exists() else None
    except InterlaceError:
        return None
