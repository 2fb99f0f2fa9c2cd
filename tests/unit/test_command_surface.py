"""The command surface as data: every option of every command, walked from what is typed to the step it is for.

Each option is given a valid value that is not its default (`option_values.py`), by every way there is to give it. The
step's function is replaced by one that only keeps what it was given: exactly that field has to have that value, and
every other field its default. What becomes of the values below the records is in `test_option_effects.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import typer.main
from option_values import NEEDED, WORDS, choose_value, flatten, list_defaults, plain_value, type_words

from interlace_cli import api
from interlace_cli.cli.app import COMMANDS, COMPOSED, build_app
from interlace_cli.cli.console import output
from interlace_cli.core.step import Step
from interlace_cli.domain.plan import Plan
from interlace_cli.errors import InterlaceError
from interlace_cli.options import CompareOptions, Options, RunOptions, SchemaOptions
from interlace_cli.options.build import ONE_CALL, Entry, build_options, index_names, list_entries
from interlace_cli.options.option import describe
from interlace_cli.options.plan import STRATEGIES
from interlace_cli.strategies.decide import ModelConstraints

REACHED = 77
"""Exit code of a call that came as far as the step."""
BASE: dict[str, dict[str, Any]] = {
    "run": {"model": "some-model", "data": "some-data"},
    "compare": {"model": "some-model", "data": "some-data"},
    "bench": {"part": "prune"},
}
"""What a command needs to begin; for the chains a model that is not the demo, which has defaults of its own."""
CORE = {
    "run": ("run", "look_ahead"),
    "prepare": ("prepare", "draw_source"),
    "analyze": ("analyze",),
    "plan": ("plan",),
    "prune": ("prune", "draft"),
    "finetune": ("finetune", "estimate"),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "compare": ("compare",),
    "report": ("report",),
    "status": ("describe_workspace",),
    "bench": ("run_benchmark",),
}
"""Module in `core` -> the functions of it that a command may call."""
OTHER_WAYS = {
    ("run", "dry_run"): "look_ahead",
    ("prepare", "dry_run"): "draw_source",
    ("prune", "dry_run"): "draft",
    ("finetune", "estimate"): "estimate",
}
"""Options by which a command does another thing."""


class Reached(InterlaceError):  # noqa: N818 - no error
    """Ends a call where the step would begin."""

    exit_code = REACHED

    def __init__(self) -> None:
        super().__init__("")


@cache
def find_record(command: str) -> type[Options]:
    """What its function takes."""
    function = getattr(import_module(f"interlace_cli.cli.{COMMANDS[command]}"), COMMANDS[command])
    record: type[Options] = get_type_hints(function)["options"]
    return record


@cache
def find_command(command: str) -> Any:
    """Built once: that takes longer than a call."""
    return typer.main.get_command(build_app((command,)))


CASES = [(command, entry.name) for command in COMMANDS for entry in list_entries(find_record(command))]


@cache
def find_entry(command: str, name: str) -> Entry:
    return next(entry for entry in list_entries(find_record(command)) if entry.name == name)


def type_call(command: str, values: Mapping[str, Any]) -> list[str]:
    """The words of a call."""
    words = [command]
    for name, value in values.items():
        words += type_words(find_entry(command, name), value)
    return words


def invoke(words: list[str]) -> tuple[int, str]:
    """The call's exit code and all that it said."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        find_command(words[0]).main(args=words, prog_name="interlace")
    return int(ended.value.code or 0), said.getvalue()


def reach(words: list[str]) -> None:
    """A call that comes as far as the step."""
    code, said = invoke(words)
    assert code == REACHED, (words, said)


@pytest.fixture(autouse=True)
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Path, str]]]:
    """A folder of its own for each test; which workspaces were held in it, and by which commands."""
    found: list[tuple[Path, str]] = []

    @contextmanager
    def hold(folder: Path, command: str, say: Any) -> Iterator[None]:
        found.append((folder, command))
        yield

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTERLACE_WORKSPACE", raising=False)
    monkeypatch.setattr("interlace_cli.runtime.lock.locked", hold)
    yield found
    output.configure(as_json=False, quiet=False, debug=False)


Kept = list[tuple[str, Any]]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """What was called in `core`, and with which options."""
    found: Kept = []

    def keep(name: str) -> Callable[..., None]:
        def kept_instead(options: Any, *rest: Any) -> None:
            found.append((name, options))
            raise Reached

        return kept_instead

    for module, names in CORE.items():
        for name in names:
            monkeypatch.setattr(f"interlace_cli.core.{module}.{name}", keep(name))
    show = keep("schema")
    monkeypatch.setattr("interlace_cli.cli.schema._find_schema", lambda name: show(SchemaOptions(artifact=name)))
    return found


