"""How the cells of a comparison are made and timed, by this process and by others at the same time."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from interlace_cli.core.cell_checkpoints import Workplace
from interlace_cli.core.cell_queue import COMMAND, Unit, make_units, open_work, remove_abandoned_work
from interlace_cli.core.cells import TIMED, C, Grid, Job, Line
from interlace_cli.core.checks import check_machine
from interlace_cli.core.inputs import hash_split
from interlace_cli.core.lineage import check_overlap, count_seen
from interlace_cli.core.shared_cuts import Cut, SharedCuts
from interlace_cli.core.step import Step
from interlace_cli.domain.comparison import Cell, SpeedCell
from interlace_cli.domain.dataset import SPLITS
from interlace_cli.errors import InterlaceError
from interlace_cli.evaluation import checkpoints
from interlace_cli.evaluation.table import Measured
from interlace_cli.families.model_files import open_model
from interlace_cli.io.artifacts import save_artifact
from interlace_cli.io.files import folder_being_made
from interlace_cli.runtime.lease import Lease, find_holder, leased, list_neighbours, name_machine_lease


@dataclass(frozen=True)
class CellWork:
    """The cells and timings of `lines`: which are there, and how the others are made. `known` are those that were found
    or made, by file."""

    grid: Grid
    lines: Sequence[Line]
    known: dict[str, Cell | SpeedCell] = field(default_factory=dict)

    @property
    def jobs(self) -> dict[str, Job]:
        """Each cell once, by file, in the order of the table."""
        return {job.file: job for line in self.lines for job in line.jobs}

    @property
    def _cuts(self) -> SharedCuts:
        return SharedCuts(self.grid.folder / "shared", self.grid.makers.build_cut, self.grid.progress)

    @property
    def _work(self) -> Path:
        return self.grid.folder / "work"

    def list_cells(self, anew: bool) -> list[Unit[Cell]]:
        """As units of work; with `anew` as if none were there."""
        labels = self._label()
        return [
            Unit(file, labels[file], partial(self._find, job.step, anew), partial(self._answer, job, labels[file]))
            for file, job in self.jobs.items()
        ]

    def list_timings(self, anew: bool) -> list[Unit[SpeedCell]]:
        """As units of work; with `anew` as if none were there."""
        labels = self._label()
        units = []
        for key, job in self.grid.list_timed(list(self.jobs.values())).items():
            step = self.grid.build_speed_step(key)
            find, make = partial(self._find, step, anew), partial(self._time, step, job)
            units.append(Unit(step.out.name, f"{labels[job.file]}, timed", find, make))
        return units

    def make(self, cells: Sequence[Unit[Cell]], timings: Sequence[Unit[SpeedCell]]) -> None:
        """These units, as far as they are not there; cells first. Waits for those that others make."""
        progress, folder = self.grid.progress, self.grid.folder
        lacking = [unit for unit in cells if unit.find() is None]
        progress.say(f"{len(cells)} cells, {len(cells) - len(lacking)} of them are there")
        if any(self.jobs[unit.name].seed is not None for unit in lacking):
            check_machine(self.grid.options)

        def tell(unit: Unit[Cell], cell: Cell, number: int, total: int) -> None:
            progress.say(f"{number}/{total} {unit.label}: {cell.seconds:.0f} s")

        made = make_units(cells, folder, progress, tell)
        timed = make_units(timings, folder, progress, lambda *words: None)
        self.known.update({**made, **timed})

    def find_lacking(self) -> list[Unit[Cell] | Unit[SpeedCell]]:
        """What is not there: neither of this call nor of any other."""
        units: list[Unit[Cell] | Unit[SpeedCell]] = [*self.list_cells(anew=False), *self.list_timings(anew=False)]
        for unit in units:
            found = self.known.get(unit.name) or unit.find()
            if found is not None:
                self.known[unit.name] = found
        return [unit for unit in units if unit.name not in self.known]

    def collect(self) -> list[Measured]:
        """What each line's cells found. All of them are known."""
        measured = []
        for line in self.lines:
            key = self.grid.find_speed_key(line.jobs[0])
            speed = None if key is None else self.known[self.grid.build_speed_step(key).out.name]
            assert speed is None or isinstance(speed, SpeedCell)
            cells = [cell for job in line.jobs if isinstance(cell := self.known[job.file], Cell)]
            measured.append(Measured(line.method, line.ratio, line.sparsity, cells, speed))
        return measured

    def clear(self) -> None:
        """Removes what was needed on the way, and what killed processes have left of it; nothing that is in use."""
        remove_abandoned_work(self._work, self.grid.folder, ".json")
        with suppress(OSError):
            self._work.rmdir()
        if not any(find_holder(path) is not None for path in self.grid.folder.glob(".*.json.lease")):
            self._cuts.remove_all()

    def _label(self) -> dict[str, str]:
        return {job.file: line.describe(job) for line in reversed(self.lines) for job in line.jobs}

    def _find(self, step: Step[C], anew: bool) -> C | None:
        return None if anew else self.grid.find(step)

    def _answer(self, job: Job, label: str, lease: Lease) -> Cell:
        began, grid, stem = time.monotonic(), self.grid, job.step.out.stem
        work = open_work(self._work, stem, lease, grid.options.anew)
        with Workplace(work / stem, self._cuts).opened() as place:
            path = job.make(place)
            opened, samples = open_model(path, grid.stack), grid.samples
            check_overlap(
                {label: count_seen(opened.checkpoint.path, samples)}, len(samples), grid.options.evaluate.allow_overlap
            )
            answered = checkpoints.answer_samples(label, opened, grid.tasks, grid.options.evaluate, grid.progress)
            self._check_dataset(job, label)
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
                points=list(answered.scored.points),
                weights=None if answered.scored.weights is None else list(answered.scored.weights),
                seconds=round(time.monotonic() - began, 3),
                device=grid.device,
            )
            if grid.options.keep and path != grid.dense.checkpoint.path:
                _keep(path, grid.folder / "checkpoints" / stem)
            save_artifact(cell, job.step.out)
        self._finish(work, cell, job.file)
        self._give_up(job.cut)
        return cell

    def _finish(self, work: Path, cell: Cell | SpeedCell, file: str) -> None:
        """What trackers wrote stays; the rest of the work folder is done with."""
        for run in sorted((work / "runs").glob("*")):
            (self.grid.folder / "runs").mkdir(exist_ok=True)
            shutil.move(run, self.grid.folder / "runs" / run.name)
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            self._work.rmdir()
        self.known[file] = cell

    def _check_dataset(self, job: Job, label: str) -> None:
        """Raises InterlaceError where the workspace's samples are others than when the cell was begun."""
        for split in SPLITS:
            digest = job.step.inputs.get(split)
            if digest is not None and digest != hash_split(self.grid.space.dataset, split):
                raise InterlaceError(
                    f"{self.grid.space.dataset} was replaced while {label} was being made: its figures are of neither.",
                    "Call compare again, or prepare other samples in another --workspace.",
                )

    def _give_up(self, cut: Cut | None) -> None:
        """Removes a pruned checkpoint when all that need it are there."""
        if cut is None:
            return
        needing = {job.file for job in self.jobs.values() if job.cut is not None and job.cut.key == cut.key}
        for key, job in self.grid.list_timed(list(self.jobs.values())).items():
            if job.drop and self.grid.name_cut(job.drop, "none").key == cut.key:
                needing.add(self.grid.build_speed_step(key).out.name)
        if all(self._is_there(file) for file in needing):
            self._cuts.remove(cut)

    def _is_there(self, file: str) -> bool:
        return file in self.known or (not self.grid.options.anew and (self.grid.folder / file).exists())

    def _time(self, step: Step[SpeedCell], job: Job, lease: Lease) -> SpeedCell:
        """TTFT of the dense model and of the cell's checkpoint before healing, in turns. One process of a machine times
        at once."""
        grid = self.grid
        work = open_work(self._work, step.out.stem, lease, grid.options.anew)
        cut = grid.name_cut(job.drop, "none") if job.drop else None
        machine = name_machine_lease(grid.folder, "timing")
        with Workplace(work / "to-time", self._cuts).opened() as place:
            short = place.borrow(cut) if cut is not None else job.make(place)
            models = [open_model(where, grid.stack).checkpoint.path for where in (grid.dense.checkpoint.path, short)]
            task = next((task for task in grid.tasks if any(s.image for s in task.samples)), grid.tasks[0])
            o = grid.options.evaluate
            with leased(machine, COMMAND, grid.progress.say, "timing on this machine"):
                times = checkpoints.time_checkpoints(models, task.folder, task.samples, o, TIMED, grid.progress)
                # Those that make cells: who times waits for this one.
                leases = grid.folder.glob(".*.json.lease")
                neighbours = list_neighbours(path for path in leases if not path.name.startswith(".speed-"))
        if neighbours:
            grid.progress.say(
                f"Careful: timed while {', '.join(sorted(neighbours))} worked on this machine: --anew, when it has"
                " ended, times again."
            )
        cell = SpeedCell(
            kind=SpeedCell.KIND,
            schema_version=SpeedCell.SCHEMA,
            created_by=step.origin,
            inputs=dict(step.inputs),
            dense_ttft_ms=1000 * statistics.median(dense for dense, _ in times),
            short_ttft_ms=1000 * statistics.median(short for _, short in times),
            speedup=statistics.median(dense / short for dense, short in times),
            repeats=TIMED,
            device=grid.device,
        )
        save_artifact(cell, step.out)
        self._finish(work, cell, step.out.name)
        self._give_up(cut)
        return cell


def _keep(path: Path, target: Path) -> None:
    """The checkpoint for its user: its files have another name, and are copied where a file cannot have two."""

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:
            shutil.copy2(source, copy)

    with folder_being_made(target, force=True) as draft:
        shutil.copytree(path, draft, copy_function=link, dirs_exist_ok=True)
