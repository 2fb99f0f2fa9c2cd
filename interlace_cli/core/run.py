"""`run`: the whole chain in one workspace, a list of steps; each that is up to date is skipped.

What was made from something else is replaced with --force alone; what that would be is said before the first step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from interlace_cli.core import analyze, evaluate, export, finetune, plan, prepare, prune
from interlace_cli.core.checks import check_machine
from interlace_cli.core.inputs import find_model
from interlace_cli.core.report import write_report
from interlace_cli.core.step import Condition, State, Step, describe_differences
from interlace_cli.core.tasks import read_specs
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress, Silent
from interlace_cli.domain.record import Artifact, Settings
from interlace_cli.domain.run import PlanOutcome, RunRecord, StepOutlook, build_outcome
from interlace_cli.errors import ExistsError, InterlaceError, UsageError
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.healing.recipe import Recipe
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.datasets import MANIFEST
from interlace_cli.io.paths import expand_home
from interlace_cli.io.workspace import METADATA, Workspace
from interlace_cli.options.analyze import AnalyzeOptions
from interlace_cli.options.build import build_options, dump_call, find_preset, read_names
from interlace_cli.options.compare import CompareOptions
from interlace_cli.options.export import ExportOptions
from interlace_cli.options.option import describe
from interlace_cli.options.prepare import PrepareOptions
from interlace_cli.options.run import RunOptions
from interlace_cli.options.shared import WORKSPACE
from interlace_cli.runtime.allocator import expand_segments
from interlace_cli.runtime.lease import leased
from interlace_cli.runtime.lock import locked
from interlace_cli.strategies.decide import check_reach
from interlace_cli.strategies.needs import complete_analysis

O = TypeVar("O", RunOptions, CompareOptions)  # noqa: E741 - the usual name
STEPS = ("prepare", "analyze", "plan", "prune", "finetune", "eval", "export")
StepCallback = Callable[[str, str, float], None]
"""Called with `(step, state, seconds)`; state is running, done or skipped."""


def ignore_step(step: str, state: str, seconds: float) -> None:
    """The callback of who does not listen."""
    del step, state, seconds


def compose_options(record: type[O], given: Mapping[str, Any]) -> O:
    """The options of `run` and `compare`, with what is not `given` taken from the workspace and from the presets: the
    model, the dataset that is there or the source to prepare one from, a recipe for the demo. Raises UsageError."""
    given = read_names(record, given)
    space = Workspace(expand_home(given.get("workspace") or WORKSPACE.default))
    model = find_model(space, given.get("model"))
    source = _find_source(space, model, record, given)
    preset = find_preset(record, model, source, given)
    return build_options(record, preset, given, {"model": model, "data": source})


def run(options: RunOptions, progress: Progress, on_step: StepCallback = ignore_step) -> RunRecord:
    """Brings every artifact of the workspace up to date, and returns what came of it. Raises UsageError for options
    that cannot work, and ExistsError for what would be replaced, before the first step starts."""
    expand_segments()
    chain = Chain(options, progress, on_step)
    chain.check_options()
    chain.refuse_early()
    for name in STEPS:
        chain.bring_up_to_date(name)
        if name == "eval":
            write_report(chain.space, chain.space.report)
    return chain.build_record()


def look_ahead(options: RunOptions, progress: Progress) -> list[StepOutlook]:
    """What `run` would do, step by step, and why. Nothing is made. Raises UsageError for options that cannot work."""
    chain = Chain(options, progress, ignore_step)
    chain.check_options()
    return list(chain.iter_outlooks())


def measure_model(options: CompareOptions, progress: Progress, on_step: StepCallback) -> None:
    """The first two steps alone: dataset and analysis brought up to date. Of several processes the first makes them,
    and the others wait for it. Where nothing is to be made, nobody waits."""
    chain, folder = _build_short_chain(options, progress, on_step), options.workspace / "compare"
    with ExitStack() as held:
        if not chain.is_up_to_date(STEPS[:2]):
            held.enter_context(locked(options.workspace, "compare", progress.say))
            folder.mkdir(parents=True, exist_ok=True)
            # The lock is the kernel's, and may be unknown to other hosts.
            lease = leased(folder / ".samples.lease", "compare", progress.say, "making the dataset and the analysis")
            held.enter_context(lease)
        for name in STEPS[:2]:
            chain.bring_up_to_date(name)


def _build_short_chain(options: CompareOptions, progress: Progress, on_step: StepCallback) -> Chain:
    made = {item: getattr(options, item) for item in ("prepare", "analyze", "plan", "prune", "finetune", "evaluate")}
    shared = {name: getattr(options, name) for name in ("model", "data", "workspace", "force", "anew")}
    return Chain(RunOptions(**made, **shared), progress, on_step)


def _count_layers(model: str, stack: str | None) -> int:
    return plan.load_constraints(model, stack).num_layers


@dataclass(frozen=True)
class Chain:
    """The steps of one call, each built when its turn comes: what it depends on may be made just before. `current` are
    those that were up to date when the call began."""

    options: RunOptions
    progress: Progress
    on_step: StepCallback
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)

    @property
    def space(self) -> Workspace:
        """The workspace of the call."""
        return Workspace(self.options.workspace)

    def build_step(self, name: str) -> Step[Any] | None:
        """The step, or None where the workspace's dataset is taken as it is."""
        o = self.options
        common: dict[str, Any] = {"workspace": o.workspace, "force": o.force}
        if name == "prepare":
            return None if o.data is None else prepare.build_step(replace(o.prepare, source=o.data, **common))
        if name == "analyze":
            return analyze.build_step(self._complete_analysis(common))
        if name == "plan":
            return plan.build_step(replace(o.plan, **common))
        if name == "prune":
            return prune.build_step(replace(o.prune, model=o.model, **common))
        if name == "finetune":
            return finetune.build_step(replace(o.finetune, **common))
        if name == "eval":
            return evaluate.build_step(replace(o.evaluate, **common), self.progress, o.model)
        return export.build_step(replace(self._name_export(), push_to_hub=None, **common), self.progress)

    def _name_export(self) -> ExportOptions:
        """With the name of the repository that it goes to, where it has no other."""
        o = self.options.export
        return replace(o, name=o.name or o.push_to_hub)

    def build_own_dataset_step(self) -> Step[Any] | None:
        """The step that the workspace's dataset was made by, from where its source lay then; None if nobody knows."""
        source = prepare.load_origin(self.space.dataset)
        if source is None:
            return None
        o = self.options
        return prepare.build_step(replace(o.prepare, **source, workspace=o.workspace))

    def _complete_analysis(self, common: dict[str, Any]) -> AnalyzeOptions:
        """With all that the plan chooses by."""
        o = self.options
        assert o.model is not None
        count_layers = partial(_count_layers, o.model, o.analyze.stack or o.plan.stack)
        return replace(complete_analysis(o.analyze, [o.plan], count_layers), model=o.model, **common)

    def check_options(self) -> None:
        """All that can be known before anything is read but the model's config."""
        o = self.options
        assert o.model is not None
        check_reach(o.plan, plan.load_constraints(o.model, o.analyze.stack))
        recipe = Recipe.of(o.finetune)
        assert recipe.stages
        assert recipe.count_steps(1)
        if o.prune.is_compensated and (o.analyze.stack or LANGUAGE) != LANGUAGE:
            raise UsageError(f"--compensate is for the language model's layers, not the {o.analyze.stack} stack's.")
        if o.evaluate.tasks is not None:
            read_specs(evaluate.find_file(o.evaluate.tasks))
        if not (self.space.healed / METADATA).exists() or o.anew or o.force:
            check_machine(o)

    def refuse_early(self) -> None:
        """Raises ExistsError, with all reasons, for what this call would replace and may not."""
        if self.options.force:
            return
        refusals, is_known = [], True
        for name in STEPS:
            try:
                step = self._look(name)
            except InterlaceError:
                if is_known:
                    raise
                # What it is made of is made first; what it is asked for can be compared all the same.
                step = self._sketch_step(name)
            if step is None:
                continue
            state = step.find_state() if is_known else _find_settings_state(step)
            if state.is_stale or self._would_lose_edit(state):
                refusals.append((step, state))
            is_known = is_known and state.is_current
            if is_known:
                self.current.append(name)
        if refusals:
            raise _build_refusal(refusals)

    def is_up_to_date(self, names: Sequence[str]) -> bool:
        """Whether these steps would make nothing."""
        if self.options.anew:
            return False
        for name in names:
            try:
                step = self._look(name)
            except InterlaceError:
                # What it is made of lacks.
                return False
            if step is not None and not step.find_state().is_current:
                return False
        return True

    def _look(self, name: str) -> Step[Any] | None:
        """The step, built without a word: it is not its turn."""
        return replace(self, progress=Silent()).build_step(name)

    def _sketch_step(self, name: str) -> Step[Any] | None:
        """The step with nothing but its settings; None for one that is compared in another way."""
        o, space = self.options, self.space
        sketches: dict[str, tuple[Settings, Path, str, type[Artifact]]] = {
            "plan": (plan.build_settings(o.plan), space.plan, "", Plan),
            "prune": (
                prune.build_settings(o.prune, o.analyze.stack or LANGUAGE),
                space.pruned,
                METADATA,
                CheckpointCard,
            ),
            "finetune": (o.finetune.build_recipe_settings(), space.healed, METADATA, CheckpointCard),
            "eval": (evaluate.build_settings(o.evaluate), space.evaluation, "", Evaluation),
        }
        if name not in sketches:
            return None
        settings, out, file, record = sketches[name]
        return Step(name=name, settings=settings, inputs={}, out=out, file=file, record=record, make=_make_nothing)

    def bring_up_to_date(self, name: str) -> None:
        """Makes what is not up to date, and times it."""
        step = self.build_step(name)
        state = step.find_state() if step is not None else State(Condition.CURRENT)
        if step is None or (state.is_current and not self.options.anew):
            self._push(name)
            self.skipped.append(name)
            self.on_step(name, "skipped", 0.0)
            return
        # What was up to date when this call began may be made anew whatever came of the steps before it.
        may_replace = self.options.force or (self.options.anew and name in self.current)
        if (state.is_stale and not may_replace) or self._would_lose_edit(state):
            raise _build_refusal([(step, state)])
        step.tell_damage(state, self.progress)
        self.on_step(name, "running", 0.0)
        began = time.monotonic()
        is_in_the_way = state.condition not in (Condition.MISSING, Condition.INCOMPLETE)
        step.make(self.progress, is_in_the_way or self.options.anew)
        self._finish(name)
        self.seconds[name] = round(time.monotonic() - began, 3)
        self.on_step(name, "done", self.seconds[name])

    def _finish(self, name: str) -> None:
        """What an option asks for once its step is done."""
        o = self.options
        if name == "prune" and o.prune.verify:
            card = load_artifact(self.space.pruned / METADATA, CheckpointCard)
            found = prune.verify(replace(o.prune, model=o.model), card, self.space.pruned, self.progress)
            self.progress.say("\n".join(found.describe()))
        self._push(name)

    def _push(self, name: str) -> None:
        """What is exported, whether it was there already or not."""
        if name == "export" and self.options.export.push_to_hub:
            export.export(replace(self._name_export(), workspace=self.options.workspace), self.progress)

    def _would_lose_edit(self, state: State) -> bool:
        """Whether what is made anew was edited by hand."""
        is_edited = state.is_current and state.artifact is not None and state.artifact.is_edited
        return is_edited and self.options.anew and not self.options.force

    def iter_outlooks(self) -> Iterator[StepOutlook]:
        """What each step would do; of what depends on one that is made first not all can be known before."""
        is_known = True
        for name in STEPS:
            try:
                step = self._look(name)
            except InterlaceError as error:
                sketch = None if is_known else self._sketch_step(name)
                state = State(Condition.MISSING) if sketch is None else _find_settings_state(sketch)
                if is_known:
                    action = "refuse"
                elif state.is_current:
                    action = "replace" if self.options.force else "skip or refuse"
                else:
                    action = self._choose_action(state)
                yield StepOutlook(step=name, action=action, reasons=list(state.reasons) or [error.what.rstrip(".")])
                continue
            if step is None:
                yield StepOutlook(step=name, action="skip", reasons=["the workspace's dataset is taken"])
                continue
            state = step.find_state()
            action, reasons = self._choose_action(state), list(state.reasons)
            if action == "skip" and not is_known:
                action = "skip or replace" if self.options.force else "skip or refuse"
                reasons = ["it depends on what comes of the steps before"]
            is_known = is_known and state.is_current and not self.options.anew
            yield StepOutlook(step=name, action=action, reasons=reasons)

    def _choose_action(self, state: State) -> str:
        if self._would_lose_edit(state):
            return "refuse"
        if state.is_current:
            return "make anew" if self.options.anew else "skip"
        if state.is_stale:
            return "replace" if self.options.force else "refuse"
        return {Condition.INCOMPLETE: "complete", Condition.DAMAGED: "make anew"}.get(state.condition, "make")

    def build_record(self) -> RunRecord:
        """What lies there now."""
        evaluation = load_artifact(self.space.evaluation, Evaluation)
        healed = load_artifact(self.space.healed / METADATA, CheckpointCard)
        decided = load_artifact(self.space.plan, Plan)
        outcomes = {result.name: build_outcome(result) for result in evaluation.results}
        return RunRecord(
            model=healed.base.name,
            workspace=str(self.space.root),
            export=str(self.space.export),
            dense=outcomes["dense"],
            pruned=outcomes["pruned"],
            healed=outcomes["healed"],
            plan=PlanOutcome(strategy=decided.strategy, drop=decided.drop, tune=decided.tune, anchor=decided.anchor),
            recipe=healed.healing.recipe if healed.healing else {},
            device=evaluation.device,
            options=dump_call(self.options),
            seconds=self.seconds,
            skipped=self.skipped,
        )