def expect(command: str, values: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """The defaults, but for what was given; what a name of `run` stands for in several steps, in each of them."""
    record = find_record(command)
    wanted = list_defaults(record)
    if command == "run" and not {"ratio", "drop"} & set(values):
        # Else a plan would not know how many layers go.
        wanted[("plan", "ratio")] = 0.25
    for name, value in values.items():
        wanted |= dict.fromkeys(find_entry(command, name).targets, value)
    return wanted


@pytest.mark.parametrize(("command", "name"), CASES)
def test_an_option_reaches_its_field_and_no_other(command: str, name: str, kept: Kept, tmp_path: Path) -> None:
    record, entry = find_record(command), find_entry(command, name)
    value = choose_value(entry.slot)
    beside = {**BASE.get(command, {}), **NEEDED.get((record, name), {})}
    beside.pop(name, None)
    plain = {name: plain_value(entry.slot, value)}
    (tmp_path / "options.yaml").write_text(f"# options\n{name}: {json.dumps(plain[name])}\n")
    (tmp_path / "options.toml").write_text(f"{entry.flag.strip('-').lower()} = {json.dumps(plain[name])}\n")
    calls = [
        type_call(command, {**beside, name: value}),
        [*type_call(command, beside), "--config", "options.yaml"],
        [*type_call(command, beside), "--config", "options.toml"],
    ]
    wanted = expect(command, {**beside, name: value})
    for words in calls:
        reach(words)
    in_python = getattr(api, COMMANDS[command], None)
    if in_python is not None:
        with pytest.raises(Reached):
            in_python(**{**beside, **plain})
    assert len(kept) == len(calls) + (in_python is not None)
    main = {"eval": "evaluate", "status": "describe_workspace", "bench": "run_benchmark"}.get(command, command)
    for number, (called, options) in enumerate(kept):
        assert flatten(options) == wanted
        # In Python a step that only looks is a function of its own.
        assert called == (main if number == len(calls) else OTHER_WAYS.get((command, name), main))


def test_every_command_is_walked() -> None:
    """A new one has to be told in CORE, and is walked as the others are."""
    walked = {command for command, _ in CASES}
    assert walked == set(COMMANDS) - {"env"}, "env has nothing to choose"
    assert {"evaluate" if command == "eval" else command for command in walked - {"schema"}} == set(CORE)
    assert len(CASES) > 300


OLDER = [
    (command, older, name)
    for command in COMMANDS
    for older, name in index_names(find_record(command)).items()
    if not find_entry(command, name).slot.option.is_argument
    and f"--{older.replace('_', '-')}" != find_entry(command, name).flag
]


@pytest.mark.parametrize(("command", "older", "name"), OLDER)
def test_an_older_name_reaches_the_same_field(command: str, older: str, name: str, kept: Kept) -> None:
    """Typed, and in a file."""
    record, entry = find_record(command), find_entry(command, name)
    value = choose_value(entry.slot)
    beside = {**BASE.get(command, {}), **NEEDED.get((record, name), {})}
    words = [f"--{older.replace('_', '-')}" if word == entry.flag else word for word in type_words(entry, value)]
    reach([*type_call(command, beside), *words])
    Path("options.yaml").write_text(json.dumps({older: plain_value(entry.slot, value)}))
    reach([*type_call(command, beside), "--config", "options.yaml"])
    assert [flatten(options) for _, options in kept] == [expect(command, {**beside, name: value})] * 2


def test_older_spellings_of_values_are_taken(kept: Kept) -> None:
    reach(["finetune", "--precision", "bf16"])
    reach(["run", "some-model", "--data", "d", "--dtype", "fp32"])
    assert kept[0][1].dtype == "bfloat16"
    made = kept[1][1]
    assert {made.analyze.dtype, made.prune.dtype, made.finetune.dtype, made.evaluate.dtype} == {"float32"}


def test_the_command_line_goes_before_a_file_and_a_file_before_the_environment(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("options.yaml").write_text("workspace: from-file\nratio: 0.5\nseed: 3\n")
    monkeypatch.setenv("INTERLACE_WORKSPACE", "from-environment")
    for words in (
        ["plan", "--ratio", "0.2"],
        ["plan", "--config", "options.yaml", "--ratio", "0.2"],
        ["plan", "--config", "options.yaml", "-w", "typed", "--seed", "4"],
    ):
        reach(words)
    assert [(str(o.workspace), o.ratio, o.seed) for _, o in kept] == [
        ("from-environment", 0.2, 0),
        ("from-file", 0.2, 3),
        ("typed", 0.5, 4),
    ]


DEMO = {"lr": 5e-4, "epochs": 2.0, "heal_batch_size": 32, "grad_accum": 1, "holdout": 0.2}
"""The demo's own defaults, of `run` and `compare` alone."""


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize(
    "given",
    [{}, {"lr": 1e-3, "holdout": 0.5}, {"epochs": 1.0, "heal_batch_size": 16}, {"paper": True}, {"data": "some-data"}],
)
def test_what_is_given_goes_before_the_demos_defaults(command: str, given: dict[str, Any], kept: Kept) -> None:
    Path("options.yaml").write_text(json.dumps(given))
    reach(type_call(command, given))
    reach([command, "--config", "options.yaml"])
    with pytest.raises(Reached):
        getattr(api, command)(**given)
    own = {"holdout": 0.2} if "paper" in given else DEMO
    own = {name: value for name, value in own.items() if name != "holdout" or "data" not in given}
    wanted = expect(command, {"model": "demo", "data": "demo", **own, **given})
    assert [flatten(options) for _, options in kept] == [wanted] * 3


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_model_of_ones_own_needs_data(command: str, kept: Kept) -> None:
    code, said = invoke([command, "some-model"])
    assert (code, kept) == (2, [])
    assert said.startswith(f"Error: {command} some-model needs --data.")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("env", "schema")])
