"""`compare`: strategies x ratios x healing seeds on one model and dataset, beside the baselines, in one table.

What can be shared is: the dataset and the analysis, the dense evaluation, a pruned checkpoint's among all that drop the
same layers, a healed one's among all that also tune the same. Each cell is a file, so that an interrupted comparison
goes on with the next one.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

from interlace_cli.core import evaluate, plan
from interlace_cli.core.cells import Make, Makers
from interlace_cli.core.run import RunOptions, StepCallback, measure_model
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.comparison import Cell, Comparison, SpeedCell, Unreached
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Artifact, Settings
from interlace_cli.domain.scores import Assign, Rank, Tune
from interlace_cli.errors import ArtifactError, RatioError, UsageError
from interlace_cli.evaluation.table import Measured, build_rows
from interlace_cli.evaluation.tasks import EvalTask
from interlace_cli.families.model_files import OpenedModel, open_model
from interlace_cli.healing.objective import parse_objective
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import hash_dataset, load_split
from interlace_cli.io.files import hash_bytes, write_atomically
from interlace_cli.io.workspace import Workspace
from interlace_cli.report.comparison import build_csv, build_markdown
from interlace_cli.report.figure import build_figure
from interlace_cli.sparsity.pattern import Pattern
from interlace_cli.strategies import STRATEGIES

A = TypeVar("A", bound=Artifact)
TIMED = 41
"""How many times two models are timed in turns."""
SPARSE = ("wanda", "magnitude")
BASELINES = (*SPARSE, "dense-ft")
PATTERN = Pattern(2, 4)
COMPENSATIONS = ("none", "linear")


@dataclass(frozen=True)
class CompareOptions:
    """`run` has the options of each step; every plan is healed by each of the `objectives`, after each of the
    `compensations`. A strategy may carry words for its options: `interlace/optimal`,
    `interlace/loss`, `sleb/paired`. `keep` leaves the checkpoints, in `compare/checkpoints`."""

    run: RunOptions = field(default_factory=RunOptions)
    strategies: tuple[str, ...] = ("interlace", "sleb", "shortgpt", "random")
    ratios: tuple[float, ...] = (0.25,)
    seeds: tuple[int, ...] = (0,)
    more_seeds_at: float | None = None
    objectives: tuple[str, ...] = ("ce",)
    compensations: tuple[str, ...] = ("none",)
    baselines: tuple[str, ...] = BASELINES
    keep: bool = False


def compare_methods(space: Workspace, options: CompareOptions, progress: Progress, on_step: StepCallback) -> Comparison:
    """Makes and evaluates every cell that is not there yet, and writes compare.json, .md, .csv and .svg."""
    grid = _check_options(options)
    needed = sorted({name for one in grid for name in plan.find_importances(one.options)})
    analysis = replace(options.run.analyze, importance=("similarity", *needed))
    dense = measure_model(space, replace(options.run, analyze=analysis), progress, on_step)
    return _Grid(space, options, grid, dense, progress).complete()


@dataclass(frozen=True)
class _Method:
    """A strategy with its options at one ratio."""

    name: str
    ratio: float
    options: plan.PlanOptions


def parse_method(text: str, base: plan.PlanOptions) -> plan.PlanOptions:
    """`"interlace/loss/optimal"` -> options. Raises UsageError for a word that is none."""
    name, *words = text.split("/")
    options = replace(base, strategy=name)
    for word in words:
        if word in _values(Rank):
            options = replace(options, rank=Rank(word))
        elif word in _values(Assign):
            options = replace(options, assign=Assign(word))
        elif word in _values(Tune):
            options = replace(options, tune=Tune(word))
        else:
            known = ", ".join([*_values(Rank), *_values(Assign), *_values(Tune)])
            raise UsageError(f"--strategies does not take {text!r}: {word!r} is no word of it.", f"There are {known}.")
    return options


def _values(words: type[Rank] | type[Assign] | type[Tune]) -> list[str]:
    return [word.value for word in words]


def _check_options(options: CompareOptions) -> list[_Method]:
    wrong = next((name for name in options.baselines if name not in BASELINES), None)
    if wrong is not None:
        raise UsageError(f"--baselines does not take {wrong!r}.", f"It takes {', '.join(BASELINES)}.")
    wrong = next((name for name in options.compensations if name not in COMPENSATIONS), None)
    if wrong is not None:
        raise UsageError(f"--compensate does not take {wrong!r}.", f"It takes {', '.join(COMPENSATIONS)}.")
    for objective in options.objectives:
        parse_objective(objective)
    if not options.strategies or not options.ratios or not options.seeds:
        raise UsageError("compare needs a strategy, a ratio and a seed.", f"Strategies are {', '.join(STRATEGIES)}.")
    grid = []
    for ratio in options.ratios:
        for text in options.strategies:
            asked = parse_method(text, replace(options.run.plan, ratio=ratio, drop=None))
            plan.check_options(asked)
            grid.append(_Method(text, ratio, asked))
    return grid


@dataclass(frozen=True)
class _Job:
    """A cell to be: its file, and what makes its checkpoint in a folder and says where it lies."""

    file: str
    drop: tuple[int, ...]
    tune: tuple[int, ...]
    seed: int | None
    settings: Settings
    make: Make


@dataclass(frozen=True)
class _Line:
    """A row to be: its jobs differ in the healing seed alone."""

    method: str
    ratio: float | None
    sparsity: float
    jobs: list[_Job]

    def describe(self, job: _Job) -> str:
        """One of its cells in words."""
        where = "" if self.ratio is None else f" at {self.ratio:.1%}"
        return f"{self.method}{where}" + ("" if job.seed is None else f", healed, seed {job.seed}")


class _Grid:
    def __init__(
        self,
        space: Workspace,
        options: CompareOptions,
        grid: Sequence[_Method],
        dense: OpenedModel,
        progress: Progress,
    ) -> None:
        self.space, self.options, self.grid, self.dense, self.progress = space, options, grid, dense, progress
        self.folder = space.root / "compare"
        self.work = self.folder / "work"
        self.makers = Makers(space, options.run, dense, self.work, progress)
        self.evaluation = options.run.evaluate
        self.samples = load_split(space.dataset, "heldout")[: self.evaluation.samples]
        self.inputs = {"model": dense.facts.fingerprint, "dataset": hash_dataset(space.dataset)}
        self.plans: dict[tuple[str, float], Plan] = {}
        self.unreached: list[Unreached] = []

    def complete(self) -> Comparison:
        """Every cell, then the table."""
        for method in self.grid:
            try:
                made = plan.plan_from_analysis(self.space.analysis, method.options)
            except RatioError as error:
                self.unreached.append(Unreached(method=method.name, ratio=method.ratio, reason=error.what))
                self.progress.say(f"left out: {error.what}")
                continue
            self.plans[method.name, method.ratio] = made
        lines = self._list_lines()
        labels = {job.file: line.describe(job) for line in reversed(lines) for job in line.jobs}
        jobs = {job.file: job for line in lines for job in line.jobs}
        cells = {file: cell for file, job in jobs.items() if (cell := self._load(job)) is not None}
        missing = [job for file, job in jobs.items() if file not in cells]
        self.progress.say(f"{len(jobs)} cells, {len(cells)} of them are there")
        for number, job in enumerate(missing, start=1):
            cells[job.file] = self._make(job, labels[job.file])
            self.progress.say(f"{number}/{len(missing)} {labels[job.file]}: {cells[job.file].seconds:.0f} s")
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
        return self._conclude(measured, cells)

    def _list_lines(self) -> list[_Line]:
        """In the order of the table."""
        baselines, pattern_gone = self.options.baselines, 1 - PATTERN.keep / PATTERN.group
        lines = [_Line("dense", None, 0.0, [self._job("dense", (), (), None, lambda out: self.dense.checkpoint.path)])]
        for method in (method for method in SPARSE if method in baselines):
            jobs = [self._job(method, (), (), None, self.makers.sparsify(method, PATTERN))]
            lines.append(_Line(f"{method} {PATTERN}", None, pattern_gone, jobs))
        reference = self._find_reference()
        if "dense-ft" in baselines and reference is not None:
            tune = tuple(reference.tune)
            jobs = [
                self._job("dense-ft", (), tune, seed, self.makers.heal_dense(tune, seed)) for seed in self.options.seeds
            ]
            lines.append(_Line("dense-ft", None, 0.0, jobs))
        for (name, ratio), made in self.plans.items():
            drop, tune = tuple(made.drop), tuple(made.tune)
            gone = len(drop) / self.dense.facts.num_layers
            for compensation in self.options.compensations:
                is_compensated = compensation != "none"
                label, extra = (f"{name} + {compensation}", (compensation,)) if is_compensated else (name, ())
                job = self._job("pruned", drop, (), None, self.makers.prune(drop, is_compensated), extra)
                lines.append(_Line(label, ratio, gone, [job]))
                for objective in self.options.objectives if tune else ():
                    jobs = [
                        self._job(
                            "healed",
                            drop,
                            tune,
                            seed,
                            self.makers.heal(drop, tune, seed, objective, is_compensated),
                            extra,
                            objective,
                        )
                        for seed in self._seeds_at(ratio)
                    ]
                    shown = f"{label} · {objective}" if len(self.options.objectives) > 1 else label
                    lines.append(_Line(shown, ratio, gone, jobs))
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
        drop: tuple[int, ...],
        tune: tuple[int, ...],
        seed: int | None,
        make: Make,
        extra: tuple[str, ...] = (),
        objective: str = "ce",
    ) -> _Job:
        """`extra` words and an `objective` other than `ce` are part of its file's name."""
        words = (*extra, *((objective,) if objective != "ce" else ()))
        key = _hash((drop, tune, *words)) if drop or tune else ""
        file = "-".join(part for part in (stage, key, "" if seed is None else f"seed{seed}") if part)
        settings: Settings = {"evaluate": {**evaluate.build_settings(self.evaluation), "speed": False, "repeats": 0}}
        if seed is not None:
            settings["recipe"] = {**asdict(self.options.run.recipe), "seed": seed, "objective": objective}
        return _Job(file, drop, tune, seed, settings, make)

    def _make(self, job: _Job, label: str) -> Cell:
        began = time.monotonic()
        out = (self.folder / "checkpoints" if self.options.keep else self.work) / job.file
        path = job.make(out)
        opened = open_model(path, self.dense.facts.stack)
        task = EvalTask("heldout", self.space.dataset, self.samples)
        answered = evaluate.answer_samples(label, opened, [task], self.evaluation, self.progress)
        scored = answered.scored
        cell = Cell(
            kind=Cell.KIND,
            schema_version=Cell.SCHEMA,
            created_by=build_origin("compare", job.settings),
            inputs=self.inputs,
            name=label,
            dropped=list(job.drop),
            tuned=list(job.tune),
            seed=job.seed,
            loss=answered.loss or 0.0,
            points=list(scored.points),
            weights=None if scored.weights is None else list(scored.weights),
            seconds=round(time.monotonic() - began, 3),
        )
        save_artifact(cell, self.folder / f"{job.file}.json")
        shutil.rmtree(self.work, ignore_errors=True)
        return cell

    def _load(self, job: _Job) -> Cell | None:
        """The cell, if it is there and was made of the same and by the same settings."""
        cell = self._find(job.file, Cell, job.settings)
        return cell if cell is not None and len(cell.points) == len(self.samples) else None

    def _find(self, file: str, cls: type[A], settings: Settings) -> A | None:
        path = self.folder / f"{file}.json"
        if not path.exists():
            return None
        try:
            found = load_artifact(path, cls)
        except ArtifactError:
            return None
        is_current = found.created_by == build_origin("compare", settings) and found.inputs == self.inputs
        return found if is_current else None

    def _find_speed_key(self, job: _Job) -> str | None:
        """Which timing is a cell's: where all layers weigh the same, it is their number that counts. None for one that
        computes what the dense model does."""
        if not self.evaluation.speed:
            return None
        if job.drop:
            is_even = len(set(self.dense.facts.layer_bytes)) == 1
            return str(len(job.drop)) if is_even else _hash(job.drop)
        return "sparse" if job.file in SPARSE and evaluate.has_sparse_kernels(self.evaluation) else None

    def _time(self, key: str, job: _Job) -> SpeedCell:
        """TTFT of the dense model and of the cell's checkpoint before healing, in turns."""
        file, settings = f"speed-{key}", evaluate.build_settings(self.evaluation)
        found = self._find(file, SpeedCell, settings)
        if found is not None:
            return found
        short = (self.makers.prune(job.drop) if job.drop else job.make)(self.work / "to-time")
        stack = self.dense.facts.stack
        models = [open_model(where, stack).checkpoint.path for where in (self.options.run.model, short)]
        times = evaluate.time_checkpoints(
            models, self.space.dataset, self.samples, self.evaluation, TIMED, self.progress
        )
        cell = SpeedCell(
            kind=SpeedCell.KIND,
            schema_version=SpeedCell.SCHEMA,
            created_by=build_origin("compare", settings),
            inputs=self.inputs,
            dense_ttft_ms=1000 * statistics.median(dense for dense, _ in times),
            short_ttft_ms=1000 * statistics.median(short for _, short in times),
            speedup=statistics.median(dense / short for dense, short in times),
            repeats=TIMED,
        )
        save_artifact(cell, self.folder / f"{file}.json")
        return cell

    def _conclude(self, measured: Sequence[Measured], cells: dict[str, Cell]) -> Comparison:
        device, dtype = evaluate.describe_place(self.evaluation)
        comparison = Comparison(
            kind=Comparison.KIND,
            schema_version=Comparison.SCHEMA,
            created_by=build_origin("compare", self._describe_grid()),
            inputs=self.inputs,
            model=self.dense.facts.name,
            num_layers=self.dense.facts.num_layers,
            samples=len(self.samples),
            device=device,
            dtype=dtype,
            recipe=asdict(self.options.run.recipe),
            correlation=load_artifact(self.space.analysis, Analysis).correlation,
            rows=build_rows(measured, self.samples, self.evaluation.seed),
            unreached=self.unreached,
            seconds=round(sum(cell.seconds for cell in cells.values()), 1),
        )
        root = self.space.root
        write_atomically(root / "compare.md", build_markdown(comparison).encode())
        write_atomically(root / "compare.csv", build_csv(comparison).encode())
        write_atomically(root / "compare.svg", build_figure(comparison).encode())
        save_artifact(comparison, root / "compare.json")
        return comparison

    def _describe_grid(self) -> Settings:
        o = self.options
        return {
            "strategies": list(o.strategies),
            "ratios": list(o.ratios),
            "seeds": list(o.seeds),
            "objectives": list(o.objectives),
            "compensations": list(o.compensations),
        }


def _hash(value: object) -> str:
    return hash_bytes(repr(value).encode())[:10]
