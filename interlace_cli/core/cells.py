"""The cells of a comparison: which there are, and what each depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from interlace_cli import __version__
from interlace_cli.core import evaluate, plan
from interlace_cli.core.cell_checkpoints import CheckpointMakers, Layers, Make
from interlace_cli.core.inputs import hash_model, hash_split
from interlace_cli.core.shared_cuts import Cut
from interlace_cli.core.step import Step
from interlace_cli.core.tasks import hash_specs, load_heldout, load_tasks
from interlace_cli.domain.comparison import Cell, SpeedCell, Unreached
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import ArtifactError, RatioError
from interlace_cli.evaluation import checkpoints
from interlace_cli.evaluation.tasks import EvalTask, keep_readable_tasks
from interlace_cli.evaluation.usable_tasks import keep_usable_tasks
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.artifacts import build_origin, load_artifact
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.compare import SPARSE, CompareOptions
from interlace_cli.options.evaluate import MODEL
from interlace_cli.options.plan import PlanOptions
from interlace_cli.sparsity.pattern import Pattern
from interlace_cli.strategies.decide import decide_plan

C = TypeVar("C", Cell, SpeedCell)
TIMED = 41
"""How many times two models are timed in turns."""
SCORED = (*("samples", "max_new_tokens", "generation_config", "min_pixels", "max_pixels", "attention", "batch_size"),)


@dataclass(frozen=True)
class Method:
    """A strategy with its options at one ratio."""

    name: str
    ratio: float
    options: PlanOptions


@dataclass(frozen=True)
class Job:
    """A cell to be: what it depends on, and what makes its checkpoint, of a cut that it shares with others. `step` says
    what it depends on and where it lies; it is made in `cell_work`."""

    step: Step[Cell]
    drop: Layers
    tune: Layers
    seed: int | None
    stage: str
    make: Make
    cut: Cut | None

    @property
    def file(self) -> str:
        """Name of the cell's file: what is the same cell has the same one."""
        return self.step.out.name


@dataclass(frozen=True)
class Line:
    """A row to be: its jobs differ in the healing seed alone."""

    method: str
    ratio: float | None
    sparsity: float
    jobs: list[Job]

    def describe(self, job: Job) -> str:
        """One of its cells in words."""
        where = "" if self.ratio is None else f" at {self.ratio:.1%}"
        return f"{self.method}{where}" + ("" if job.seed is None else f", healed, seed {job.seed}")


def hash_asked(options: CompareOptions) -> dict[str, str]:
    """The samples that every cell is asked, by content."""
    space = Workspace(options.workspace)
    if options.evaluate.tasks is None:
        return {"heldout": hash_split(space.dataset, "heldout")}
    return hash_specs(evaluate.find_file(options.evaluate.tasks), space.tasks)


def open_grid(options: CompareOptions, grid: Sequence[Method], progress: Progress) -> Grid:
    """With the samples that are asked."""
    space = Workspace(options.workspace)
    assert options.model is not None
    dense = open_model(options.model, options.analyze.stack or LANGUAGE)
    if options.evaluate.tasks is None:
        tasks = load_heldout(space.dataset, options.evaluate.samples)
    else:
        file = evaluate.find_file(options.evaluate.tasks)
        tasks = load_tasks(file, space.tasks, options.evaluate.samples, progress)
    tasks = keep_readable_tasks(tasks, dense.facts.model_type, progress.say)
    # What is cut from it has its processor.
    tasks, _ = keep_usable_tasks([dense], tasks, options.evaluate, progress)
    device, dtype = checkpoints.describe_machine(options.evaluate)
    return Grid(options, grid, space, dense, tasks, hash_asked(options), device, dtype, progress)


