"""The cells of a comparison: which there are, what each depends on, and how it is made and evaluated."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from interlace_cli.core import evaluate, plan
from interlace_cli.core.cell_checkpoints import CheckpointMakers, Layers, Make
from interlace_cli.core.checks import check_machine
from interlace_cli.core.inputs import hash_model, hash_split
from interlace_cli.core.lineage import check_overlap, count_seen
from interlace_cli.core.step import Step
from interlace_cli.core.tasks import hash_specs, load_heldout, load_tasks
from interlace_cli.domain.comparison import Cell, SpeedCell, Unreached
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Artifact, Settings
from interlace_cli.errors import RatioError
from interlace_cli.evaluation import checkpoints
from interlace_cli.evaluation.table import Measured
from interlace_cli.evaluation.tasks import EvalTask, keep_readable_tasks
from interlace_cli.evaluation.usable_tasks import keep_usable_tasks
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.compare import SPARSE, CompareOptions
from interlace_cli.options.evaluate import MODEL
from interlace_cli.options.plan import PlanOptions
from interlace_cli.sparsity.pattern import Pattern
from interlace_cli.strategies.decide import decide_plan

A = TypeVar("A", bound=Artifact)
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
    """A cell to be: the step that makes it, and its checkpoint."""

    step: Step[Cell]
    drop: Layers
    tune: Layers
    seed: int | None
    stage: str
    make: Make

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
    labels: dict[str, str] = field(default_factory=dict)
    plans: dict[tuple[str, float], Plan] = field(default_factory=dict)
    unreached: list[Unreached] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the cells are."""
        return self.space.root / "compare"

    @property
    def work(self) -> Path:
        """For checkpoints that are needed on the way."""
        return self.folder / "work"

    @property
    def makers(self) -> CheckpointMakers:
        """What makes the checkpoint of a cell."""
        return CheckpointMakers(self.options, self.work, self.stack, self.progress)

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

    def measure(self, lines: Sequence[Line]) -> tuple[list[Measured], float]:
        """What each line's cells found, of those that are there and those that are made now; and the seconds that it
        took to make them all."""
        self.labels.update({job.file: line.describe(job) for line in reversed(lines) for job in line.jobs})
        jobs = {job.file: job for line in lines for job in line.jobs}
        cells = {file: cell for file, job in jobs.items() if (cell := self._load(job.step)) is not None}
        missing = [job for file, job in jobs.items() if file not in cells]
        self.progress.say(f"{len(jobs)} cells, {len(cells)} of them are there")
        if any(job.seed is not None for job in missing):
            check_machine(self.options)
        for number, job in enumerate(missing, start=1):
            cells[job.file] = job.step.make(self.progress, True)
            label = self.labels[job.file]
            self.progress.say(f"{number}/{len(missing)} {label}: {cells[job.file].seconds:.0f} s")
        timed = {key: job for job in jobs.values() if (key := self._find_speed_key(job)) is not None}
        speeds = {key: self._time(key, job) for key, job in sorted(timed.items())}
        shutil.rmtree(self.work, ignore_errors=True)
        measured = [
            Measured(
                line.method,
                line.ratio,
                line.sparsity,
                [cells[job.file] for job in line.jobs],
                speeds.get(self._find_speed_key(line.jobs[0]) or ""),
            )
            for line in lines
        ]
        return measured, sum(cell.seconds for cell in cells.values())

    def _decide(self, options: PlanOptions) -> Plan:
        basis = plan.find_basis(replace(options, workspace=self.space.root))
        origin = build_origin("plan", plan.build_settings(options))
        return decide_plan(basis.scores, options, basis.constraints, basis.calibration, origin, basis.inputs)

    def list_lines(self) -> list[Line]:
        """In the order of the table."""
        o = self.options
        lines = [Line("dense", None, 0.0, [self._job("dense", (), (), None, lambda out: self.dense.checkpoint.path)])]
        pattern = Pattern.parse(o.sparsity)
        for method in (method for method in SPARSE if method in o.baselines):
            jobs = [self._job(method, (), (), None, self.makers.sparsify(method))]
            lines.append(Line(f"{method} {pattern}", None, 1 - pattern.keep / pattern.group, jobs))
        reference = self._find_reference()
        if "dense-ft" in o.baselines and reference is not None:
            tune = tuple(reference.tune)
            jobs = [self._job("dense-ft", (), tune, seed, self.makers.heal_dense(tune, seed)) for seed in o.seeds]
            lines.append(Line("dense-ft", None, 0.0, jobs))
        for (name, ratio), made in self.plans.items():
            for compensation in o.compensate:
                lines += self._list_method(name, ratio, made, compensation)
        return lines

    def _list_method(self, name: str, ratio: float, made: Plan, compensation: str) -> list[Line]:
        """The cut of a plan, and the healed ones."""
        o, drop, tune = self.options, tuple(made.drop), tuple(made.tune)
        gone = len(drop) / self.dense.facts.num_layers
        label = name if compensation == "none" else f"{name} + {compensation}"
        cut = self._job("pruned", drop, (), None, self.makers.prune(drop, compensation), compensation)
        lines = [Line(label, ratio, gone, [cut])]
        for objective in o.objective if tune else ():
            jobs = [
                self._job(
                    "healed",
                    drop,
                    tune,
                    seed,
                    self.makers.heal(drop, tune, seed, objective, compensation),
                    compensation,
                    objective,
                )
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

    def _job(
        self,
        stage: str,
        drop: Layers,
        tune: Layers,
        seed: int | None,
        make: Make,
        compensation: str = "none",
        objective: str = "ce",
    ) -> Job:
        o = self.options
        settings: Settings = {
            "stage": stage,
            # Where no layer goes and none is tuned it is the same whatever is compared.
            "stack": self.stack if drop or tune else LANGUAGE,
            "drop": list(drop),
            "tune": list(tune),
            "compensate": compensation,
            # Not the number of threads, which moves figures by rounding alone.
            "device": self.device.partition(",")[0],
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
            settings |= {"calibrated": o.prune.build_settings("samples", "batch_size")}
            inputs["calibration"] = hash_split(self.space.dataset, "calibration")
        if seed is not None:
            settings["recipe"] = {**o.finetune.build_recipe_settings(), "seed": seed, "objective": objective}
            inputs["train"] = hash_split(self.space.dataset, "train")

        def answer(progress: Progress, may_replace: bool) -> Cell:
            del progress, may_replace
            return self._answer(job)

        named = Step(name="compare", settings=settings, inputs=inputs, out=Path(), record=Cell, make=answer)
        words = (stage, named.key, *(() if seed is None else (f"seed{seed}",)))
        step = replace(named, out=self.folder / f"{'-'.join(words)}.json")
        job = Job(step, drop, tune, seed, stage, make)
        return job

    def _load(self, step: Step[A]) -> A | None:
        """The cell, if it is there."""
        state = step.find_state()
        return state.artifact if state.is_current and not self.options.anew else None  # type: ignore[return-value]

    def _answer(self, job: Job) -> Cell:
        began = time.monotonic()
        out = (self.folder / "checkpoints" if self.options.keep else self.work) / job.step.out.stem
        path = job.make(out)
        opened, samples, label = open_model(path, self.stack), self.samples, self.labels[job.file]
        check_overlap(
            {label: count_seen(opened.checkpoint.path, samples)}, len(samples), self.options.evaluate.allow_overlap
        )
        answered = checkpoints.answer_samples(label, opened, self.tasks, self.options.evaluate, self.progress)
        scored = answered.scored
        cell = Cell(
            kind=Cell.KIND,
            schema_version=Cell.SCHEMA,
            created_by=job.step.origin,
            inputs=dict(job.step.inputs),
            name=label,
            dropped=list(job.drop),
            tuned=list(job.tune),
            seed=job.seed,
            loss=answered.loss or 0.0,
            points=list(scored.points),
            weights=None if scored.weights is None else list(scored.weights),
            seconds=round(time.monotonic() - began, 3),
        )
        save_artifact(cell, job.step.out)
        shutil.rmtree(self.work, ignore_errors=True)
        return cell

    def _find_speed_key(self, job: Job) -> str | None:
        """Which timing is a cell's: where all layers weigh the same, it is their number that counts. None for one that
        computes what the dense model does."""
        if not self.options.evaluate.speed:
            return None
        if job.drop:
            is_even = len(set(self.dense.facts.layer_bytes)) == 1
            return str(len(job.drop)) if is_even else "-".join(map(str, job.drop))
        return job.stage if job.stage in SPARSE and checkpoints.has_sparse_kernels(self.options.evaluate) else None

    def _time(self, key: str, job: Job) -> SpeedCell:
        """TTFT of the dense model and of the cell's checkpoint before healing, in turns."""
        settings: Settings = {
            "timed": key,
            "stack": self.stack,
            "repeats": TIMED,
            "device": self.device,
            "dtype": self.dtype,
            **self.options.evaluate.build_settings("min_pixels", "max_pixels", "attention", "generation_config"),
        }
        inputs = {**hash_model(self.dense.facts), **self.asked}

        def time_both(progress: Progress, may_replace: bool) -> SpeedCell:
            del may_replace
            short = (self.makers.prune(job.drop, "none") if job.drop else job.make)(self.work / "to-time")
            models = [open_model(where, self.stack).checkpoint.path for where in (self.dense.checkpoint.path, short)]
            task = next((task for task in self.tasks if any(s.image for s in task.samples)), self.tasks[0])
            o = self.options.evaluate
            times = checkpoints.time_checkpoints(models, task.folder, task.samples, o, TIMED, progress)
            cell = SpeedCell(
                kind=SpeedCell.KIND,
                schema_version=SpeedCell.SCHEMA,
                created_by=step.origin,
                inputs=dict(step.inputs),
                dense_ttft_ms=1000 * statistics.median(dense for dense, _ in times),
                short_ttft_ms=1000 * statistics.median(short for _, short in times),
                speedup=statistics.median(dense / short for dense, short in times),
                repeats=TIMED,
            )
            save_artifact(cell, step.out)
            return cell

        named = Step(name="compare", settings=settings, inputs=inputs, out=Path(), record=SpeedCell, make=time_both)
        step = replace(named, out=self.folder / f"speed-{named.key}.json")
        return self._load(step) or step.make(self.progress, True)
