"""`eval --harness` and `eval --import`: benchmarks of outside harnesses, beside what stands in the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from interlace_cli.core.checkpoints import find_checkpoints, open_family
from interlace_cli.domain.evaluation import Benchmarks, Evaluation
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import ExistsError, InterlaceError
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.evaluate import EvaluateOptions


def evaluate_by_harness(options: EvaluateOptions, progress: Progress) -> Evaluation:
    """Runs an outside harness, or reads what one has left, beside what stands in the evaluation."""
    from interlace_cli.evaluation.harness.benchmarks import choose_benchmarks
    from interlace_cli.evaluation.harness.runner import import_results, run_harness

    space = Workspace(options.workspace)
    out = options.out or space.evaluation
    has_models = options.checkpoints or space.pruned.exists() or not options.import_results
    known = find_checkpoints(options.checkpoints, space) if has_models else []
    opened = open_family(known, options.allow_mismatch, progress)
    fingerprints = {one.name: one.opened.facts.fingerprint for one in opened}
    if options.import_results:
        wanted = {name for name, _ in options.import_results}
        fingerprints = {name: value for name, value in fingerprints.items() if name in wanted}
        found = import_results(options.import_results, fingerprints)
        _check_replaceable(out, fingerprints, options.force)
    else:
        asked = choose_benchmarks(options.tasks or "paper")
        _check_replaceable(out, fingerprints, options.force)
        found = run_harness(known, asked, space.root / "harness", options, progress)
    return _save_benchmarks(found, out)


def _check_replaceable(out: Path, fingerprints: Mapping[str, str], force: bool) -> None:
    """Raises ExistsError if benchmarks at `out` would be lost, or an evaluation of other checkpoints; before hours are
    spent on it."""
    if force or not out.exists():
        return
    found = load_artifact(out, Evaluation)
    if found.benchmarks is not None or not _is_of(found, fingerprints):
        what = "benchmarks" if found.benchmarks is not None else "an evaluation of other checkpoints"
        raise ExistsError(f"{out} has {what} already.", "Add --force to replace them, or name another place.")


def _save_benchmarks(benchmarks: Benchmarks, out: Path) -> Evaluation:
    """Into the evaluation that stands at `out`, if it is of the same checkpoints; else into one of their own."""
    evaluation = _find_evaluation(out, benchmarks) or Evaluation(
        kind=Evaluation.KIND,
        schema_version=Evaluation.SCHEMA,
        created_by=build_origin("eval", {"harness": benchmarks.harness}),
        inputs={row.name: row.fingerprint for row in benchmarks.rows if row.fingerprint},
    )
    evaluation = evaluation.model_copy(update={"benchmarks": benchmarks})
    save_artifact(evaluation, out)
    return evaluation


def _find_evaluation(out: Path, benchmarks: Benchmarks) -> Evaluation | None:
    if not out.exists():
        return None
    try:
        found = load_artifact(out, Evaluation)
    except InterlaceError:
        return None
    fingerprints = {row.name: row.fingerprint for row in benchmarks.rows if row.fingerprint}
    return found if found.results and _is_of(found, fingerprints) else None


def _is_of(evaluation: Evaluation, fingerprints: Mapping[str, str]) -> bool:
    """Whether it evaluated no other checkpoint under one of these names."""
    there = {result.name: result.fingerprint for result in evaluation.results}
    return all(there.get(name, own) == own for name, own in fingerprints.items())