@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_a_saved_call_can_be_called_again(command: str, suffix: str, kept: Kept) -> None:
    """With every option that goes with the others, but for those that are for one call."""
    record, values = find_record(command), dict(BASE.get(command, {}))
    for entry in list_entries(record):
        more = {**values, **NEEDED.get((record, entry.name), {}), entry.name: choose_value(entry.slot)}
        try:
            build_options(record, more)
        except InterlaceError:
            continue
        values = more
    assert len(values) > 0.6 * len(list_entries(record))
    file = f"saved/call.{suffix}"
    reach([*type_call(command, values), "--save-config", file])
    reach([command, "--config", file])
    (_, before), (_, after) = kept
    once = {slot.name: slot.option.default for slot in describe(record) if slot.name in ONE_CALL}
    assert all(getattr(before, name) for name in once if name == "force")
    assert after == replace(before, **once)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "env"])
def test_how_a_call_is_answered(command: str, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """--json, --quiet and --debug are no options of a step."""
    seen = []
    monkeypatch.setattr(Reached, "__init__", lambda self: seen.append((output.as_json, output.quiet, output.debug)))
    monkeypatch.setattr(Reached, "what", "", raising=False)
    words = type_call(command, {**BASE.get(command, {}), **({"artifact": "plan"} if command == "schema" else {})})
    for more in ([], ["--json"], ["--quiet"], ["-q"]):
        reach([*words, *more])
    with pytest.raises(Reached):
        find_command(command).main(args=[*words, "--debug"], prog_name="interlace")
    assert seen == [
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (False, True, False),
        (False, False, True),
    ]
    assert len({str(options) for _, options in kept}) == 1


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "env"])
def test_a_command_holds_its_workspace(command: str, kept: Kept, held: list[tuple[Path, str]]) -> None:
    values = {**BASE.get(command, {}), **({"artifact": "plan"} if command == "schema" else {})}
    has_workspace = any(entry.name == "workspace" for entry in list_entries(find_record(command)))
    reach([*type_call(command, values), *(["-w", "a/b"] if has_workspace else [])])
    assert held == ([(Path("a/b"), command)] if command not in ("compare", "status", "bench", "schema") else [])


# --- what the commands themselves do with an option


def test_a_picture_of_an_analysis_goes_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    found = SimpleNamespace(model=SimpleNamespace(num_layers=4, name="m"))
    monkeypatch.setattr("interlace_cli.core.analyze.analyze", lambda options, progress: found)
    monkeypatch.setattr("interlace_cli.report.heatmap.find_rows", lambda found: [])
    monkeypatch.setattr("interlace_cli.report.heatmap.build_heatmap", lambda rows, layers, title: "drawing")

    def save(drawing: str, path: Path, force: bool) -> None:
        saved.append((drawing, path, force))
        raise Reached

    monkeypatch.setattr("interlace_cli.report.figure_file.save_figure", save)
    reach(["analyze", "--figure", "a.svg"])
    assert saved == [("drawing", Path("a.svg"), False)]


