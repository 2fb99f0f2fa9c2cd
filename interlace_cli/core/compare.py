"""`compare`: strategies x ratios x healing seeds on one model and dataset, beside the baselines, in one table.

What can be shared is: the dataset and the analysis, the dense evaluation, a pruned checkpoint's among all that drop the
same layers, a healed one's among all that also tune the same. Each cell is a step of its own, whose file is named after
all that its figures depend on: an interrupted comparison goes on with the next one, and no cell is taken for another.
Any number of calls work on the cells at once, on hosts that share the workspace; who finds all of them there makes the
table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from interlace_cli.core import evaluate
from interlace_cli.core.cell_dtypes import choose_dtype, tell_other_dtype
from interlace_cli.core.cell_queue import Unit, list_holders
from interlace_cli.core.cell_work import CellWork
from interlace_cli.core.cells import SCORED, Method, hash_asked, open_grid
from interlace_cli.core.checks import check_machine
from interlace_cli.core.inputs import hash_model, hash_split
from interlace_cli.core.plan import load_constraints
from interlace_cli.core.run import StepCallback, ignore_step, measure_model
from interlace_cli.core.step import describe_differences
from interlace_cli.core.submit import submit
from interlace_cli.core.tasks import read_specs
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.comparison import Cell, Comparison, GridState, Submission
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import ArtifactError, ExistsError, MissingInputError, UsageError
from interlace_cli.evaluation.table import build_rows
from interlace_cli.families.model_files import open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.healing.objective import parse_objective
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.datasets import MANIFEST
from interlace_cli.io.files import write_atomically
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.build import dump_options, list_entries
from interlace_cli.options.compare import CompareOptions
from interlace_cli.options.finetune import RecipeOptions
from interlace_cli.options.option import describe
from interlace_cli.options.plan import CRITERIA, SEARCHES, STRATEGIES, TUNED, PlanOptions
from interlace_cli.options.shard import find_shard
from interlace_cli.report.comparison import build_csv, build_markdown
from interlace_cli.report.figure import build_figure
from interlace_cli.runtime.allocator import expand_segments
from interlace_cli.runtime.lease import leased
from interlace_cli.sparsity.pattern import Pattern
from interlace_cli.strategies.needs import complete_analysis

GRID = ("strategies", "ratios", "seeds", "objective", "compensate", "baselines")
"""The options that are lists: a table may grow by them."""
COUNTED: Mapping[str, tuple[str, ...]] = {
    "": (*GRID, "sparsity", "more_seeds_at"),
    "analyze": ("stack",),
    "plan": ("protect", "threshold", "paper", "weight", "seed"),
    "prune": ("samples",),
    "finetune": tuple(slot.name for slot in describe(RecipeOptions)),
    "evaluate": (*SCORED, "seed", "speed"),
}
"""What a table depends on beside the model and the samples: part of the options -> its fields."""


def compare(
    options: CompareOptions, progress: Progress, on_step: StepCallback = ignore_step
) -> Comparison | GridState | Submission:
    """Makes and evaluates every cell that is not there yet, and writes compare.json, .md, .csv and .svg; or what of
    that --shard, --collect and --submit leave of it. Raises ExistsError if rows of the table that is there would be
    lost, and MissingInputError if --collect finds cells lacking."""
    shard = None if options.collect or options.submit else find_shard(options.shard)
    expand_segments()
    methods = _check_options(options)
    _check_replaceable(options)
    is_made_here = not options.collect and not options.submit
    if is_made_here and (options.anew or not (Workspace(options.workspace).root / "compare.json").exists()):
        check_machine(options)
    if options.submit:
        return submit(options, progress)
    if is_made_here:
        plans = [options.plan, *(one.options for one in methods)]
        analysis = complete_analysis(options.analyze, plans, partial(_count_layers, options))
        measure_model(replace(options, analyze=analysis), progress, on_step)
    grid = open_grid(options, methods, progress)
    grid.decide_plans()
    work = CellWork(grid, grid.list_lines())
    if options.collect:
        work = choose_dtype(work)
        lacking = work.find_lacking()
        if lacking:
            raise _build_lack(lacking, work)
        return _conclude(work)
    tell_other_dtype(work)
    cells, timings = work.list_cells(options.anew), work.list_timings(options.anew)
    if shard is None:
        work.make(cells, timings)
        return _conclude(work)
    chosen = shard.choose(cells), shard.choose(timings)
    if not shard.is_given:
        progress.say(f"a task of a Slurm job array: share {shard} of the cells; --shard 1/1 would make all")
    work.make(*chosen)
    lacking = work.find_lacking()
    if not lacking:
        return _conclude(work)
    return _describe_state(work, lacking)


def _describe_state(work: CellWork, lacking: Sequence[Unit[Any]]) -> GridState:
    holders = list_holders(lacking, work.grid.folder)
    labels = {unit.name: unit.label for unit in lacking}
    total = len(work.jobs) + len(work.list_timings(anew=False))
    return GridState(
        workspace=str(work.grid.space.root),
        cells=total,
        present=total - len(lacking),
        lacking=list(labels.values()),
        holders={labels[name]: holder for name, holder in holders.items()},
    )


def _build_lack(lacking: Sequence[Unit[Any]], work: CellWork) -> MissingInputError:
    """Which cells are not there, and who is making them."""
    total = len(work.jobs) + len(work.list_timings(anew=False))
    holders = list_holders(lacking, work.grid.folder)
    words = [one.label + (f" ({holders[one.name]} makes it)" if one.name in holders else "") for one in lacking]
    return MissingInputError(
        f"{len(lacking)} of {total} cells and timings of {work.grid.space.root} lack: {'; '.join(words)}.",
        "The same call without --collect makes them.",
    )


def parse_method(text: str, base: PlanOptions) -> PlanOptions:
    """`"interlace/loss/optimal"` -> options. Raises UsageError for a word that is none."""
    name, *words = text.split("/")
    if name not in STRATEGIES:
        raise UsageError(f"there is no strategy {name!r}.", f"There are {', '.join(STRATEGIES)}.")
    chosen: dict[str, Any] = {"strategy": name}
    for word in words:
        kinds = {"criterion": CRITERIA, "selection": SEARCHES, "tune": TUNED}
        kind = next((kind for kind, known in kinds.items() if word in known), None)
        if kind is None:
            known = ", ".join([*CRITERIA, *SEARCHES, *TUNED])
            raise UsageError(f"--strategies does not take {text!r}: {word!r} is no word of it.", f"There are {known}.")
        chosen[kind] = word
    # The bar is interlace's own; the other strategies of the grid have none.
    return replace(base, **chosen, threshold=base.threshold if name == "interlace" else None)


def _check_options(options: CompareOptions) -> list[Method]:
    """All that can be known before the first step starts."""
    for objective in options.objective:
        parse_objective(objective)
    Pattern.parse(options.sparsity)
    assert options.model is not None
    # Whether there is such a model, and such a stack in it. A method that cannot drop so much is left out of the table.
    load_constraints(options.model, options.analyze.stack)
    if options.evaluate.tasks is not None:
        read_specs(evaluate.find_file(options.evaluate.tasks))
    if "linear" in options.compensate and (options.analyze.stack or LANGUAGE) != LANGUAGE:
        raise UsageError(f"--compensate is for the language model's layers, not the {options.analyze.stack} stack's.")
    return [
        Method(text, ratio, parse_method(text, replace(options.plan, ratio=ratio, drop=None)))
        for ratio in options.ratios
        for text in options.strategies
    ]


def _count_layers(options: CompareOptions) -> int:
    assert options.model is not None
    return load_constraints(options.model, options.analyze.stack).num_layers


def _check_replaceable(options: CompareOptions) -> None:
    """A table may grow; one that would lose rows, or is of another model or of other settings, stays."""
    path = Workspace(options.workspace).root / "compare.json"
    if options.force or not path.exists():
        return
    try:
        found = load_artifact(path, Comparison)
    except ArtifactError as error:
        raise ExistsError(f"{path} cannot be read: {error.what}", "Add --force to replace it.") from error
    reasons = _describe_losses(found, options)
    if reasons:
        raise ExistsError(
            f"{path} exists already: {'; '.join(reasons)}.",
            "Add --force to replace the table (its cells stay in compare/), or name another --workspace.",
        )


def _describe_losses(found: Comparison, options: CompareOptions) -> list[str]:
    """What the table would lose, or be made from instead, a sentence each."""
    space, before, now = Workspace(options.workspace), found.created_by.settings, _describe_options(options)
    assert options.model is not None
    inputs = {**found.inputs, **hash_model(open_model(options.model, str(now["stack"])).facts)}
    if inputs["model"] != found.inputs.get("model"):
        return [f"it is of {found.model}"]
    if (space.dataset / MANIFEST).exists():
        inputs = {name: inputs[name] for name in ("model", "processor")} | hash_samples(options)
    lost = {name: [one for one in _to_list(before.get(name)) if one not in _to_list(now[name])] for name in GRID}
    reasons = [f"it has rows of {name} {', '.join(map(str, gone))}" for name, gone in lost.items() if gone]
    # Nothing is lost with all seeds at every ratio, and nothing by timing.
    grown = {"more_seeds_at": None, "speed": True}
    same = {name: before.get(name) for name, value in grown.items() if now[name] == value}
    same |= {name: before.get(name) for name in GRID}
    return reasons + describe_differences(found, {**now, **same}, inputs)


def _to_list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _describe_options(options: CompareOptions) -> Settings:
    """By the names that the command has for them."""
    dumped = dump_options(options)
    names = [
        entry.name
        for entry in list_entries(CompareOptions)
        if any(field in COUNTED.get("".join(owner), ()) for *owner, field in entry.targets)
    ]
    return {**{name: dumped.get(name) for name in names}, "stack": options.analyze.stack or LANGUAGE}


def hash_samples(options: CompareOptions) -> dict[str, str]:
    """Those that are asked, and those that checkpoints are healed on."""
    return {**hash_asked(options), "train": hash_split(Workspace(options.workspace).dataset, "train")}


def _conclude(work: CellWork) -> Comparison:
    """Writes the table. Of several that come to it at once one writes at a time, and all the same."""
    grid = work.grid
    with leased(grid.folder / ".table.lease", "compare", grid.progress.say, "writing the table"):
        # Another comparison may have ended meanwhile.
        _check_replaceable(grid.options)
        comparison = _build_comparison(work)
        root = grid.space.root
        write_atomically(root / "compare.md", build_markdown(comparison).encode())
        write_atomically(root / "compare.csv", build_csv(comparison).encode())
        write_atomically(root / "compare.svg", build_figure(comparison).encode())
        save_artifact(comparison, root / "compare.json")
        work.clear()
    return comparison


def _build_comparison(work: CellWork) -> Comparison:
    grid, measured = work.grid, work.collect()
    cells = [work.known[file] for file in work.jobs]
    speeds = [one.speed for one in measured if one.speed is not None]
    return Comparison(
        kind=Comparison.KIND,
        schema_version=Comparison.SCHEMA,
        created_by=build_origin("compare", _describe_options(grid.options)),
        inputs={**hash_model(grid.dense.facts), **hash_samples(grid.options)},
        model=grid.dense.facts.name,
        num_layers=grid.dense.facts.num_layers,
        samples=len(grid.samples),
        device=cells[0].device,
        dtype=grid.dtype,
        recipe=grid.options.finetune.build_recipe_settings(),
        correlation=load_artifact(grid.space.analysis, Analysis).correlation,
        rows=build_rows(measured, grid.samples, grid.options.evaluate.seed),
        unreached=grid.unreached,
        seconds=round(sum(cell.seconds for cell in cells if isinstance(cell, Cell)), 1),
        devices=dict(sorted(Counter(cell.device for cell in cells).items())),
        timed_on=sorted({speed.device for speed in speeds}),
    )