def _find_settings_state(step: Step[Any]) -> State:
    """Whether it is stale whatever comes of the steps before it: it cannot be read, or is asked for in another way."""
    state = step.find_state()
    if state.artifact is None:
        return state
    if step.find_differences is not None:
        return State(Condition.MISSING)
    reasons = describe_differences(state.artifact, step.settings, state.artifact.inputs)
    return State(Condition.STALE if reasons else Condition.CURRENT, tuple(reasons), state.artifact)


def _make_nothing(progress: Progress, may_replace: bool) -> Any:
    raise AssertionError("a sketch of a step is not made")


def _build_refusal(found: list[tuple[Step[Any], State]]) -> ExistsError:
    first = found[0][0].build_refusal(found[0][1])
    others = [step.out.name for step, _ in found[1:]]
    more = f" {', '.join(others)} would be replaced too." if others else ""
    return ExistsError(
        f"{first.what}{more}",
        "Add --force to replace what was made from something else, or name another --workspace.",
    )


def _find_source(space: Workspace, model: str, record: type[O], given: Mapping[str, Any]) -> str | None:
    """The source that a dataset is prepared from; None where the workspace's dataset is taken as it is."""
    if given.get("data") is not None:
        return str(given["data"])
    manifest_path = space.dataset / MANIFEST
    names = {slot.option.run_name or slot.name for slot in describe(PrepareOptions) if not slot.option.is_alone}
    asked = sorted((names - {"seed", "workspace", "force", "threads"}) & given.keys())
    if not manifest_path.exists():
        if model == "demo":
            return "demo"
        command = "run" if record is RunOptions else "compare"
        raise UsageError(
            f"{command} {model} needs --data.", "Give a source as `prepare` takes it, or run `interlace prepare` first."
        )
    if not asked:
        return None
    manifest = load_artifact(manifest_path, Manifest)
    if manifest.source == "demo" or manifest.location is not None:
        return manifest.location or manifest.source
    raise UsageError(
        f"--{asked[0].replace('_', '-')} says how samples are drawn, and the workspace has its dataset already.",
        "Name the source with --data to prepare it again, or leave the option out.",
    )
