"""What a record has reaches what it is for, below the records: each value is another than its default, and each of a
kind another than its neighbours', so that a dropped or a swapped one is seen where the work is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from making import make_cut
from option_values import NEEDED, choose_value

from interlace_cli.cli.app import build_app
from interlace_cli.data.source import Selection
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.progress import Silent
from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.datasets import load_split
from interlace_cli.io.placement import Placement
from interlace_cli.options import (
    AnalyzeOptions,
    BenchOptions,
    EvaluateOptions,
    ExportOptions,
    FinetuneOptions,
    PlanOptions,
    PrepareOptions,
    PruneOptions,
    RunOptions,
)
from interlace_cli.options.finetune import ExecutionOptions, RecipeOptions
from interlace_cli.options.option import describe
from interlace_cli.runtime.processes import Processes

SPREAD: dict[str, Any] = {"device_map": "auto", "max_memory": ("cpu:4GiB",), "offload_folder": Path("offloaded-here")}
"""Of a model that fits all the same."""
PLACEMENT = Placement("cpu", "auto", ("cpu:4GiB",), Path("offloaded-here"))


class Stop(Exception):  # noqa: N818 - no error
    """Enough was seen."""


Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


class Spies:
    """Keeps what functions are called with, and calls them, or others in their place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.calls: dict[str, Calls] = {}

    def watch(self, target: str, instead: Callable[..., Any] | None = None) -> None:
        """`target`: module and name, in `interlace_cli`."""
        module, _, name = f"interlace_cli.{target}".rpartition(".")
        function = instead or getattr(__import__(module, fromlist=[name]), name)
        calls = self.calls.setdefault(name, [])

        def watched(*arguments: Any, **named: Any) -> Any:
            calls.append((arguments, named))
            return function(*arguments, **named)

        self.monkeypatch.setattr(f"{module}.{name}", watched)

    def get(self, name: str, *positions: int) -> Any:
        """These arguments of all calls, each combination once."""
        found = {tuple(arguments[i] for i in positions) for arguments, _ in self.calls[name]}
        return found if len(positions) != 1 else {one for (one,) in found}


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> Spies:
    return Spies(monkeypatch)


def stop(*arguments: Any, **named: Any) -> None:
    raise Stop


# --- prepare

SELECTED = {
    "portion": "portion",
    "max_samples": "max_samples",
    "selection": "method",
    "subset": "subsets",
    "exclude": "exclude",
    "split": "hub_split",
    "holdout": "holdout",
    "calibration": "calibration",
    "max_images": "max_images",
    "max_messages": "max_messages",
    "allow_download": "allow_download",
    "seed": "seed",
}
"""Option of `prepare` -> field of a selection."""
RATED = ("relevance", "image_correspondence", "formatting", "visual_dependency")
LOCATED = {"image_root": "image_root", "revision": "revision", "mirror": "mirror", "split": "split"}


@pytest.mark.parametrize("name", [slot.name for slot in describe(PrepareOptions)])
def test_each_option_of_prepare_selects(name: str) -> None:
    from interlace_cli.core.prepare import build_selection, find_location
    from interlace_cli.data.sources import SourceLocation

    slot = next(slot for slot in describe(PrepareOptions) if slot.name == name)
    value = choose_value(slot)
    made = PrepareOptions(**{name: value})
    wanted: dict[str, Any] = {SELECTED[name]: value} if name in SELECTED else {}
    if name.startswith("min_"):
        wanted = {"ratings": ((name.removeprefix("min_"), value),)}
    assert build_selection(made) == Selection(**wanted)
    assert find_location(made) == SourceLocation(**({LOCATED[name]: value} if name in LOCATED else {}))
    others = {"source", "threads", "processes", "shard", "dry_run", "workspace", "out", "force"}
    assert name in {*SELECTED, *LOCATED, *others} or name.removeprefix("min_") in RATED


def test_all_ratings_are_asked_for() -> None:
    from interlace_cli.core.prepare import build_selection

    bars = {f"min_{name}": number for number, name in enumerate(RATED, start=1)}
    assert build_selection(PrepareOptions(**bars)).ratings == tuple((n, i) for i, n in enumerate(RATED, start=1))
    assert {item.name for item in fields(Selection)} == {*SELECTED.values(), "ratings"}


def test_prepare_reads_with_so_many_threads(spies: Spies, tmp_path: Path) -> None:
    from interlace_cli.core.prepare import build_step

    spies.watch("core.preparation.stage_units", stop)
    spies.watch("core.preparation.open_source")
    with pytest.raises(Stop):
        build_step(PrepareOptions(out=tmp_path / "d", threads=3, max_samples=4, seed=5)).make(Silent(), False)
    (((_, _, selection, _, _, threads, _), _),) = spies.calls["stage_units"]
    assert (selection.max_samples, selection.seed, threads) == (4, 5, 3)
    assert spies.get("open_source", 0) == {"demo"}


# --- plan: from what is typed to the task of the strategy


@pytest.fixture
def score_files(tmp_path: Path) -> list[str]:
    """Of twelve layers."""
    found = []
    for p in (1, 2, 3):
        path = tmp_path / f"pack{p}.json"
        path.write_text(json.dumps({str(i): [0.9 - 0.01 * p - 0.003 * ((7 * i) % 11)] for i in range(12 - p)}))
        found.append(str(path))
    return found


