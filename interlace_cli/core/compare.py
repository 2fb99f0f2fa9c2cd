"""`compare`: strategies x ratios x healing seeds on one model and dataset, beside the baselines, in one table.

What can be shared is: the dataset and the analysis, the dense evaluation, a pruned checkpoint's among all that drop the
same layers, a healed one's among all that also tune the same. Each cell is a step of its own, whose file is named after
all that its figures depend on: an interrupted comparison goes on with the next one, and no cell is taken for another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from interlace_cli.core import evaluate
from interlace_cli.core.cells import Grid, Method, open_grid
from interlace_cli.core.checks import check_machine
from interlace_cli.core.inputs import hash_model, hash_split
from interlace_cli.core.plan import load_constraints
from interlace_cli.core.run import StepCallback, ignore_step, measure_model
from interlace_cli.core.tasks import read_specs
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.comparison import Comparison
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Artifact, Settings
from interlace_cli.errors import ArtifactError, ExistsError, UsageError
from interlace_cli.evaluation.table import Measured, build_rows
from interlace_cli.families.model_files import open_model
from interlace_cli.families.stacks import LANGUAGE
from interlace_cli.healing.objective import parse_objective
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact
from interlace_cli.io.files import write_atomically
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.compare import CompareOptions
from interlace_cli.options.plan import CRITERIA, SEARCHES, STRATEGIES, TUNED, PlanOptions
from interlace_cli.report.comparison import build_csv, build_markdown
from interlace_cli.report.figure import build_figure
from interlace_cli.sparsity.pattern import Pattern
from interlace_cli.strategies.needs import find_groupings, find_importances

A = TypeVar("A", bound=Artifact)
Layers = tuple[int, ...]
Make = Callable[[Path], Path]
"""Makes a checkpoint in a folder, and says where it lies."""
TIMED = 41
"""How many times two models are timed in turns."""
GRID = ("strategies", "ratios", "seeds", "objective", "compensate", "baselines")
"""The options that are lists: a table may grow by them."""
SCORED = ("samples", "max_new_tokens", "min_pixels", "max_pixels", "attention", "batch_size")


def compare(options: CompareOptions, progress: Progress, on_step: StepCallback = ignore_step) -> Comparison:
    """Makes and evaluates every cell that is not there yet, and writes compare.json, .md, .csv and .svg. Raises
    ExistsError if rows of the table that is there would be lost."""
    grid = _check_options(options)
    _check_replaceable(options)
    if options.anew or not (Workspace(options.workspace).root / "compare.json").exists():
        check_machine(options)
    needed = {name for one in grid for name in find_importances(one.options)}
    groups = find_groupings(options.plan)
    analysis = replace(
        options.analyze,
        importance=(*options.analyze.importance, *sorted(needed - set(options.analyze.importance))),
        by=(*options.analyze.by, *sorted(groups - set(options.analyze.by))),
    )
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


def _check_replaceable(options: CompareOptions) -> None:
    """A table may grow; one that would lose rows, or is of another model or of other settings, stays."""
    path = Workspace(options.workspace).root / "compare.json"
    if options.force or not path.exists():
        return
    try:
        found = load_artifact(path, Comparison)
    except ArtifactError as error:
        raise ExistsError(f"{path} cannot be read: {error.what}", "Add --force to replace it.") from error
    before, now = found.created_by.settings, _describe_options(options)
    assert options.model is not None
    reasons = []
    if found.inputs.get("model") != open_model(options.model, options.analyze.stack or LANGUAGE).facts.fingerprint:
        reasons.append(f"it is of {found.model}")
    lost = {name: [one for one in _to_list(before.get(name)) if one not in _to_list(now[name])] for name in GRID}
    reasons += [f"it has rows of {name} {', '.join(map(str, gone))}" for name, gone in lost.items() if gone]
    other = [name for name in now if name not in GRID and name in before and before[name] != now[name]]
    reasons += [f"{name} was {before[name]}, and is {now[name]} now" for name in other]
    if reasons:
        raise ExistsError(
            f"{path} exists already: {'; '.join(reasons)}.",
            "Add --force to replace the table (its cells stay in compare/), or name another --workspace.",
        )


def _to_list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _describe_options(options: CompareOptions) -> Settings:
    """What the table depends on beside the model and the samples."""
    recipe = options.finetune.build_recipe_settings()
    scored = options.evaluate.build_settings("samples", "max_new_tokens", "min_pixels", "max_pixels", "seed")
    protected = options.plan.build_settings("protect", "threshold", "paper")
    rest = {"stack": options.analyze.stack or LANGUAGE, "sparsity": options.sparsity}
    return {
        **options.build_settings(*GRID),
        **recipe,
        **scored,
        **protected,
        **rest,
        "weight": dict(options.plan.weight),
    }


def _conclude(grid: Grid, measured: Sequence[Measured], seconds: float) -> Comparison:
    comparison = Comparison(
        kind=Comparison.KIND,
        schema_version=Comparison.SCHEMA,
        created_by=build_origin("compare", _describe_options(grid.options)),
        inputs={**hash_model(grid.dense.facts), **grid.asked, "train": hash_split(grid.space.dataset, "train")},
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
