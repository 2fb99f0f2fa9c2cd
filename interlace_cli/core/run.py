"""`run`: the whole chain in one workspace, skipping each step whose inputs, settings and version have not changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from interlace_cli.core import analyze, evaluate, export, finetune, plan, prepare, prune, report
from interlace_cli.core.tasks import load_heldout
from interlace_cli.data.source import Selection
from interlace_cli.data.sources import SourceLocation
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation, Result
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Artifact, Record, Settings
from interlace_cli.errors import ArtifactError, InterlaceError
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import MANIFEST, hash_dataset
from interlace_cli.io.files import hash_file
from interlace_cli.io.workspace import METADATA, Workspace

STEPS = ("prepare", "analyze", "plan", "prune", "finetune", "eval", "export")
DEMO_RECIPE = Recipe(lr=5e-4, epochs=2.0, batch_size=32, grad_accum=1)
"""Two million parameters need a larger learning rate than the paper's 1e-5."""
DEMO_SELECTION = Selection(holdout=0.2)


@dataclass(frozen=True)
class RunOptions:
    """The options of each step; the defaults are those of the demo. `source` None: the dataset that is there."""

    model: str = "demo"
    source: str | None = "demo"
    place: SourceLocation = field(default_factory=SourceLocation)
    selection: Selection = DEMO_SELECTION
    analyze: analyze.AnalyzeOptions = field(default_factory=analyze.AnalyzeOptions)
    plan: plan.PlanOptions = field(default_factory=lambda: plan.PlanOptions(ratio=0.25))
    recipe: Recipe = DEMO_RECIPE
    evaluate: evaluate.EvaluateOptions = field(default_factory=evaluate.EvaluateOptions)
    export: export.ExportOptions = field(default_factory=export.ExportOptions)
    force: bool = False


class Outcome(Record):
    """One checkpoint in the record of a run."""

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
    """What `interlace run --json` prints. `seconds` holds each step that ran, `skipped` those that were up to date."""

    model: str
    workspace: str
    export: str
    dense: Outcome
    pruned: Outcome
    healed: Outcome
    plan: PlanOutcome
    recipe: dict[str, str | int | float | bool]
    device: str
    seconds: dict[str, float]
    skipped: list[str]


StepCallback = Callable[[str, str, float], None]
"""Told of `(step, state, seconds)`; state is running, done or skipped."""


def run_chain(workspace: Workspace, options: RunOptions, progress: Progress, on_step: StepCallback) -> RunRecord:
    """Brings every artifact of the workspace up to date, and returns what came of it."""
    plan.check_options(options.plan)
    chain = _Chain(workspace, options, progress, on_step)
    chain.prepare()
    chain.analyze()
    chain.plan()
    chain.prune()
    chain.finetune()
    chain.evaluate()
    chain.report()
    chain.export()
    return chain.build_record()


def measure_model(workspace: Workspace, options: RunOptions, progress: Progress, on_step: StepCallback) -> OpenedModel:
    """The first two steps alone: dataset and analysis brought up to date. Returns the dense model."""
    chain = _Chain(workspace, options, progress, on_step)
    chain.prepare()
    chain.analyze()
    return chain.dense