@pytest.mark.parametrize("words", [[], ["--open"]])
def test_a_report_is_opened_on_request(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("interlace_cli.core.report.report", lambda options: Path("report.html"))
    monkeypatch.setattr("typer.launch", opened.append)
    assert invoke(["report", *words])[0] == 0
    assert opened == (["report.html"] if words else [])


def test_a_benchmark_is_added_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    added = []

    def add(found: Any, path: Path) -> None:
        added.append((found, path))
        raise Reached

    monkeypatch.setattr("interlace_cli.core.bench.run_benchmark", lambda options, progress: "found")
    monkeypatch.setattr("interlace_cli.core.bench.append_benchmark", add)
    reach(["bench", "prune", "--append", "a.md"])
    assert added == [("found", Path("a.md"))]


# --- run: from what is typed to what each step is given

STEPS = ("prepare", "analyze", "plan", "prune", "finetune", "evaluate", "export")


@dataclass
class Seen:
    """What the steps of a chain were given: step -> options of each call; and what else they did."""

    options: dict[str, list[Any]] = field(default_factory=lambda: {step: [] for step in STEPS})
    made: list[str] = field(default_factory=list)
    others: dict[str, list[Any]] = field(default_factory=dict)

    def keep(self, what: str, answer: Any = None) -> Callable[..., Any]:
        """A function that keeps its arguments."""

        def kept_instead(*arguments: Any) -> Any:
            self.others.setdefault(what, []).append(arguments)
            return answer

        return kept_instead


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Steps that make nothing."""
    found = Seen()

    def replace_builder(name: str) -> Callable[..., Step[Any]]:
        def build_step(options: Any, *rest: Any) -> Step[Any]:
            found.options[name].append(options)

            def make(progress: Any, may_replace: bool) -> None:
                found.made.append(name)

            nowhere = Path("nowhere") / name
            return Step(name=name, settings={}, inputs={}, out=nowhere, record=Plan, make=make)

        return build_step

    for name in STEPS:
        monkeypatch.setattr(f"interlace_cli.core.{name}.build_step", replace_builder(name))
    return found


@pytest.fixture
def chain(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """`run`, with nothing but its wiring."""
    run = "interlace_cli.core.run."

    def stop(self: Any) -> None:
        raise Reached

    monkeypatch.setattr(f"{run}check_machine", seen.keep("check_machine"))
    monkeypatch.setattr(f"{run}write_report", seen.keep("write_report"))
    monkeypatch.setattr(f"{run}load_artifact", seen.keep("load_artifact"))
    monkeypatch.setattr(f"{run}Chain.build_record", stop)
    limits = ModelConstraints(num_layers=40)
    monkeypatch.setattr("interlace_cli.core.plan.load_constraints", seen.keep("load_constraints", limits))
    monkeypatch.setattr("interlace_cli.core.prune.verify", seen.keep("verify", SimpleNamespace(describe=list)))
    monkeypatch.setattr("interlace_cli.core.export.export", seen.keep("export"))
    Path("some-tasks").write_text("- {name: charts, source: demo}\n")
    return seen


def expect_step(step: str, record: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the step, what `run` gives to it in any case, and what was asked for."""
    composed = find_record(record.__name__.removesuffix("Options").lower())
    hint = get_type_hints(composed)[step]
    wanted = {name: value for (name,), value in list_defaults(hint).items()}
    wanted |= {"workspace": Path("interlace-out"), "force": False}
    wanted |= {
        "prepare": {"source": values["data"]},
        "analyze": {"model": values["model"]},
        "prune": {"model": values["model"]},
    }.get(step, {})
    for name, value in values.items():
        if name in ("workspace", "force"):
            wanted[name] = value
        for path in find_entry(composed.__name__.removesuffix("Options").lower(), name).targets:
            if path[0] == step:
                wanted[path[1]] = value
    return wanted


ALSO: dict[str, dict[str, dict[str, Any]]] = {
    # The analysis has what the plan chooses by.
    "criterion": {"analyze": {"importance": ("similarity", "taylor")}},
    "strategy": {"analyze": {"importance": ("similarity", "taylor")}},
    "weight": {"analyze": {"by": ("modality", "kind", "source")}},
    # What is exported is named after where it goes, and pushed when it is whole.
    "push_to_hub": {"export": {"name": "some-push_to_hub", "push_to_hub": None}},
}
"""Option of `run` -> what it changes beside its own fields."""


@pytest.mark.parametrize("name", [name for command, name in CASES if command == "run" and name != "dry_run"])
def test_run_gives_an_option_to_the_steps_it_is_for(name: str, chain: Seen) -> None:
    entry = find_entry("run", name)
    values = {**BASE["run"], **NEEDED.get((RunOptions, name), {}), name: choose_value(entry.slot)}
    reach(type_call("run", values))
    assert chain.made == list(STEPS)
    for step in STEPS:
        wanted = expect_step(step, RunOptions, values)
        if step == "plan" and name not in ("ratio", "drop"):
            wanted["ratio"] = 0.25
        wanted |= ALSO.get(name, {}).get(step, {})
        assert chain.options[step]
        for options in chain.options[step]:
            assert {path[0]: value for path, value in flatten(options).items()} == wanted, step
    verified = [arguments[0] for arguments in chain.others.get("verify", [])]
    assert verified == ([chain.options["prune"][-1]] if name == "verify" else [])
    pushed = [arguments[0] for arguments in chain.others.get("export", [])]
    assert [one.push_to_hub for one in pushed] == (["some-push_to_hub"] if name == "push_to_hub" else [])
    (constraints,) = chain.others["load_constraints"]
    assert constraints == (values["model"], values.get("stack"))
    ((checked,),) = chain.others["check_machine"]
    assert flatten(checked) == expect("run", values)


def test_what_run_pushes_is_what_it_exports(chain: Seen) -> None:
    words = [
        "run",
        "m",
        "--data",
        "d",
        "-w",
        "w",
        "--push-to-hub",
        "me/x",
        "--public",
        "--license",
        "mit",
        "--name",
        "n",
    ]
    reach(words)
    ((pushed, _),) = chain.others["export"]
    exported = chain.options["export"][-1]
    assert replace(exported, push_to_hub="me/x") == pushed
    assert (pushed.private, pushed.license, pushed.name, pushed.workspace) == (False, "mit", "n", Path("w"))


def test_a_dry_run_builds_the_same_steps_and_makes_none(chain: Seen) -> None:
    words = ["run", "m", "--data", "d", "--lr", "3e-4", "--seed", "7", "-w", "w"]
    assert invoke([*words, "--dry-run"])[0] == 0
    looked = {step: options[-1] for step, options in chain.options.items()}
    assert chain.made == []
    reach(words)
    assert looked == {step: options[-1] for step, options in chain.options.items()}
    assert looked["finetune"].lr == 3e-4


# --- compare: to each cell

CELL: dict[str, set[str]] = {
    "prepare": set(),
    "analyze": set(),
    "plan": {"ratio", "strategy", "criterion", "selection", "tune", "threshold", "workspace", "force"},
    "prune": {"model", "out", "workspace", "force", "drop_layers", "stack", "compensate", "method", "sparsity"},
    "finetune": {
        *("checkpoint", "out", "workspace", "force", "tune_layers", "dense", "stack", "seed", "objective"),
    },
    "evaluate": {"workspace", "force"},
}
"""What differs from cell to cell, or is a cell's own place."""


@pytest.fixture
def grid(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """`compare`, with nothing but its wiring: a dense model of 40 layers, whose plans drop layers that tell the
    strategy and the ratio."""
    cells, work = "interlace_cli.core.cells.", "interlace_cli.core.cell_work."

    def open_model(location: Any, stack: str = "language") -> Any:
        seen.others.setdefault("opened", []).append((str(location), stack))
        facts = SimpleNamespace(
            name=str(location),
            stack=stack,
            num_layers=40,
            layer_bytes=[1] * 40,
            fingerprint="f",
            processor="p",
            model_type="m",
        )
        return SimpleNamespace(facts=facts, checkpoint=SimpleNamespace(path=Path(location)))

    def find_basis(options: Any) -> Any:
        seen.options["plan"].append(options)
        assert options.workspace == seen.workspace
        return SimpleNamespace(scores="scores", constraints="limits", calibration="calibration", inputs={"a": "b"})

    def decide(scores: Any, options: Any, constraints: Any, calibration: Any, origin: Any, inputs: Any) -> Any:
        assert (scores, constraints, calibration, inputs) == ("scores", "limits", "calibration", {"a": "b"})
        seen.options["plan"].append(options)
        first = STRATEGIES.index(options.strategy)
        return SimpleNamespace(drop=list(range(first, first + round(options.ratio * 16))), tune=[30, 31])

    def describe_machine(options: Any) -> tuple[str, str]:
        seen.options["evaluate"].append(options)
        return f"device {options.device}", f"dtype {options.dtype}"

    def answer(label: str, opened: Any, tasks: Any, options: Any, progress: Any) -> Any:
        seen.options["evaluate"].append(options)
        return SimpleNamespace(scored=SimpleNamespace(points=[1.0], weights=None), loss=0.5)

    def time(paths: Any, folder: Any, samples: Any, options: Any, repeats: int, progress: Any) -> Any:
        seen.options["evaluate"].append(options)
        seen.others.setdefault("timed", []).append(repeats)
        return [[2.0, 1.0]] * 3

    def stop(*arguments: Any) -> None:
        raise Reached

    task = SimpleNamespace(folder=Path("dataset"), samples=[SimpleNamespace(image=["a.png"])])
    for name, function in {
        f"{cells}open_model": open_model,
        f"{work}open_model": open_model,
        f"{cells}load_heldout": seen.keep("load_heldout", [task]),
        f"{cells}load_tasks": seen.keep("load_tasks", [task]),
        f"{cells}keep_readable_tasks": lambda tasks, model_type, say: tasks,
        f"{cells}keep_usable_tasks": lambda models, tasks, options, progress: (tasks, {}),
        f"{cells}hash_split": lambda dataset, split: f"{split} of {dataset}",
        f"{work}hash_split": lambda dataset, split: f"{split} of {dataset}",
        f"{cells}hash_specs": lambda file, folder: {"task": f"{file} in {folder}"},
        f"{work}count_seen": lambda path, samples: 0,
        f"{work}check_overlap": seen.keep("check_overlap", []),
        f"{work}check_machine": seen.keep("check_machine"),
        f"{work}_keep": lambda path, target: seen.others.setdefault("kept", []).append(target),
        f"{work}save_artifact": lambda cell, path: seen.others.setdefault("cells", []).append(path),
        f"{cells}decide_plan": decide,
        "interlace_cli.core.plan.find_basis": find_basis,
        "interlace_cli.evaluation.checkpoints.describe_machine": describe_machine,
        "interlace_cli.evaluation.checkpoints.answer_samples": answer,
        "interlace_cli.evaluation.checkpoints.time_checkpoints": time,
        "interlace_cli.evaluation.checkpoints.has_sparse_kernels": lambda options: False,
        "interlace_cli.core.compare.check_machine": seen.keep("check_machine"),
        "interlace_cli.core.compare.load_constraints": seen.keep("load_constraints"),
        "interlace_cli.core.compare._conclude": stop,
    }.items():
        monkeypatch.setattr(name, function)
    Path("some-tasks").write_text("- {name: charts, source: demo}\n")
    seen.workspace = Path("interlace-out")  # type: ignore[attr-defined]
    return seen


def compare(seen: Seen, **values: Any) -> list[str]:
    """The call, and the names of the files of its cells."""
    for options in seen.options.values():
        options.clear()
    seen.others.clear()
    seen.workspace = values.get("workspace", Path("interlace-out"))  # type: ignore[attr-defined]
    reach(type_call("compare", {**BASE["compare"], **values}))
    return [path.name for path in seen.others["cells"]]


COMPARED = [name for command, name in CASES if command == "compare"]
CLUSTER_WORDS = {"shard", "collect", "submit", "workers", "sbatch", "hand_in"}
"""Options by which a call does not make all of the cells: tests/unit/test_grid_options.py."""
GRID_WORDS = {"strategies", "ratios", "seeds", "more_seeds_at", "objective", "compensate", "baselines", "sparsity"}


@pytest.mark.parametrize("name", [name for name in COMPARED if name not in GRID_WORDS | CLUSTER_WORDS])
def test_compare_gives_an_option_to_the_steps_it_is_for(name: str, grid: Seen) -> None:
    entry = find_entry("compare", name)
    needed = NEEDED.get((CompareOptions, name), {})
    values = {**BASE["compare"], **needed, name: choose_value(entry.slot)}
    compare(grid, **needed, **{name: values[name]})
    for step, own in CELL.items():
        wanted = expect_step(step, find_record("compare"), values)
        if step == "analyze":
            # What sleb chooses by.
            wanted["importance"] = (*wanted["importance"], "loss")
            wanted["by"] = ("modality", "kind", "source") if name == "weight" else wanted["by"]
            # It protects no layer by default, and sleb's search must know that.
            wanted["protect"] = () if name == "paper" else wanted["protect"]
        assert grid.options[step], step
        for options in grid.options[step]:
            found = {path[0]: value for path, value in flatten(options).items()}
            assert {k: v for k, v in found.items() if k not in own} == {k: v for k, v in wanted.items() if k not in own}
    # The bar of pairs is interlace's own.
    bars = {(one.strategy, one.threshold) for one in grid.options["plan"]}
    bar = values.get("threshold")
    assert bars == {("interlace", bar), ("sleb", None), ("shortgpt", None), ("random", None)}
    for one in (*grid.options["prune"], *grid.options["finetune"]):
        assert one.workspace == values.get("workspace", Path("interlace-out"))
    for (checked,) in grid.others["check_machine"]:
        assert flatten(checked) == expect("compare", values)
    assert grid.others["load_constraints"] == [(values["model"], values.get("stack"))]
    _check_what_is_asked(name, values, grid)


def _check_what_is_asked(name: str, values: Mapping[str, Any], grid: Seen) -> None:
    """What `compare` itself does with an option of it."""
    root = values.get("workspace", Path("interlace-out"))
    if name == "tasks":
        ((file, folder, at_most, _),) = grid.others["load_tasks"]
        assert (file, folder, at_most) == (Path("some-tasks"), root / "tasks", None)
    else:
        assert grid.others["load_heldout"] == [(root / "dataset", values.get("eval_samples"))]
    assert {allowed for _, _, allowed in grid.others["check_overlap"]} == {values.get("allow_overlap", False)}
    assert bool(grid.others.get("timed")) == values.get("speed", True)
    folders = {one.out.parent.parent for one in grid.options["finetune"]}
    assert folders == {root / "compare/work"}
    kept = {(target.parent, f"{target.name}.json") for target in grid.others.get("kept", [])}
    cells = {(root / "compare/checkpoints", path.name) for path in grid.others["cells"]}
    assert kept == (
        {one for one in cells if not one[1].startswith(("speed-", "dense-"))}
        | {one for one in cells if one[1].startswith("dense-ft-")}
        if name == "keep"
        else set()
    )
    stack = values.get("stack", "language")
    assert {stack for _, stack in grid.others["opened"]} == {stack}
    assert {one.stack for one in grid.options["prune"] if one.method is None} == {stack}
    assert {one.model for one in grid.options["prune"]} == {values["model"]}


KEYED = {
    # What the figures of a cell depend on: the model and the samples, the cut and what makes up for it, ...
    *("stack", "compensation_samples", "calibration_batch_size", "tasks", "workspace"),
    # ... the recipe, ...
    *("lr", "epochs", "heal_batch_size", "grad_accum", "warmup", "max_length", "heal_min_pixels", "heal_max_pixels"),
    *("distill_weight", "anchor_weight", "local_share", "optim", "dtype"),
    # ... and how it is asked.
    *("eval_samples", "eval_batch_size", "max_new_tokens", "eval_min_pixels", "eval_max_pixels", "attention"),
    "generation_config",
}
"""Options by which a cell is another one. The workspace is one for this test alone: its dataset is told by its path."""


@pytest.mark.parametrize("name", [name for name in COMPARED if name not in GRID_WORDS | CLUSTER_WORDS])
def test_a_cell_is_named_after_what_its_figures_depend_on(name: str, grid: Seen) -> None:
    before = set(compare(grid))
    needed = NEEDED.get((CompareOptions, name), {})
    after = set(compare(grid, **needed, **{name: choose_value(find_entry("compare", name).slot)}))
    if name == "speed":
        assert after == {file for file in before if not file.startswith("speed-")}
    elif name in KEYED:
        kinds = {file.rpartition("-")[0] for file in before - after}
        assert kinds, f"--{name} changes figures, and every cell has the name that it had"
    else:
        assert after == before


def test_a_cell_depends_on_what_it_is_made_by(grid: Seen) -> None:
    """A cut that is not healed does not depend on the recipe; one that is not calibrated not on the calibration."""

    def find_changed(**values: Any) -> set[str]:
        after = compare(grid, **values)
        return {file.partition("-")[0] for file in set(before) - set(after)}

    before = compare(grid)
    healed = {"healed", "dense"}  # dense-ft begins so
    assert find_changed(lr=1e-3) == healed
    assert "dense" in {file.partition("-")[0] for file in before}
    plain = {file for file in before if file.startswith("dense-") and not file.startswith("dense-ft")}
    assert plain <= set(compare(grid, lr=1e-3))
    assert find_changed(compensation_samples=5) == {"wanda"}
    assert find_changed(eval_min_pixels=5) == {"dense", "wanda", "magnitude", "pruned", "healed", "speed"}
    assert find_changed(eval_samples=5) == {"dense", "wanda", "magnitude", "pruned", "healed"}


def test_strategies_and_ratios_of_the_grid_are_planned(grid: Seen) -> None:
    compare(grid, strategies=("interlace/optimal/loss", "sleb/paired", "random"), ratios=(0.125, 0.5), threshold=0.25)
    found = {(o.strategy, o.ratio, o.criterion, o.selection, o.tune, o.threshold) for o in grid.options["plan"]}
    assert found == {
        *(("interlace", ratio, "loss", "optimal", None, 0.25) for ratio in (0.125, 0.5)),
        *(("sleb", ratio, "similarity", "greedy", "paired", None) for ratio in (0.125, 0.5)),
        *(("random", ratio, "similarity", "greedy", None, None) for ratio in (0.125, 0.5)),
    }
    assert {one.importance for one in grid.options["analyze"]} == {("similarity", "loss")}
    first = STRATEGIES.index("interlace")
    dropped = {one.drop_layers for one in grid.options["prune"] if one.method is None}
    assert dropped >= {tuple(range(first, first + count)) for count in (2, 8)}


def list_healed(seen: Seen) -> list[tuple[Any, ...]]:
    """Each healing but Dense-FT's: how many layers were cut, seed, objective."""
    cuts = {one.out: len(one.drop_layers) for one in seen.options["prune"] if one.method is None}
    healed = [one for one in seen.options["finetune"] if not one.dense]
    return [(cuts[one.checkpoint], one.seed, one.objective) for one in healed]


def test_seeds_and_objectives_of_the_grid_are_healed(grid: Seen) -> None:
    options = {"strategies": ("interlace",), "objective": ("ce", "local,distill"), "seeds": (3, 6)}
    compare(grid, **options)
    assert sorted(list_healed(grid)) == sorted((4, seed, o) for seed in (3, 6) for o in ("ce", "local,distill"))
    dense = [one for one in grid.options["finetune"] if one.dense]
    assert {(one.seed, one.objective, one.tune_layers, one.stack) for one in dense} == {
        (seed, "ce", (30, 31), "language") for seed in (3, 6)
    }
    assert {str(one.checkpoint) for one in dense} == {"some-model"}
    assert {one.tune_layers for one in grid.options["finetune"]} == {(30, 31)}


def test_more_seeds_at_one_ratio(grid: Seen) -> None:
    compare(grid, strategies=("interlace",), ratios=(0.125, 0.5), seeds=(3, 6), more_seeds_at=0.5)
    assert sorted(list_healed(grid)) == [(2, 3, "ce"), (8, 3, "ce"), (8, 6, "ce")]


@pytest.mark.parametrize("compensate", [("linear",), ("none", "linear")])
def test_compensations_of_the_grid_are_made(compensate: tuple[str, ...], grid: Seen) -> None:
    compare(grid, strategies=("interlace",), compensate=compensate, speed=False)
    assert sorted(o.compensate for o in grid.options["prune"] if o.method is None) == sorted(2 * list(compensate))
    made = {o.out: o.compensate for o in grid.options["prune"]}
    assert sorted(made[o.checkpoint] for o in grid.options["finetune"] if not o.dense) == sorted(compensate)


@pytest.mark.parametrize("baselines", [(), ("magnitude",), ("wanda", "dense-ft")])
def test_baselines_of_the_grid_are_made(baselines: tuple[str, ...], grid: Seen) -> None:
    compare(grid, strategies=("interlace",), baselines=baselines, sparsity="1:4")
    sparse = [(one.method, one.sparsity) for one in grid.options["prune"] if one.method is not None]
    assert sparse == [(method, "1:4") for method in baselines if method != "dense-ft"]
    assert any(one.dense for one in grid.options["finetune"]) == ("dense-ft" in baselines)


def test_the_pattern_names_the_sparse_cells_alone(grid: Seen) -> None:
    changed = set(compare(grid)) - set(compare(grid, sparsity="1:4"))
    assert {file.partition("-")[0] for file in changed} == {"wanda", "magnitude"}


def test_a_cell_that_is_there_is_made_anew_on_request_alone(grid: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    from interlace_cli.core.step import Condition, State

    there = SimpleNamespace(seconds=1.0, speedup=1.0, is_edited=False)
    monkeypatch.setattr(
        "interlace_cli.core.step.Step.find_state",
        lambda self: State(Condition.CURRENT, (), there),  # type: ignore[arg-type]
    )
    words = type_call("compare", BASE["compare"])
    reach(words)
    assert (grid.made, grid.others.get("cells")) == ([], None)
    reach([*words, "--anew"])
    assert grid.made[:2] == ["prepare", "analyze"]
    assert len(grid.others["cells"]) > 10


def test_words_of_the_grid_are_all_tested() -> None:
    composed = {name for name in COMPARED if len(find_entry("compare", name).targets[0]) == 1}
    assert composed == GRID_WORDS | CLUSTER_WORDS | {"model", "data", "keep", "anew", "workspace", "force"}
    assert set(WORDS) & GRID_WORDS <= composed
    assert set(COMPOSED) == {"run", "compare"}