@dataclass(frozen=True)
class Grid:
    """All cells of one call. `asked` names the samples by content; `device` and `dtype` are what `auto` came to."""

    options: CompareOptions
    grid: Sequence[Method]
    space: Workspace
    dense: OpenedModel
    tasks: Sequence[EvalTask]
    asked: Mapping[str, str]
    device: str
    dtype: str
    progress: Progress
    plans: dict[tuple[str, float], Plan] = field(default_factory=dict)
    unreached: list[Unreached] = field(default_factory=list)
    _older: dict[type, list[Any]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the cells are."""
        return self.space.root / "compare"

    @property
    def makers(self) -> CheckpointMakers:
        """What makes the checkpoint of a cell."""
        return CheckpointMakers(self.options, self.stack, self.progress)

    @property
    def samples(self) -> list[Sample]:
        """All samples that are asked, in order."""
        return [sample for task in self.tasks for sample in task.samples]

    @property
    def stack(self) -> str:
        """Whose layers are compared."""
        return self.dense.facts.stack

    def decide_plans(self) -> None:
        """A plan for each method and ratio; what cannot drop so much is left out, with the reason."""
        for method in self.grid:
            try:
                self.plans[method.name, method.ratio] = self._decide(method.options)
            except RatioError as error:
                self.unreached.append(Unreached(method=method.name, ratio=method.ratio, reason=error.what))
                self.progress.say(f"left out: {error.what}")

    def _decide(self, options: PlanOptions) -> Plan:
        basis = plan.find_basis(replace(options, workspace=self.space.root))
        origin = build_origin("plan", plan.build_settings(options))
        return decide_plan(basis.scores, options, basis.constraints, basis.calibration, origin, basis.inputs)

    def list_lines(self) -> list[Line]:
        """In the order of the table."""
        o = self.options
        lines = [Line("dense", None, 0.0, [self._job("dense", None, (), None, lambda out: self.dense.checkpoint.path)])]
        pattern = Pattern.parse(o.sparsity)
        for method in (method for method in SPARSE if method in o.baselines):
            jobs = [self._job(method, None, (), None, self.makers.sparsify(method))]
            lines.append(Line(f"{method} {pattern}", None, 1 - pattern.keep / pattern.group, jobs))
        reference = self._find_reference()
        if "dense-ft" in o.baselines and reference is not None:
            tune = tuple(reference.tune)
            jobs = [self._job("dense-ft", None, tune, seed, self.makers.heal_dense(tune, seed)) for seed in o.seeds]
            lines.append(Line("dense-ft", None, 0.0, jobs))
        for (name, ratio), made in self.plans.items():
            for compensation in o.compensate:
                lines += self._list_method(name, ratio, made, compensation)
        return lines

    def _list_method(self, name: str, ratio: float, made: Plan, compensation: str) -> list[Line]:
        """The cut of a plan, and the healed ones."""
        o, cut, tune = self.options, self.name_cut(tuple(made.drop), compensation), tuple(made.tune)
        gone = len(cut.drop) / self.dense.facts.num_layers
        label = name if compensation == "none" else f"{name} + {compensation}"
        lines = [Line(label, ratio, gone, [self._job("pruned", cut, (), None, self.makers.prune(cut))])]
        for objective in o.objective if tune else ():
            jobs = [
                self._job("healed", cut, tune, seed, self.makers.heal(cut, tune, seed, objective), objective)
                for seed in self._seeds_at(ratio)
            ]
            shown = f"{label} · {objective}" if len(o.objective) > 1 else label
            lines.append(Line(shown, ratio, gone, jobs))
        return lines

    def _seeds_at(self, ratio: float) -> tuple[int, ...]:
        """All seeds, or at other ratios than `more_seeds_at` the first alone."""
        where = self.options.more_seeds_at
        return self.options.seeds if where in (None, ratio) else self.options.seeds[:1]

    def _find_reference(self) -> Plan | None:
        """The plan whose tuned layers Dense-FT trains: the first strategy's, at the ratio nearest to a quarter."""
        found = [(abs(ratio - 0.25), made) for (name, ratio), made in self.plans.items() if made.tune]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def name_cut(self, drop: Layers, compensation: str) -> Cut:
        """With a name after all that the pruned checkpoint depends on."""
        settings, inputs = self._find_calibration() if compensation != "none" else ({}, {})
        settings |= {"stack": self.stack, "drop": list(drop), "compensate": compensation}
        inputs |= hash_model(self.dense.facts)
        named = Step(name="prune", settings=settings, inputs=inputs, out=Path(), record=Cell, make=make_nothing)
        return Cut(drop, compensation, named.key)

    def _find_calibration(self) -> tuple[Settings, dict[str, str]]:
        """Settings and inputs of what is calibrated."""
        calibrated = self.options.prune.build_settings("samples", "batch_size")
        return {"calibrated": calibrated}, {"calibration": hash_split(self.space.dataset, "calibration")}

    def _job(
        self, stage: str, cut: Cut | None, tune: Layers, seed: int | None, make: Make, objective: str = "ce"
    ) -> Job:
        o = self.options
        drop, compensation = (cut.drop, cut.compensation) if cut is not None else ((), "none")
        settings: Settings = {
            "stage": stage,
            # Where no layer goes and none is tuned it is the same whatever is compared.
            "stack": self.stack if drop or tune else LANGUAGE,
            "drop": list(drop),
            "tune": list(tune),
            "compensate": compensation,
            # Not the device, which moves figures by rounding alone: machines of several kinds share the cells.
            "dtype": self.dtype,
            **o.evaluate.build_settings(*SCORED),
        }
        if o.evaluate.generation_config == MODEL:
            # A model's own config may sample.
            settings["generation_seed"] = o.evaluate.seed
        inputs = {**hash_model(self.dense.facts), **self.asked}
        if stage in SPARSE:
            settings["sparsity"] = o.sparsity
        if compensation != "none" or stage == "wanda":
            calibrated, samples = self._find_calibration()
            settings, inputs = settings | calibrated, inputs | samples
        if seed is not None:
            settings["recipe"] = {**o.finetune.build_recipe_settings(), "seed": seed, "objective": objective}
            inputs["train"] = hash_split(self.space.dataset, "train")
        named = Step(name="compare", settings=settings, inputs=inputs, out=Path(), record=Cell, make=make_nothing)
        words = (stage, named.key, *(() if seed is None else (f"seed{seed}",)))
        step = replace(named, out=self.folder / f"{'-'.join(words)}.json")
        return Job(step, drop, tune, seed, stage, make, cut)

    def find(self, step: Step[C]) -> C | None:
        """The cell of a step, if it is there: also under the name that it had while the device was in it."""
        state = step.find_state()
        if state.is_current:
            return state.artifact  # type: ignore[return-value]
        settings, inputs = step.settings, dict(step.inputs)
        for cell in self._list_older(step.record):
            then = cell.created_by.settings
            if cell.inputs == inputs and then == {**settings, "device": then["device"]}:
                return cell.model_copy(update={"device": str(then["device"])})
        return None

    def _list_older(self, record: type[C]) -> list[C]:
        """Cells of this version that were named after the device, too."""
        if record not in self._older:
            self._older[record] = [
                cell
                for path in sorted(self.folder.glob("*.json"))
                if (cell := _load_or_none(path, record)) is not None
                and "device" in cell.created_by.settings
                and cell.created_by.interlace == __version__
            ]
        return self._older[record]

    def list_timed(self, jobs: Sequence[Job]) -> dict[str, Job]:
        """Which timings there are, and the first job of each."""
        timed = {key: job for job in reversed(jobs) if (key := self.find_speed_key(job)) is not None}
        return dict(sorted(timed.items()))

    def build_speed_step(self, key: str) -> Step[SpeedCell]:
        """What a timing depends on, and where it lies."""
        settings: Settings = {
            "timed": key,
            "stack": self.stack,
            "repeats": TIMED,
            "dtype": self.dtype,
            **self.options.evaluate.build_settings("min_pixels", "max_pixels", "attention", "generation_config"),
        }
        inputs = {**hash_model(self.dense.facts), **self.asked}
        named = Step(name="compare", settings=settings, inputs=inputs, out=Path(), record=SpeedCell, make=make_nothing)
        return replace(named, out=self.folder / f"speed-{named.key}.json")

    def find_speed_key(self, job: Job) -> str | None:
        """Which timing is a cell's: where all layers weigh the same, it is their number that counts. None for one that
        computes what the dense model does."""
        if not self.options.evaluate.speed:
            return None
        if job.drop:
            is_even = len(set(self.dense.facts.layer_bytes)) == 1
            return str(len(job.drop)) if is_even else "-".join(map(str, job.drop))
        return job.stage if job.stage in SPARSE and checkpoints.has_sparse_kernels(self.options.evaluate) else None


def make_nothing(progress: Progress, may_replace: bool) -> Any:
    """The step of a cell says what it is; `cell_work` makes it."""
    raise AssertionError("a cell is made under a lease")


def _load_or_none(path: Path, record: type[C]) -> C | None:
    try:
        return load_artifact(path, record)
    except ArtifactError:
        return None
