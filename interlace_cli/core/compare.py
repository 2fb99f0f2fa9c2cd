"""`compare`: strategies x ratios x healing seeds on one model and dataset, beside the baselines, in one table.

What can be shared is: the dataset and the analysis, the dense evaluation, a pruned checkpoint's among all that drop the
same layers, a healed one's among all that also tune the same. Each cell is a step of its own, whose file is named after
all that its figures depend on: an interrupted comparison goes on with the next one, and no cell is taken for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from interlace_cli.core import evaluate
from interlace_cli.core.cells import SCORED, Grid, Method, hash_asked, open_grid
from interlace_cli.core.checks import check_machine
from interlace_cli.core.inputs import hash_model, hash_split
from interlace_cli.core.plan import load_constraints
from interlace_cli.core.run import StepCallback, ignore_step, measure_model
from interlace_cli.core.step import describe_differences
from interlace_cli.core.tasks import read_specs
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.comparison import Comparison
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import ArtifactError, ExistsError, UsageError
from interlace_cli.evaluation.table import Measured, build_rows
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
from interlace_cli.report.comparison import build_csv, build_markdown
from interlace_cli.report.figure import build_figure
from interlace_cli.runtime.allocator import expand_segments
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


def compare(options: CompareOptions, progress: Progress, on_step: StepCallback = ignore_step) -> Comparison:
    """Makes and evaluates every cell that is not there yet, and writes compare.json, .md, .csv and .svg. Raises
    ExistsError if rows of the table that is there would be lost."""
    expand_segments()
    grid = _check_options(options)
    _check_replaceable(options)
    if options.anew or not (Workspace(options.workspace).root / "compare.json").exists():
        check_machine(options)
    plans = [options.plan, *(one.options for one in grid)]
    analysis = complete_analysis(options.analyze, plans, partial(_count_layers, options))
    measure_model(replace(options, analyze=analysis), progress, on_step)
    cells = open_grid(options, grid, progress)
    cells.decide_plans()
    measured, seconds = cells.measure(cells.list_lines())
    return _conclude(cells, measured, seconds)


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


def _conclude(grid: Grid, measured: Sequence[Measured], seconds: float) -> Comparison:
    comparison = Comparison(
        kind=Comparison.KIND,
        schema_version=Comparison.SCHEMA,
        created_by=build_origin("compare", _describe_options(grid.options)),
        inputs={**hash_model(grid.dense.facts), **hash_samples(grid.options)},
        model=grid.dense.facts.name,
        num_layers=grid.dense.facts.num_layers,
        samples=len(grid.samples),
        device=grid.device,
        dtype=grid.dtype,
        recipe=grid.options.finetune.build_recipe_settings(),
        correlation=load_artifact(grid.space.analysis, Analysis).correlation,
        rows=build_rows(measured, grid.samples, grid.options.evaluate.seed),
        unreached=grid.unreached,
        seconds=round(seconds, 1),
    )
    root = grid.space.root
    write_atomically(root / "compare.md", build_markdown(comparison).encode())
    write_atomically(root / "compare.csv", build_csv(comparison).encode())
    write_atomically(root / "compare.svg", build_figure(comparison).encode())
    save_artifact(comparison, root / "compare.json")
    return comparison