TASKS: list[tuple[list[str], dict[str, Any]]] = [
    (["--drop", "2"], {"count": 2}),
    (["--ratio", "0.25"], {"count": 3}),
    (["--threshold", "0.8765"], {"pair_bar": 0.8765}),
    (["--threshold", "0"], {"pair_bar": 0.0}),
    (["--seed", "7"], {"seed": 7}),
    (["--selection", "optimal"], {"search": "optimal"}),
    (["--assign", "optimal"], {"search": "optimal"}),
    (["--protect", "0-1,9"], {"protected": frozenset({0, 1, 9})}),
    (["--paper"], {"protected": frozenset(), "pair_bar": None}),
]


@pytest.mark.parametrize(("words", "wanted"), TASKS)
def test_an_option_of_plan_reaches_the_task_of_the_strategy(
    words: list[str], wanted: dict[str, Any], score_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from interlace_cli.strategies import decide

    tasks = []
    choose = decide.STRATEGIES["interlace"]
    monkeypatch.setitem(decide.STRATEGIES, "interlace", lambda task: tasks.append(task) or choose(task))
    amount = [] if {"--drop", "--ratio"} & set(words) else ["--drop", "2"]
    call = ["plan", "--scores", *score_files, "-w", str(tmp_path / "w"), *amount, *words]
    result = CliRunner().invoke(build_app(call), call)
    assert result.exit_code == 0, result.output
    (task,) = tasks
    plain = {"count": 2, "seed": 0, "criterion": "similarity", "search": "greedy", "protected": frozenset({11})}
    assert {name: getattr(task, name) for name in {**plain, **wanted}} == {**plain, **wanted}
    decided = json.loads((tmp_path / "w/plan.json").read_text())
    assert decided["pair_bar"] == task.pair_bar
    assert len(decided["drop"]) == task.count
    if "pair_bar" not in wanted:
        assert task.pair_bar is not None, "the lowest S3 of the triplets that are taken"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"criterion": "loss"}, ("interlace", "loss", None)),
        ({"criterion": "taylor"}, ("interlace", "taylor", None)),
        ({"strategy": "shortgpt", "tune": "none"}, ("shortgpt", "similarity", "none")),
        ({"strategy": "sleb"}, ("sleb", "similarity", "nearest")),
        ({"strategy": "interlace_oa", "tune": "paired"}, ("interlace_oa", "similarity", "paired")),
    ],
)
def test_the_criterion_and_the_rule_of_tuning_reach_the_decision(
    options: dict[str, Any], wanted: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlace_cli.domain.record import Origin
    from interlace_cli.domain.scores import Scores
    from interlace_cli.strategies import decide

    chosen: list[Any] = []
    rules: list[Any] = [None]
    for name, select in decide.STRATEGIES.items():

        def keep(task: Any, name: str = name, select: Any = select) -> Any:
            chosen.append((name, task.criterion))
            return select(task)

        monkeypatch.setitem(decide.STRATEGIES, name, keep)
    assign = decide.assign_tuned
    monkeypatch.setattr(decide, "assign_tuned", lambda *given: rules.append(given[-1]) or assign(*given))
    scores = Scores(
        12,
        *([0.9 - 0.01 * i for i in range(12 - p)] for p in (0, 1, 2)),
        loss_increase=[float(i + 1) for i in range(12)],
        path=[5, 3],
        taylor_activation=[float(i) for i in range(12)],
        taylor_weight=[float(i) for i in range(12)],
    )
    origin = Origin(interlace="0", command="plan", settings={})
    decide.decide_plan(scores, PlanOptions(drop=2, **options), decide.ModelConstraints(), None, origin, {})
    assert {(*one, rules[-1]) for one in chosen} == {wanted}


# --- finetune: to the Trainer


@pytest.mark.parametrize(("kind", "record"), [(Recipe, RecipeOptions), (Execution, ExecutionOptions)])
def test_a_recipe_is_that_of_the_options(kind: Any, record: Any) -> None:
    for slot in describe(record):
        value = choose_value(slot)
        made = kind.of(FinetuneOptions(**{slot.name: value}))
        assert {item.name: getattr(made, item.name) for item in fields(record)} == {
            **{one.name: one.option.default for one in describe(record)},
            slot.name: value,
        }


def test_a_recipe_is_counted_by_the_samples_of_a_step() -> None:
    recipe = Recipe(batch_size=3, grad_accum=5, epochs=2.0, objective="local,ce", local_share=0.25)
    assert recipe.step_samples == 15
    assert recipe.count_steps(60) == 8
    assert [len(step) for step in recipe.plan_steps(60)] == [15] * 8
    assert [len(steps) for _, steps in recipe.divide_steps(recipe.plan_steps(60))] == [2, 6]
    assert Recipe(seed=1).plan_steps(99) != Recipe(seed=2).plan_steps(99)


def test_the_trainer_is_told_what_the_recipe_says(tmp_path: Path) -> None:
    from interlace_cli.healing.arguments import build_arguments

    recipe = Recipe(lr=3e-4, warmup=0.125, optim="sgd", seed=7, dtype="float32", batch_size=3, grad_accum=5)
    made = build_arguments(recipe, Execution(save_every=6, report_to="none", device="cpu"), 40, tmp_path, "cpu")
    assert (made.learning_rate, made.warmup_steps, str(made.optim), made.seed) == (3e-4, 5, "OptimizerNames.SGD", 7)
    assert (made.get_warmup_steps(40), made.max_steps, made.save_steps) == (5, 40, 6)
    assert (made.bf16, made.fp16, made.use_cpu, made.output_dir) == (False, False, True, str(tmp_path))
    assert (made.lr_scheduler_type, made.weight_decay, made.max_grad_norm) == ("cosine", 0.0, 1.0)
    assert made.report_to == []
    # An optimizer step is one item of the loader, however many samples it has.
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (8, 1)


@pytest.mark.parametrize(("dtype", "flags"), [("bfloat16", (True, False)), ("float16", (False, True))])
def test_the_trainer_is_told_the_dtype(
    dtype: str, flags: tuple[bool, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which arguments of this kind a machine without a GPU would not take."""
    from interlace_cli.healing import arguments

    given: dict[str, Any] = {}

    def keep(**named: Any) -> None:
        given.update(named)
        raise Stop

    monkeypatch.setattr(arguments, "Arguments", keep)
    with pytest.raises(Stop):
        arguments.build_arguments(Recipe(dtype=dtype), Execution(report_to="wandb"), 100, tmp_path, "cuda", {"zero": 3})
    assert (given["bf16"], given["fp16"]) == flags
    assert (given["report_to"], given["save_steps"], given["use_cpu"]) == ("wandb", 5, False)
    assert (given["optim"], given["learning_rate"], given["deepspeed"]) == ("adamw_torch", 1e-5, {"zero": 3})


@pytest.fixture(scope="module")
def cut(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "pruned"
    make_cut(chain_model, [2, 5], folder)
    return folder


def test_finetune_trains_by_its_options(
    cut: Path, small_dataset: Path, tmp_path: Path, spies: Spies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the record to the Trainer of the second stage, on a real model; no step is taken."""
    from interlace_cli.core.finetune import build_step
    from interlace_cli.healing.heal import Healer

    options = FinetuneOptions(
        checkpoint=cut,
        tune_layers=(3, 6),
        dataset=small_dataset,
        workspace=tmp_path,
        out=tmp_path / "healed",
        lr=3e-4,
        epochs=2.0,
        batch_size=3,
        grad_accum=5,
        warmup=0.125,
        max_length=777,
        min_pixels=1024,
        max_pixels=4096,
        objective="local,distill+anchor",
        distill_weight=0.375,
        anchor_weight=0.625,
        local_share=0.25,
        optim="sgd",
        dtype="float32",
        seed=7,
        device="cpu",
        gradient_checkpointing=True,
        save_every=6,
        report_to="none",
    )
    spies.watch("io.models.load_model")
    spies.watch("io.models.load_processor")
    spies.watch("data.batches.Batcher")
    spies.watch("healing.heal.apply_checkpointing")
    spies.watch("healing.heal.build_rows")
    spies.watch("healing.heal.train_stage", stop)
    local: list[int] = []

    def learn_locally(self: Any, number: int, stage: Any, steps: Sequence[Any], advance: Any) -> list[float]:
        local.append(len(steps))
        return [0.0]

    monkeypatch.setattr(Healer, "_learn_locally", learn_locally)
    with pytest.raises(Stop):
        build_step(options).make(Silent(), False)
    count = len(load_split(small_dataset, "train"))
    total = -(-2 * -(-count // 15) // 1)
    assert local == [round(total / 4)]
    (((trainer, *_), _),) = spies.calls["train_stage"]
    arguments = trainer.args
    assert (arguments.learning_rate, arguments.seed) == (3e-4, 7)
    assert arguments.warmup_steps == -(-arguments.max_steps // 8)
    assert str(arguments.optim) == "OptimizerNames.SGD"
    assert (arguments.max_steps, arguments.save_steps, arguments.report_to) == (total - local[0], 6, [])
    assert [len(step) for step in trainer.train_dataset.steps][:2] == [15, 15]
    assert (trainer.row_loss.weights.distill, trainer.row_loss.weights.anchor) == (0.375, 0.625)
    assert trainer.row_loss.share == 0.375
    assert trainer.row_loss.stage.terms == ("distill", "anchor")
    assert trainer.max_tokens == 777
    assert {named.get("max_length", rest[2] if len(rest) > 2 else None) for rest, named in spies.calls["Batcher"]} == {
        777
    }
    assert spies.get("load_processor", 0, 1, 2) == {(cut, 1024, 4096)}
    assert spies.get("load_model", 1, 2) == {("float32", "cpu")}
    first, second = (rest[0] for rest, _ in spies.calls["load_model"])
    assert first == cut != second, "and then its teacher"
    assert len(spies.calls["apply_checkpointing"]) == 1
    assert {rest[3] for rest, _ in spies.calls["build_rows"]} == {3}
    tuned = {name.split("layers.")[1].split(".")[0] for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert tuned == {"2", "4"}, "of the layers 0 1 3 4 6 7 of the dense model the third and the fifth"


@pytest.mark.parametrize(("stage", "share"), [("ce", 0.0), ("distill", 0.375), ("anchor", 0.0), ("anchor+ce", 0.0)])
def test_the_weights_of_the_terms_are_not_each_others(
    stage: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    from interlace_cli.healing import heal
    from interlace_cli.healing.objective import parse_objective

    recipe = Recipe(distill_weight=0.375, anchor_weight=0.625)
    monkeypatch.setattr(heal, "choose_loss", lambda model, row: "loss")
    me = SimpleNamespace(
        recipe=recipe,
        student=SimpleNamespace(model=None, layers=None),
        dense=None,
        probe=None,
        engine=SimpleNamespace(running=lambda model, layers: nullcontext()),
    )
    loss = heal.Healer._build_loss(me, parse_objective(stage)[0])  # type: ignore[arg-type]
    assert (loss.weights.distill, loss.weights.anchor, loss.share) == (0.375, 0.625, share)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_an_engine_is_the_one_that_is_asked_for(
    engine: str, cut: Path, small_dataset: Path, tmp_path: Path, spies: Spies
) -> None:
    from interlace_cli.core.finetune import build_step

    spies.watch("healing.engine.Engine", stop)
    options = FinetuneOptions(checkpoint=cut, dataset=small_dataset, out=tmp_path / "h", engine=engine, device="cpu")
    with pytest.raises(Stop):
        build_step(options).make(Silent(), False)
    assert spies.get("Engine", 0) == {engine}


# --- what a step remembers


def _find_settings(step: str) -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    from interlace_cli.core import evaluate, plan, prepare, prune
    from interlace_cli.importance import measuring

    return {
        "prepare": (PrepareOptions, prepare.build_settings),
        "analyze": (AnalyzeOptions, measuring.build_settings),
        "plan": (PlanOptions, plan.build_settings),
        "prune": (PruneOptions, lambda options: prune.build_settings(options, "language")),
        "finetune": (FinetuneOptions, FinetuneOptions.build_recipe_settings),
        "evaluate": (EvaluateOptions, evaluate.build_settings),
    }[step]


REMEMBERED: dict[str, set[str]] = {
    "prepare": {*SELECTED, "source", "revision", *(f"min_{name}" for name in RATED)},
    # What else was measured says itself on how much (`core.analyze.find_lacks`).
    "analyze": {
        *("samples", "text", "dtype", "device", "attention", "batch_size", "min_pixels", "max_pixels", "stack"),
    },
    # Of which stack is told by the scores, which are inputs.
    "plan": {
        *("ratio", "drop", "strategy", "criterion", "selection", "tune", "threshold", "weight", "protect", "paper"),
        "seed",
    },
    # Of a compensated cut. Which layers go is an input.
    "prune": {"compensate", "samples", "batch_size", "min_pixels", "max_pixels", "dtype", "device"},
    "finetune": {slot.name for slot in describe(RecipeOptions)},
    "evaluate": {
        *("samples", "batch_size", "max_new_tokens", "generation_config", "min_pixels", "max_pixels", "speed"),
        *("repeats", "dtype", "device", "device_map", "attention", "seed", "backend"),
    },
}
"""Step -> the options that its result depends on: by another value of one of them it is another result."""


@pytest.mark.parametrize("step", REMEMBERED)
def test_a_step_remembers_what_its_result_depends_on(step: str) -> None:
    record, build_settings = _find_settings(step)
    base = {"compensate": "linear"} if step == "prune" else {}
    before = build_settings(record(**base))
    changed = set()
    for slot in describe(record):
        more = NEEDED.get((record, slot.name), {})
        value = "none" if slot.name == "compensate" else choose_value(slot)
        # Weights are dropped, or layers, whose gaps are made up for; and a plain cut alone is verified.
        plain = {} if slot.name in ("method", "verify", "dry_run") else base
        beside = build_settings(record(**{**plain, **more}))
        if plain == base and build_settings(record(**{**plain, **more, slot.name: value})) != beside:
            changed.add(slot.name)
    assert changed == REMEMBERED[step]
    assert json.loads(json.dumps(before)) == before, "as it stands in the artifact"


def test_a_sparse_checkpoint_remembers_how_it_was_made(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    from interlace_cli.core.prune import build_step

    def find_settings(method: str, **more: Any) -> dict[str, Any]:
        common: dict[str, Any] = {"model": str(chain_model), "dataset": small_dataset, "workspace": tmp_path}
        return dict(build_step(PruneOptions(method=method, **common, **more)).settings)

    given = {"sparsity": "1:4", "samples": 5, "batch_size": 3, "dtype": "float32", "device": "cpu"}
    given |= {"min_pixels": 1, "max_pixels": 2}
    assert find_settings("wanda", **given) == {"method": "wanda", **given}
    assert find_settings("magnitude", **given) == {"method": "magnitude", "sparsity": "1:4"}


# --- in several processes


@pytest.mark.parametrize("command", ["prepare", "analyze", "prune", "prune --method", "finetune", "eval"])
def test_processes_are_started_with_the_same_options(
    command: str, chain_model: Path, cut: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlace_cli.core import analyze, evaluate, finetune, prepare, prune
    from interlace_cli.options.build import build_options

    common: dict[str, Any] = {"dataset": small_dataset, "workspace": tmp_path, "processes": 3, "dtype": "float32"}
    if command == "analyze":
        given: Any = AnalyzeOptions(model=str(chain_model), samples=9, importance=("loss",), **common)
        step: Any = analyze.build_step(given)
    elif command == "eval":
        # Two folders, the second under a name of its own.
        given = EvaluateOptions(
            checkpoints=(f"{chain_model.name}={chain_model}", f"cut={cut}"),
            out=tmp_path / "e.json",
            samples=5,
            **common,
        )
        step = evaluate.build_step(given, Silent())
    elif command.startswith("prune"):
        cut_words: Any = {"method": "wanda"} if "--method" in command else {"drop_layers": (3,), "compensate": "linear"}
        given = PruneOptions(model=str(chain_model), device_map="fsdp", **cut_words, **common)
        step = prune.build_step(given)
    elif command == "prepare":
        # Of more records than three processes read at a time.
        (tmp_path / "t.jsonl").write_text('{"conversations": []}\n' * 1000)
        source = str(tmp_path / "t.jsonl")
        given = PrepareOptions(source=source, workspace=tmp_path, out=tmp_path / "d", processes=3, threads=2)
        step = prepare.build_step(given)
    else:
        given = FinetuneOptions(checkpoint=cut, tune_layers=(3,), lr=3e-4, objective="distill", **common)
        step = finetune.build_step(given)
    started: list[Any] = []

    def start(words: list[str], count: int, stdout: int | None = None) -> int:
        name, flag, file, *rest = words
        assert (name, flag, rest) == (command.split()[0], "--config", ["--json"])
        started.append((build_options(type(given), json.loads(Path(file).read_text())), count))
        raise Stop

    monkeypatch.setattr("interlace_cli.runtime.launch.run_processes", start)
    with pytest.raises(Stop):
        step.make(Silent(), False)
    assert started == [(given, 3)]


def test_local_workspaces_have_their_inputs_sent(
    chain_model: Path, cut: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are not looked for a file of the first process."""
    from interlace_cli.core import analyze, evaluate, finetune, local_workspaces

    shared: list[dict[str, Path | None]] = []
    monkeypatch.setattr(local_workspaces, "find_processes", lambda: Processes(0, 2))
    monkeypatch.setattr(local_workspaces, "take_from_main", lambda topic, make: make())
    monkeypatch.setattr(local_workspaces, "share_inputs", lambda inputs, say: shared.append(inputs))
    for is_local in (False, True):
        common: dict[str, Any] = {"dataset": small_dataset, "workspace": tmp_path, "local_workspaces": is_local}
        measured = AnalyzeOptions(model=str(chain_model), **common)
        healed = FinetuneOptions(checkpoint=cut, tune_layers=(3,), objective="distill", **common)
        judged = EvaluateOptions(checkpoints=(f"whole={chain_model}", str(cut)), **common)
        local_workspaces.share_for_analyze(measured, Silent())
        local_workspaces.share_for_finetune(healed, Silent())
        local_workspaces.share_for_eval(judged, Silent())
        assert analyze.build_step(measured).is_local is is_local
        assert finetune.build_step(healed).is_local is is_local
        assert evaluate.build_step(judged, Silent()).is_local is is_local
    base = Path(load_artifact(cut / "interlace.json", CheckpointCard).base.location)
    assert shared == [
        {"the dataset": small_dataset, "the model": chain_model},
        {
            "the dataset": small_dataset,
            "the plan": tmp_path / "plan.json",
            "the checkpoint": cut,
            "the dense model": base,
        },
        {"the dataset": small_dataset, "the checkpoint whole": chain_model, f"the checkpoint {cut.name}": cut},
    ]


# --- analyze


def test_analyze_measures_by_its_options(chain_model: Path, small_dataset: Path, tmp_path: Path, spies: Spies) -> None:
    """Real measurements, on few samples."""
    from interlace_cli.core.analyze import analyze

    options = AnalyzeOptions(
        model=str(chain_model),
        dataset=small_dataset,
        workspace=tmp_path,
        samples=7,
        batch_size=3,
        text="conversation",
        importance=("similarity", "loss", "taylor"),
        by=("modality", "kind"),
        loss_samples=5,
        search_ratio=0.25,
        protect=(0, 3),
        dtype="bfloat16",
        device="cpu",
        attention="eager",
        write_scores=tmp_path / "scores",
        **SPREAD,
    )
    spies.watch("io.models.load_model")
    spies.watch("importance.rows.measure_rows")
    spies.watch("data.prefetch.iter_calibration")
    spies.watch("importance.loss.search_by_loss")
    found = analyze(options, Silent())
    assert spies.get("load_model", 1, 2, 3) == {("bfloat16", PLACEMENT, "eager")}
    ((rows, _),) = spies.calls["measure_rows"]
    assert (len(rows[4]), rows[5], rows[6]) == (7, 3, "conversation")
    assert [(len(rest[1]), rest[2]) for rest, _ in spies.calls["iter_calibration"]] == [(5, 3), (5, 3)]
    ((search, _),) = spies.calls["search_by_loss"]
    limits = search[4]
    assert (limits.depth, limits.protected) == (2, frozenset({0, 3})), "a quarter of eight layers"
    assert found.loss is not None
    assert found.taylor is not None
    assert (found.calibration.samples, found.loss.samples, found.taylor.samples) == (7, 5, 5)
    assert (len(found.loss.path), found.loss.protected) == (2, [0, 3])
    assert not {step.layer for step in found.loss.path} & {0, 3}
    assert {group.by for group in found.groups} == {"kind"}
    assert len(list((tmp_path / "scores").iterdir())) == 3


@pytest.mark.parametrize("stack", ["language", "vision"])
def test_analyze_measures_the_stack_that_is_asked_for(
    stack: str, chain_model: Path, small_dataset: Path, tmp_path: Path, spies: Spies
) -> None:
    from interlace_cli.core.analyze import build_step

    options = AnalyzeOptions(model=str(chain_model), dataset=small_dataset, workspace=tmp_path, samples=2, stack=stack)
    spies.watch("families.modules.find_layers")
    spies.watch("importance.rows.measure_rows", stop)
    with pytest.raises(Stop):
        build_step(options).make(Silent(), False)
    assert spies.get("find_layers", 1) == {stack}
    assert spies.get("measure_rows", 2) == {stack}


# --- prune


@pytest.mark.parametrize("how", ["linear", "wanda"])
def test_prune_calibrates_by_its_options(
    how: str, chain_model: Path, small_dataset: Path, tmp_path: Path, spies: Spies
) -> None:
    from interlace_cli.core.prune import build_step

    own: dict[str, Any] = {"method": "wanda", "sparsity": "1:4"} if how == "wanda" else {"compensate": "linear"}
    own |= {} if how == "wanda" else {"drop_layers": (3, 4)}
    options = PruneOptions(
        model=str(chain_model), dataset=small_dataset, workspace=tmp_path, samples=5, batch_size=2, dtype="float32",
        device="cpu", **SPREAD, **own,
    )  # fmt: skip
    spies.watch("io.models.load_model")
    spies.watch("data.prefetch.iter_calibration")
    spies.watch("healing.compensation.compensate")
    spies.watch("sparsity.wanda.prune_by_wanda")
    card = build_step(options).make(Silent(), False)
    assert spies.get("load_model", 1, 2) == {("float32", PLACEMENT)}
    assert [(len(rest[1]), rest[2]) for rest, _ in spies.calls["iter_calibration"]] == [(5, 2)]
    if how == "wanda":
        assert {str(pattern) for pattern in spies.get("prune_by_wanda", 3)} == {"1:4"}
        assert (card.sparsity, card.strategy) == ("1:4", "wanda")
    else:
        assert spies.get("compensate", 2) == {(3, 4)}
        assert (card.dropped, card.compensated) == ([3, 4], [2])


def test_prune_verifies_on_the_device_that_is_asked_for(chain_model: Path, tmp_path: Path, spies: Spies) -> None:
    from interlace_cli.core.prune import prune

    spies.watch("evaluation.fidelity.compare_checkpoints", stop)
    options = PruneOptions(
        model=str(chain_model), drop_layers=(3,), out=tmp_path / "p", verify=True, device="cpu", workspace=tmp_path,
        **SPREAD,
    )  # fmt: skip
    with pytest.raises(Stop):
        prune(options, Silent())
    ((rest, _),) = spies.calls["compare_checkpoints"]
    assert (rest[0], rest[1], rest[2], rest[3], rest[5]) == (chain_model, tmp_path / "p", [3], "language", PLACEMENT)


# --- eval


def test_eval_asks_by_its_options(
    chain_model: Path, cut: Path, small_dataset: Path, tmp_path: Path, spies: Spies
) -> None:
    """Real answers to few questions; the timing alone is left out."""
    from interlace_cli.core.evaluate import build_step

    options = EvaluateOptions(
        checkpoints=(str(chain_model), str(cut)),
        dataset=small_dataset,
        workspace=tmp_path,
        out=tmp_path / "eval.json",
        samples=5,
        batch_size=3,
        max_new_tokens=2,
        generation_config="model",
        min_pixels=1024,
        max_pixels=4096,
        repeats=4,
        seed=9,
        dtype="bfloat16",
        device="cpu",
        attention="eager",
        **SPREAD,
    )
    spies.watch("io.models.load_model")
    spies.watch("io.models.load_processor")
    spies.watch("evaluation.answering.answer_tasks")
    spies.watch("evaluation.speed.measure_speed", lambda models, inputs, repeats, way: [None] * len(models))
    # A random model answers nothing right.
    spies.watch("core.evaluate.score_retention", lambda scores, dense: 0.5)
    spies.watch("core.evaluate.bootstrap_retention", lambda points, dense, kinds, seed: (0.4, 0.6))
    found = build_step(options, Silent()).make(Silent(), False)
    assert spies.get("load_model", 1, 2, 3) == {("bfloat16", PLACEMENT, "eager")}
    # Once for both, to see which samples they can be given: they have the same files.
    assert [(rest[0], rest[1], rest[2]) for rest, _ in spies.calls["load_processor"]] == [
        (chain_model, 1024, 4096),
        (chain_model, 1024, 4096),
        (cut, 1024, 4096),
    ]
    asked = [(len(rest[2][0].samples), *rest[3:5], *rest[7:9]) for rest, _ in spies.calls["answer_tasks"]]
    assert asked == [(5, 3, 2, "model", 9)] * 2
    assert spies.get("measure_speed", 2, 3) == {(4, "model")}
    assert spies.get("bootstrap_retention", 3) == {9}
    assert sum(found.samples.values()) == 5


def test_eval_does_not_time_where_it_is_told_so(
    chain_model: Path, small_dataset: Path, tmp_path: Path, spies: Spies
) -> None:
    from interlace_cli.core.evaluate import build_step

    options = EvaluateOptions(
        checkpoints=(str(chain_model),), dataset=small_dataset, out=tmp_path / "e.json", workspace=tmp_path,
        speed=False, samples=1, max_new_tokens=1,
    )  # fmt: skip
    spies.watch("evaluation.speed.measure_speed", stop)
    build_step(options, Silent()).make(Silent(), False)
    assert spies.calls["measure_speed"] == []


def test_a_cell_of_compare_is_timed_on_the_processor_that_answers(
    chain_model: Path, small_dataset: Path, spies: Spies
) -> None:
    from interlace_cli.evaluation.checkpoints import time_checkpoints

    spies.watch("io.models.load_processor")
    spies.watch("io.models.load_model")
    spies.watch("evaluation.speed.time_first_token", lambda models, prompt, repeats, way: [[1.0]] * repeats)
    options = EvaluateOptions(
        min_pixels=1024, max_pixels=4096, dtype="float32", device="cpu", attention="eager", **SPREAD
    )  # fmt: skip
    samples = load_split(small_dataset, "heldout")[:3]
    assert len(time_checkpoints([chain_model], small_dataset, samples, options, 6, Silent())) == 6
    assert spies.get("load_processor", 1, 2) == {(1024, 4096)}
    assert spies.get("load_model", 1, 2, 3) == {("float32", PLACEMENT, "eager")}


@pytest.mark.parametrize("harness", ["lmms-eval", "vlmevalkit"])
def test_a_harness_is_called_with_its_options(
    harness: str, chain_model: Path, tmp_path: Path, spies: Spies, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlace_cli.core.evaluate import evaluate

    own = {"samples": 5, "include_path": tmp_path} if harness == "lmms-eval" else {}
    options = EvaluateOptions(
        checkpoints=(str(chain_model),), workspace=tmp_path, harness=harness, harness_model="some_class",
        harness_arg=("a=1", "b=x"), batch_size=3, tasks="vstar,pope", **own,
    )  # fmt: skip
    monkeypatch.setattr("interlace_cli.evaluation.harness.runner._check_installed", lambda harness: "1.0")
    spies.watch("evaluation.harness.lmms_eval.build_command", stop)
    spies.watch("evaluation.harness.vlmevalkit.write_config", stop)
    spies.watch("core.benchmarks.open_family", lambda known, allowed, progress: [])
    with pytest.raises(Stop):
        evaluate(options, Silent())
    if harness == "lmms-eval":
        (((path, model, arguments, asked, _, batch_size, limit, include), _),) = spies.calls["build_command"]
        assert (path, model, arguments, batch_size) == (chain_model, "some_class", ("a=1", "b=x"), 3)
        assert (limit, include, asked.name) == (5, tmp_path, "vstar")
    else:
        (((_, _, path, kit_class, settings, _), _),) = spies.calls["write_config"]
        assert (path, kit_class, settings) == (chain_model, "some_class", {"a": 1, "b": "x"})


# --- export


def test_export_publishes_by_its_options(cut: Path, tmp_path: Path, spies: Spies) -> None:
    from interlace_cli.core.export import export

    spies.watch("core.export.push_folder", lambda folder, repository, is_private: "there")
    spies.watch("core.export.convert_gguf", lambda draft, folder, name, progress: None)
    options = ExportOptions(
        checkpoint=cut, workspace=tmp_path, out=tmp_path / "out", name="Some-Name", base_model="some/base",
        license="some-license", push_to_hub="some/repository", private=False, format=("hf", "gguf"),
    )  # fmt: skip
    export(options, Silent())
    assert spies.get("push_folder", 0, 1, 2) == {(tmp_path / "out", "some/repository", False)}
    assert spies.get("convert_gguf", 2) == {"Some-Name"}
    card = (tmp_path / "out/README.md").read_text()
    assert "base_model: some/base" in card
    assert "license: some-license" in card
    assert "# Some-Name" in card


def test_export_reads_the_evaluation_that_is_named(cut: Path, tmp_path: Path, spies: Spies) -> None:
    from interlace_cli.core.export import build_step
    from interlace_cli.domain.evaluation import Evaluation

    spies.watch("core.export.load_artifact")
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(Exception, match=r"other\.json"):
        build_step(ExportOptions(checkpoint=cut, workspace=tmp_path, evaluation=path), Silent())
    assert (path, Evaluation) in spies.get("load_artifact", 0, 1)


# --- bench


@pytest.mark.parametrize("part", ["prune", "heal", "startup"])
def test_bench_measures_by_its_options(part: str, spies: Spies) -> None:
    from interlace_cli.core.bench import run_benchmark

    options = BenchOptions(
        part=part, shape="4b", tokens=333, batch_size=3, gigabytes=0.25, repeats=4, optim="sgd",
        gradient_checkpointing=True, device="cpu",
    )  # fmt: skip
    spies.watch("bench.prune.measure_pruning", stop)
    spies.watch("bench.startup.measure_startup", stop)
    spies.watch("bench.shapes.find_shape", lambda name: f"shape {name}")
    spies.watch("bench.heal.make_random", lambda shape, tokens, device: (shape, tokens, device))
    spies.watch("bench.heal.measure_healing", stop)
    with pytest.raises(Stop):
        run_benchmark(options, Silent())
    if part == "prune":
        assert spies.get("measure_pruning", 0, 1) == {(0.25, 4)}
    elif part == "startup":
        assert spies.get("measure_startup", 0) == {4}
    else:
        ((given, _),) = spies.calls["measure_healing"]
        assert given[:6] == (("shape 4b", 333, "cpu"), 3, 4, "sgd", True, "cpu")


@pytest.mark.parametrize("part", ["analyze", "serve", "heal"])
def test_bench_measures_pictures_by_its_options(part: str, spies: Spies, chain_model: Path) -> None:
    from interlace_cli.core.bench import run_benchmark

    model = str(chain_model) if part == "heal" else None
    options = BenchOptions(
        part=part, model=model, side=(96, 128), samples=7, batch_size=3, new_tokens=6, repeats=4, tokens=333,
        device="cpu", shape="8b", optim="sgd",
    )  # fmt: skip
    shape = SimpleNamespace(deepstack=[1, 2])
    spies.watch("bench.shapes.find_shape", lambda name: shape if name == "8b" else None)
    spies.watch("bench.shapes.build_dense", lambda shape, device: ("model", device))
    spies.watch("bench.shapes.build_processor", lambda side: f"processor {side}")
    spies.watch("io.models.load_processor", lambda path, smallest, largest: f"processor {smallest} {largest}")
    spies.watch("bench.pictures.draw_pictures", lambda folder, count, side: folder)
    spies.watch("core.bench.prepare", lambda options, progress: None)
    spies.watch("data.batches.Batcher", lambda processor, dataset: processor)
    spies.watch("bench.analyze.build_material", lambda *given: given)
    spies.watch("bench.analyze.measure_analysis", lambda *given: [])
    spies.watch("bench.serve.measure_serving", lambda *given: [])
    spies.watch("bench.heal.load_patient", lambda model, batcher, tokens, deepstack: (batcher, tokens))
    spies.watch("bench.heal.measure_healing", stop)
    if part == "heal":
        with pytest.raises(Stop):
            run_benchmark(options, Silent())
        ((given, _),) = spies.calls["measure_healing"]
        assert given[:6] == (("processor 9216 9216", 333), 3, 4, "sgd", False, "cpu")
        return
    run_benchmark(options, Silent())
    assert [rest[1:] for rest, _ in spies.calls["draw_pictures"]] == [(14, 96), (14, 128)]
    if part == "analyze":
        materials = [rest[0] for rest, _ in spies.calls["measure_analysis"]]
        assert [one[1:5] for one in materials] == [(f"processor {side}", 7, 3, 2) for side in (96, 128)]
        assert spies.get("measure_analysis", 1, 2) == {(4, "cpu")}
    else:
        found = [rest[1:7] for rest, _ in spies.calls["measure_serving"]]
        assert found == [
            (f"processor {side}", f"{side * side / 1e6:.2f} MP", (1, 3), 6, 4, "cpu") for side in (96, 128)
        ]


# --- what is checked of the machine


def test_the_machine_is_checked_for_what_each_step_asks(spies: Spies, tmp_path: Path) -> None:
    from interlace_cli.core.checks import check_machine

    spies.watch("runtime.device.choose_device", lambda device: device)
    spies.watch("io.models.check_attention", lambda attention: None)
    spies.watch("healing.engine.Engine", lambda engine, count: None)
    spies.watch("healing.arguments.check_arguments", lambda recipe, how, folder, device: None)
    options = RunOptions(
        analyze=AnalyzeOptions(device="cpu", attention="eager"),
        evaluate=EvaluateOptions(device="cuda:1", attention="sdpa"),
        finetune=FinetuneOptions(
            device="cuda", engine="zero2", processes=3, optim="sgd", report_to="wandb", dtype="float32"
        ),
        workspace=tmp_path,
    )
    check_machine(options)
    assert spies.get("choose_device", 0) == {"cpu", "cuda:1", "cuda"}
    assert spies.get("check_attention", 0) == {"eager", "sdpa"}
    assert spies.get("Engine", 0, 1) == {("zero2", 3)}
    (((recipe, how, folder, device), _),) = spies.calls["check_arguments"]
    assert (recipe.optim, recipe.dtype, how.report_to, how.engine) == ("sgd", "float32", "wandb", "zero2")
    assert (folder, device) == (tmp_path, "cuda")


def test_layers_are_measured_at_the_resolution_that_healing_trains_at(
    chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """The demo's pictures are 64 x 64 with 16 tokens each; at half the side they have 4."""
    from making import make_analysis

    from interlace_cli.core.prune import build_step
    from interlace_cli.errors import UsageError

    assert {slot.option.default for slot in describe(AnalyzeOptions) if slot.name == "max_pixels"} == {50176}
    tokens = {}
    for area in (50176, 1024):
        made = make_analysis(
            chain_model, small_dataset, tmp_path / f"{area}.json", samples=2, min_pixels=256, max_pixels=area
        )
        tokens[area] = made.calibration.image_tokens
        assert made.created_by.settings["max_pixels"] == area
    assert tokens == {50176: 16, 1024: 4}
    cut = PruneOptions(
        model=str(chain_model), drop_layers=(4,), compensate="linear", dataset=small_dataset, max_pixels=1024
    )
    assert build_step(cut).settings["max_pixels"] == 1024
    with pytest.raises(UsageError, match="--min-pixels 784 is more than --max-pixels 100"):
        AnalyzeOptions(max_pixels=100)


def test_memory_that_can_be_had_is_enough_for_the_search(
    chain_model: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system holds of files that were read is available, and not free."""
    import psutil
    from making import make_analysis

    from interlace_cli.errors import InterlaceError

    def search(available: float) -> Any:
        found = psutil.virtual_memory()._replace(available=int(available), free=0)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: found)
        options: dict[str, Any] = {"samples": 2, "importance": ("loss",), "search_ratio": 0.0}
        return make_analysis(chain_model, small_dataset, tmp_path / "analysis.json", **options)

    with pytest.raises(InterlaceError, match=r"and 0\.0 GB are available"):
        search(1000)
    assert search(1e9).loss is not None