class _Chain:
    """One method a step: is what lies there up to date? If not, make it."""

    def __init__(self, workspace: Workspace, options: RunOptions, progress: Progress, on_step: StepCallback) -> None:
        self.space, self.options, self.progress, self.on_step = workspace, options, progress, on_step
        self.dense: OpenedModel = open_model(options.model, options.analyze.stack)
        self.seconds: dict[str, float] = {}
        self.skipped: list[str] = []

    def prepare(self) -> None:
        o, source = self.options, self.options.source
        if source is None:
            self._unless(True, "prepare", lambda: None)
            return
        self._step(
            "prepare",
            self.space.dataset / MANIFEST,
            Manifest,
            prepare.build_settings(source, o.selection, o.place),
            prepare.hash_source(source),
            lambda: prepare.prepare_dataset(
                source, self.space.dataset, o.selection, self.progress, o.place, self._may_replace("dataset")
            ),
        )

    def analyze(self) -> None:
        o, path = self.options, self.space.analysis
        importances, groupings = plan.find_importances(o.plan), plan.find_groupings(o.plan)
        wanted = replace(
            o.analyze,
            importance=(*o.analyze.importance, *sorted(importances - set(o.analyze.importance))),
            by=(*o.analyze.by, *sorted(groupings - set(o.analyze.by))),
        )
        inputs = {"model": self.dense.facts.fingerprint, "dataset": hash_dataset(self.space.dataset)}
        is_current = _is_current(path, Analysis, "analyze", analyze.build_settings(wanted), inputs)
        self._unless(
            is_current and analyze.has_importances(load_artifact(path, Analysis), wanted),
            "analyze",
            lambda: analyze.analyze_model(o.model, self.space.dataset, path, wanted, self.progress, anew=o.force),
        )

    def plan(self) -> None:
        path, o = self.space.plan, self.options
        inputs = {"analysis": hash_file(self.space.analysis), "model": self.dense.facts.fingerprint}
        self._step("plan", path, Plan, plan.build_settings(o.plan), inputs, self._make_plan)

    def _make_plan(self) -> None:
        path = self.space.plan
        if path.exists() and not self.options.force and load_artifact(path, Plan).is_edited:
            raise InterlaceError(
                f"{path} was edited by hand, and this run asks for another plan.",
                "Add --force to plan anew, or run with the settings that it was made with.",
            )
        save_artifact(plan.plan_from_analysis(self.space.analysis, self.options.plan), path)

    def prune(self) -> None:
        decided = load_artifact(self.space.plan, Plan)
        inputs = {"model": self.dense.facts.fingerprint, "plan": hash_file(self.space.plan)}
        self._step(
            "prune",
            self.space.pruned / METADATA,
            CheckpointCard,
            {"drop_layers": list(decided.drop)},
            inputs,
            lambda: prune.prune_by_plan(
                self.options.model, self.space.plan, self.space.pruned, self.progress, self._may_replace("pruned")
            ),
        )

    def finetune(self) -> None:
        o, space = self.options, self.space
        inputs = {
            "model": self.dense.facts.fingerprint,
            "plan": hash_file(space.plan),
            "pruned": open_model(space.pruned).facts.fingerprint,
            "dataset": hash_dataset(space.dataset),
        }
        self._step(
            "finetune",
            space.healed / METADATA,
            CheckpointCard,
            finetune.build_settings(o.recipe),
            inputs,
            lambda: finetune.heal_model(
                space.pruned,
                space.dataset,
                space.healed,
                o.recipe,
                self.progress,
                plan_path=space.plan,
                how=Execution(device=o.analyze.device),
                force=self._may_replace("healed"),
            ),
        )

    def evaluate(self) -> None:
        o, space = self.options, self.space
        checkpoints = [("dense", o.model), ("pruned", str(space.pruned)), ("healed", str(space.healed))]
        inputs = {name: open_model(location).facts.fingerprint for name, location in checkpoints}
        self._step(
            "eval",
            space.evaluation,
            Evaluation,
            evaluate.build_settings(o.evaluate),
            {"dataset": hash_dataset(space.dataset), **inputs},
            lambda: evaluate.evaluate_checkpoints(
                checkpoints,
                load_heldout(space.dataset, o.evaluate.samples),
                space.evaluation,
                o.evaluate,
                self.progress,
            ),
        )

    def report(self) -> None:
        """Made anew each time: it takes no time, and shows what lies there now."""
        report.write_report(self.space, self.space.report)

    def export(self) -> None:
        o, space = self.options, self.space
        self._unless(
            export.is_exported(space.healed, space.evaluation, space.export, o.export, space.dataset),
            "export",
            lambda: export.export_checkpoint(
                space.healed,
                space.evaluation,
                space.export,
                o.export,
                self.progress,
                self._may_replace("export"),
                space.dataset,
            ),
        )

    def build_record(self) -> RunRecord:
        evaluation = load_artifact(self.space.evaluation, Evaluation)
        healed = load_artifact(self.space.healed / METADATA, CheckpointCard)
        decided = load_artifact(self.space.plan, Plan)
        dense, pruned, mended = map(_to_outcome, evaluation.results)
        return RunRecord(
            model=self.dense.facts.name,
            workspace=str(self.space.root),
            export=str(self.space.export),
            dense=dense,
            pruned=pruned,
            healed=mended,
            plan=PlanOutcome(strategy=decided.strategy, drop=decided.drop, tune=decided.tune, anchor=decided.anchor),
            recipe=healed.healing.recipe if healed.healing else {},
            device=evaluation.device,
            seconds=self.seconds,
            skipped=self.skipped,
        )

    def _step(
        self,
        name: str,
        path: Path,
        cls: type[Artifact],
        settings: Settings,
        inputs: dict[str, str],
        make: Callable[[], Any],
    ) -> None:
        self._unless(_is_current(path, cls, name, settings, inputs), name, make)

    def _unless(self, is_current: bool, name: str, make: Callable[[], Any]) -> None:
        """Makes what is not up to date, and times it."""
        if is_current and (not self.options.force or (self.options.source is None and name == "prepare")):
            self.skipped.append(name)
            self.on_step(name, "skipped", 0.0)
            return
        self.on_step(name, "running", 0.0)
        began = time.monotonic()
        make()
        self.seconds[name] = round(time.monotonic() - began, 3)
        self.on_step(name, "done", self.seconds[name])

    def _may_replace(self, folder: str) -> bool:
        """A stale folder that interlace itself made is replaced; anything else only with --force."""
        path = self.space.root / folder
        return self.options.force or (path / METADATA).exists() or (path / MANIFEST).exists()


def _is_current(path: Path, cls: type[Artifact], command: str, settings: Settings, inputs: dict[str, str]) -> bool:
    if not path.exists():
        return False
    try:
        artifact = load_artifact(path, cls)
    except ArtifactError:
        return False
    return artifact.created_by == build_origin(command, settings) and artifact.inputs == inputs


def _to_outcome(result: Result) -> Outcome:
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
