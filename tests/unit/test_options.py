"""The pure core of `options/`: how values are read, which contradict each other, how records are built and dumped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from option_values import NEEDED, choose_value, flatten, list_defaults, plain_value

from interlace_cli.errors import UsageError
from interlace_cli.options import (
    AnalyzeOptions,
    BenchOptions,
    CompareOptions,
    EnvOptions,
    EvaluateOptions,
    ExportOptions,
    FinetuneOptions,
    Options,
    PlanOptions,
    PrepareOptions,
    PruneOptions,
    ReportOptions,
    RunOptions,
    SchemaOptions,
    StatusOptions,
)
from interlace_cli.options.build import (
    Entry,
    build_options,
    dump_call,
    dump_options,
    find_preset,
    index_names,
    list_entries,
    read_names,
)
from interlace_cli.options.finetune import ExecutionOptions, RecipeOptions
from interlace_cli.options.option import MOST_WHOLE, Slot, describe, option
from interlace_cli.options.schema import RECORDS, build_schema
from interlace_cli.options.shared import parse_layers, parse_weights

STEPS = {
    "prepare": PrepareOptions,
    "analyze": AnalyzeOptions,
    "plan": PlanOptions,
    "prune": PruneOptions,
    "finetune": FinetuneOptions,
    "evaluate": EvaluateOptions,
    "export": ExportOptions,
}
ALL = [*STEPS.values(), RunOptions, CompareOptions, BenchOptions, ReportOptions, StatusOptions, SchemaOptions]


@dataclass(frozen=True, kw_only=True)
class Toy(Options):
    """One option of every kind."""

    flag: bool = option(False, "A flag.")
    count: int = option(4, "A whole number.", low=1, high=9)
    many: int = option(0, "Any whole number.")
    share: float = option(0.5, "Bounds that are allowed.", low=0, high=1)
    open: float | None = option(None, "Bounds that are not.", low=0, high=1, is_open=True, metavar="0.25")
    rate: float = option(1.0, "No upper bound.", low=0)
    above: float = option(3.0, "An open lower bound.", low=2, is_open=True)
    below: int = option(-1, "An upper bound.", high=5)
    under: float = option(1.0, "An open upper bound.", high=5, is_open=True)
    real: float = option(0.0, "No bounds.")
    word: str | None = option(None, "One of some.", choices=("clusters", "uniform"))
    kind: str = option("float32", "With older words.", choices=("float32", "float16"), spellings={"fp32": "float32"})
    text: str | None = option(None, "Any text.")
    place: Path | None = option(None, "A path.")  # noqa: RUF009 - an option is a field
    names: tuple[str, ...] = option((), "With commas between.")
    shares: tuple[float, ...] = option((), "Numbers with commas between.", low=0, high=1)
    words: tuple[str, ...] = option((), "As they are.", separator="")
    picks: tuple[str, ...] = option((), "Of some.", choices=("wanda", "magnitude"))
    three: tuple[Path, Path, Path] | None = option(None, "Three paths.")
    layers: tuple[int, ...] | None = option(None, "Layers.", parse=parse_layers)
    weights: tuple[tuple[str, float], ...] = option((), "Weights.", parse=parse_weights)


SLOTS = {slot.name: slot for slot in describe(Toy)}
HUGE = 10**400


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        *[("flag", given, True) for given in (True, "true", "Yes", "ON", "1")],
        *[("flag", given, False) for given in (False, "false", "no", "Off", "0")],
        *[("count", given, 7) for given in (7, "7", 7.0, " 7 ")],
        *[("count", given, given) for given in (1, 9)],
        ("many", "-12", -12),
        ("many", str(MOST_WHOLE), MOST_WHOLE),
        ("many", MOST_WHOLE, MOST_WHOLE),
        ("many", -(2**53) - 1, -(2**53) - 1),
        *[("share", given, 1.0) for given in (1, "1", 1.0, "1e0")],
        ("share", 0, 0.0),
        # YAML takes 1e-5, without a point, for a text.
        ("rate", "1e-5", 1e-5),
        ("rate", "5E-4", 5e-4),
        ("rate", 3, 3.0),
        ("open", "0.25", 0.25),
        ("open", None, None),
        ("above", 2.5, 2.5),
        ("below", 5, 5),
        ("below", -1000, -1000),
        ("under", 4.9, 4.9),
        ("real", -1e300, -1e300),
        ("word", "uniform", "uniform"),
        ("word", None, None),
        ("kind", "fp32", "float32"),
        ("kind", "float16", "float16"),
        ("text", "1.5", "1.5"),
        # What YAML has made a number of.
        ("text", 2026, "2026"),
        ("text", 0.5, "0.5"),
        ("text", Path("a/b"), "a/b"),
        ("text", "", ""),
        ("place", "a/b", Path("a/b")),
        ("place", Path("a,b"), Path("a,b")),
        ("place", "~", Path.home()),
        ("names", "a, b,,c ", ("a", "b", "c")),
        ("names", ["a,b", "c"], ("a", "b", "c")),
        ("names", ("a",), ("a",)),
        ("names", [1, "x"], ("1", "x")),
        ("names", "", ()),
        ("names", [""], ()),
        ("shares", "0.1,1", (0.1, 1.0)),
        ("shares", [0, "0.5"], (0.0, 0.5)),
        ("shares", 0.25, (0.25,)),
        ("words", "local,distill+anchor", ("local,distill+anchor",)),
        ("words", ["ce", "local,ce"], ("ce", "local,ce")),
        ("picks", "magnitude,wanda", ("magnitude", "wanda")),
        ("three", "a,b,c", (Path("a"), Path("b"), Path("c"))),
        ("three", ["a", "b", Path("c")], (Path("a"), Path("b"), Path("c"))),
        ("three", ["a,1", "b,2", "c,3"], (Path("a,1"), Path("b,2"), Path("c,3"))),
        ("layers", "0-2,15", (0, 1, 2, 15)),
        ("layers", "15, 0-2,1", (0, 1, 2, 15)),
        ("layers", ["0-1", 2], (0, 1, 2)),
        ("layers", (7, 3), (3, 7)),
        ("layers", 5, (5,)),
        ("layers", "4-4", (4,)),
        ("layers", "", ()),
        ("layers", [], ()),
        ("layers", None, None),
        ("weights", "text=2,chartqa=1", (("chartqa", 1.0), ("text", 2.0))),
        ("weights", ["text=2", "chartqa = 1e-1"], (("text", 2.0), ("chartqa", 0.1))),
        ("weights", (("text", 2.0),), (("text", 2.0),)),
        ("weights", [("text", 2)], (("text", 2.0),)),
        ("weights", "a=b=0", (("a=b", 0.0),)),
        ("weights", "", ()),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_value_is_read(name: str, given: Any, wanted: Any) -> None:
    found = SLOTS[name].read(given)
    assert found == wanted
    assert type(found) is type(wanted)
    assert getattr(Toy(**{name: given}), name) == wanted, "also where a record is made in Python"
    assert SLOTS[name].read(found) == found, "what was read once is left as it is"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("flag", "maybe", "--flag does not take 'maybe'. It takes true or false."),
        ("flag", 1, "--flag does not take 1. It takes true or false."),
        ("flag", None, "--flag needs a value."),
        ("count", None, "--count needs a value."),
        ("count", "eight", "--count does not take 'eight'. It takes a whole number."),
        ("count", 2.5, "--count does not take 2.5. It takes a whole number."),
        ("count", "2.5", "--count does not take '2.5'. It takes a whole number."),
        ("count", True, "--count does not take True. It takes a whole number."),
        ("count", [4], "--count does not take [4]. It takes a whole number."),
        ("count", float("nan"), "--count does not take nan. It takes a whole number."),
        ("count", float("inf"), "--count does not take inf. It takes a whole number."),
        ("count", 0, "--count 0 is not between 1 and 9."),
        ("count", 10, "--count 10 is not between 1 and 9."),
        ("count", HUGE, "--count 1000000000"),
        ("many", MOST_WHOLE + 1, f"--many {MOST_WHOLE + 1} is more than {MOST_WHOLE}."),
        ("many", HUGE, "--many 1000000000"),
        ("many", "1" * 5000, "--many does not take '1111111111"),
        ("below", 12345678, "--below 12345678 is more than 5."),
        ("share", "abc", "--share does not take 'abc'. It takes a number."),
        ("share", "", "--share does not take ''. It takes a number."),
        ("share", False, "--share does not take False. It takes a number."),
        ("share", HUGE, "--share does not take 1000000000"),
        ("share", "x" * 99, f"--share does not take '{'x' * 55} .... It takes a number."),
        ("share", -0.1, "--share -0.1 is not between 0 and 1."),
        ("share", 1.1, "--share 1.1 is not between 0 and 1."),
        ("share", "nan", "--share nan is not between 0 and 1."),
        ("share", "inf", "--share inf is not between 0 and 1."),
        ("open", 0, "--open 0 is not between 0 and 1. Such as --open 0.25."),
        ("open", 1, "--open 1 is not between 0 and 1. Such as --open 0.25."),
        ("rate", -1, "--rate -1 is less than 0."),
        ("rate", "nan", "--rate nan is not a finite number."),
        ("rate", float("inf"), "--rate inf is not a finite number."),
        ("above", 2, "--above 2 is not more than 2."),
        ("above", "-inf", "--above -inf is not a finite number."),
        ("below", 6, "--below 6 is more than 5."),
        ("under", 5.0, "--under 5 is not less than 5."),
        ("under", "nan", "--under nan is not a finite number."),
        ("real", "-inf", "--real -inf is not a finite number."),
        ("word", "unifrom", "--word does not take 'unifrom'. Did you mean uniform? It takes clusters or uniform."),
        ("word", "xyz", "--word does not take 'xyz'. It takes clusters or uniform."),
        ("word", "", "--word does not take ''. It takes clusters or uniform."),
        ("word", True, "--word does not take True. It takes a text."),
        ("kind", "FP31", "--kind does not take 'FP31'. Did you mean float32? It takes float32 or float16."),
        ("text", ["a"], "--text does not take ['a']. It takes a text."),
        ("place", "", "--place is an empty path. Name a file or a folder, or leave it out."),
        ("place", 3, "--place does not take 3. It takes a path."),
        ("place", "~nobody-of-this-name/x", "--place ~nobody-of-this-name/x is in the home folder of nobody here."),
        ("names", None, "--names needs a value."),
        ("names", {"a": 1}, "--names does not take {'a': 1}. It takes a text."),
        ("shares", "0.1,2", "--shares 2 is not between 0 and 1."),
        ("shares", ["x"], "--shares does not take 'x'. It takes a number."),
        ("picks", "wanda,magnitud", "--picks does not take 'magnitud'. Did you mean magnitude?"),
        ("three", "a,b", "--three takes 3 values, and has 2."),
        ("three", ["a", "b", "c", "d"], "--three takes 3 values, and has 4."),
        (
            "layers",
            "3-1",
            "--layers does not take '3-1'. Give 0-based layer indices and ranges, such as 3,6 or 0-2,15.",
        ),
        ("layers", "-1", "--layers does not take '-1'."),
        ("layers", (0, -1), "--layers does not take '-1'."),
        ("layers", 1.5, "--layers does not take '1.5'."),
        ("layers", True, "--layers does not take 'True'."),
        ("layers", "a", "--layers does not take 'a'."),
        ("layers", "9999999", "--layers does not take '9999999'."),
        ("layers", "1\u0663", "--layers does not take '1\u0663'."),
        ("weights", "text", "--weights does not take 'text'. Give names and weights, such as text=2,chartqa=1."),
        ("weights", "=2", "--weights does not take '=2'."),
        ("weights", "text=-1", "--weights does not take 'text=-1'."),
        ("weights", "text=nan", "--weights does not take 'text=nan'."),
        ("weights", "text=inf", "--weights does not take 'text=inf'."),
        ("weights", "text=much", "--weights does not take 'text=much'."),
        ("weights", (("text", -2.0),), "--weights does not take 'text=-2.0'."),
        ("weights", ("text", 2.0), "--weights does not take 'text'."),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_value_is_refused(name: str, given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Toy(**{name: given})
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


def test_a_number_that_python_does_not_write_out_is_refused_in_words() -> None:
    for name, end in (("many", f"more than {MOST_WHOLE}"), ("count", "not between 1 and 9")):
        with pytest.raises(UsageError, match=f"^--{name} a number of thousands of digits is {end}"):
            SLOTS[name].read(10**5000)


def test_an_error_names_the_option_as_it_was_given() -> None:
    with pytest.raises(UsageError, match=r"^--eval-count 0 is not between 1 and 9\.$"):
        SLOTS["count"].read(0, "--eval-count")


CONTRADICTIONS: list[tuple[type[Options], dict[str, Any], str]] = [
    (AnalyzeOptions, {"figure": "a.jpg"}, "--figure a.jpg is neither an .svg nor a .png file."),
    (PlanOptions, {"figure": "a"}, "--figure a is neither an .svg nor a .png file."),
    (PlanOptions, {"ratio": 0.2, "drop": 3}, "plan needs either --ratio or --drop."),
    (PlanOptions, {"paper": True, "protect": (1,)}, "--paper protects nothing, and --protect does."),
    (
        PlanOptions,
        {"strategy": "random", "criterion": "loss"},
        "--criterion belongs to the strategy interlace, not to random.",
    ),
    (
        PlanOptions,
        {"strategy": "shortgpt", "selection": "optimal"},
        "--selection belongs to the strategy interlace, not to shortgpt.",
    ),
    (
        PlanOptions,
        {"strategy": "sleb", "threshold": 0.0},
        "--threshold belongs to the strategy interlace, not to sleb.",
    ),
    (PruneOptions, {"method": "wanda", "plan": "p"}, "--method drops weights, and --plan belongs to dropping layers."),
    (
        PruneOptions,
        {"method": "wanda", "drop_layers": "", "model": "m"},
        "--method drops weights, and --drop-layers belongs to dropping layers.",
    ),
    (
        PruneOptions,
        {"method": "magnitude", "stack": "vision", "verify": True, "dry_run": True, "compensate": "linear"},
        "--method drops weights, and --stack, --verify, --dry-run and --compensate belong to dropping layers.",
    ),
    (
        PruneOptions,
        {"compensate": "linear", "verify": True},
        "--compensate changes weights, and --verify is about a plain cut.",
    ),
    (
        PruneOptions,
        {"compensate": "linear", "dry_run": True},
        "--compensate changes weights, and --dry-run is about a plain cut.",
    ),
    (
        PruneOptions,
        {"drop_layers": "1", "plan": "p", "model": "m"},
        "--plan and --drop-layers both say what to drop.",
    ),
    (PruneOptions, {"stack": "language"}, "--stack belongs to --drop-layers; a plan says its stack itself."),
    (PruneOptions, {"drop_layers": "1"}, "--drop-layers needs a MODEL."),
    (FinetuneOptions, {"min_pixels": 60000}, "--min-pixels 60000 is more than --max-pixels 50176."),
    (FinetuneOptions, {"max_pixels": 100}, "--min-pixels 784 is more than --max-pixels 100."),
    (FinetuneOptions, {"stack": "vision"}, "--stack belongs to --dense; a pruned checkpoint says its stack itself."),
    *[
        (FinetuneOptions, {"paper": True, name: value}, f"--paper is the paper's recipe, and --{flag} changes it.")
        for name, value, flag in (
            ("lr", 2e-5, "lr"),
            ("epochs", 2, "epochs"),
            ("batch_size", 8, "batch-size"),
            ("grad_accum", 1, "grad-accum"),
            ("warmup", 0.1, "warmup"),
            ("max_length", 4096, "max-length"),
            ("min_pixels", 1, "min-pixels"),
            ("max_pixels", 451584, "max-pixels"),
            ("objective", "distill", "objective"),
            ("distill_weight", 0.1, "distill-weight"),
            ("anchor_weight", 0.1, "anchor-weight"),
            ("local_share", 0.1, "local-share"),
            ("optim", "adamw_8bit", "optim"),
        )
    ],
    (EvaluateOptions, {"min_pixels": 10, "max_pixels": 9}, "--min-pixels 10 is more than --max-pixels 9."),
    (
        EvaluateOptions,
        {"harness": "vlmevalkit", "samples": 3},
        "VLMEvalKit takes neither --samples nor --include-path.",
    ),
    (
        EvaluateOptions,
        {"harness": "vlmevalkit", "include_path": "tasks"},
        "VLMEvalKit takes neither --samples nor --include-path.",
    ),
    (
        EvaluateOptions,
        {"harness": "lmms-eval", "import_results": "a=b"},
        "--harness runs benchmarks, and --import reads",
    ),
    (EvaluateOptions, {"harness": "lmms-eval", "dtype": "float32"}, "--dtype does nothing beside --harness."),
    (EvaluateOptions, {"import_results": "a=b", "samples": 3}, "--samples does nothing beside --import."),
    (EvaluateOptions, {"harness_model": "qwen"}, "--harness-model belongs to --harness."),
    (EvaluateOptions, {"harness_arg": "a=1"}, "--harness-arg belongs to --harness."),
    (CompareOptions, {"strategies": ""}, "--strategies is empty. Such as --strategies interlace,interlace_oa."),
    (CompareOptions, {"ratios": []}, "--ratios is empty. Such as --ratios 0.1,0.25."),
    (CompareOptions, {"seeds": ""}, "--seeds is empty. Such as --seeds 0,1,2."),
    (CompareOptions, {"objective": ""}, "compare needs an objective and a compensation. Such as ce and none."),
    (CompareOptions, {"compensate": ""}, "compare needs an objective and a compensation."),
    (
        CompareOptions,
        {"paper": True, "objective": ["ce", "distill"]},
        "--paper is the paper's recipe, and --objective changes it.",
    ),
    # In `run` and `compare` an option is called by its name there.
    (
        RunOptions,
        {"heal_min_pixels": 60000},
        "--heal-min-pixels 60000 is more than --heal-max-pixels 50176.",
    ),
    (
        RunOptions,
        {"eval_min_pixels": 10, "eval_max_pixels": 9},
        "--eval-min-pixels 10 is more than --eval-max-pixels 9.",
    ),
    (
        RunOptions,
        {"strategy": "random", "triplet_selection": "optimal"},
        "--triplet-selection belongs to the strategy interlace, not to random.",
    ),
    (
        CompareOptions,
        {"paper": True, "heal_batch_size": 8},
        "--paper is the paper's recipe, and --heal-batch-size changes it.",
    ),
    (RunOptions, {"compensate": "linear", "verify": True}, "--compensate changes weights, and --verify is about"),
    (BenchOptions, {}, "PART needs a value."),
    (BenchOptions, {"part": "surve"}, "PART does not take 'surve'. Did you mean serve?"),
    (SchemaOptions, {}, "ARTIFACT needs a value."),
]


@pytest.mark.parametrize(("record", "values", "message"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused(
    record: type[Options], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build_options(record, values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("record", "values"),
    [
        (PlanOptions, {"paper": True, "protect": ""}),
        (PlanOptions, {"strategy": "interlace", "criterion": "loss", "selection": "optimal", "threshold": 0}),
        (PlanOptions, {"figure": "A.PNG"}),
        (PruneOptions, {"method": "wanda", "sparsity": "4:8", "samples": 3}),
        (PruneOptions, {"model": "m", "drop_layers": "1", "stack": "vision", "verify": True}),
        (FinetuneOptions, {"paper": True, "seed": 5, "dtype": "bfloat16", "processes": 4, "lr": 1e-5}),
        (FinetuneOptions, {"min_pixels": 784, "max_pixels": 784}),
        (FinetuneOptions, {"dense": True, "stack": "vision"}),
        (EvaluateOptions, {"min_pixels": 9, "max_pixels": 9}),
        (EvaluateOptions, {"harness": "lmms-eval", "samples": 3, "include_path": "tasks"}),
        (CompareOptions, {"paper": True, "objective": "ce"}),
        (CompareOptions, {"baselines": ""}),
    ],
)
def test_what_only_looks_like_a_contradiction_is_taken(record: type[Options], values: dict[str, Any]) -> None:
    assert build_options(record, values)


# --- names


@pytest.mark.parametrize("record", ALL)
def test_no_two_options_share_a_name(record: type[Options]) -> None:
    entries = list_entries(record)
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    options = [entry for entry in entries if not entry.slot.option.is_argument]
    flags = [word for one in options for word in (one.flag, one.slot.option.negative, one.slot.option.short) if word]
    common = ["--config", "--save-config", "--json", "--quiet", "-q", "--debug", "--help", "-h", "--version"]
    assert len({*flags, *common}) == len([*flags, *common])
    known = index_names(record)
    assert set(known.values()) == set(names)
    assert all(known[name] == name for name in names)


SHARED = {
    "seed": {"prepare", "plan", "finetune", "evaluate"},
    "dtype": {"analyze", "prune", "finetune", "evaluate"},
    "device": {"analyze", "prune", "finetune", "evaluate"},
    **{name: {"analyze", "prune", "evaluate"} for name in ("device_map", "max_memory", "offload_folder")},
    "attention": {"analyze", "evaluate"},
    "stack": {"analyze", "plan"},
    "protect": {"analyze", "plan"},
    "processes": {"analyze", "prune", "finetune", "evaluate"},
    "local_workspaces": {"analyze", "finetune", "evaluate"},
    "paper": {"plan", "finetune"},
    "calibration_batch_size": {"analyze", "prune"},
    "heal_min_pixels": {"analyze", "prune", "finetune"},
    "heal_max_pixels": {"analyze", "prune", "finetune"},
    "allow_mismatch": {"prune", "finetune", "evaluate", "export"},
}
"""Name in `run` -> the steps that have it."""


@pytest.mark.parametrize("record", [RunOptions, CompareOptions])
def test_a_shared_option_goes_to_all_its_steps(record: type[Options]) -> None:
    steps = set(get_type_hints(record))
    for entry in list_entries(record):
        owners = [path[0] for path in entry.targets if len(path) == 2]
        wanted = SHARED.get(entry.name)
        if wanted is not None:
            assert set(owners) == wanted & steps, entry.name
            assert len(entry.targets) == len(owners)
        else:
            assert len(entry.targets) == 1, f"{entry.name} is shared, and not in SHARED"
        assert all(path[-1] == entry.slot.name for path in entry.targets)


ALONE = {
    "prepare": {"source", "processes", "shard", "dry_run", "out"},
    "analyze": {"model", "write_scores", "figure", "dataset", "out"},
    "plan": {"scores", "analysis", "model", "figure", "dry_run", "out"},
    "prune": {"model", "plan", "drop_layers", "stack", "method", "sparsity", "dry_run", "dataset", "out"},
    "finetune": {
        *("checkpoint", "plan", "tune_layers", "dense", "stack", "estimate"),
        *("dataset", "out"),
    },
    "evaluate": {
        *("checkpoints", "harness", "harness_model", "harness_arg", "include_path", "import_results"),
        *("dataset", "out"),
    },
    "export": {"checkpoint", "evaluation", "out"},
}
"""What belongs to a step's own command: places that `run` decides, and what makes no chain."""
LEFT_OUT = {
    "run": {},
    "compare": {
        "plan": {"ratio", "drop", "strategy", "criterion", "selection", "tune"},
        "analyze": {"local_workspaces"},
        "prune": {"compensate", "verify", "allow_mismatch"},
        "finetune": {"objective", "allow_mismatch", "local_workspaces"},
        "evaluate": {"repeats", "allow_mismatch", "backend", "local_workspaces"},
    },
}
"""What a grid says in its own way, and what would have no effect in it."""


@pytest.mark.parametrize("step", STEPS)
def test_what_belongs_to_a_step_alone_is_known(step: str) -> None:
    assert {slot.name for slot in describe(STEPS[step]) if slot.option.is_alone} == ALONE[step]


@pytest.mark.parametrize(("command", "record"), [("run", RunOptions), ("compare", CompareOptions)])
def test_run_and_compare_take_every_option_of_their_steps(command: str, record: type[Options]) -> None:
    there = {path for entry in list_entries(record) for path in entry.targets}
    steps = [step for step in STEPS if (command, step) != ("compare", "export")]
    for step in steps:
        # The workspace and whether to replace are one for all of them.
        not_here = ALONE[step] | LEFT_OUT[command].get(step, set()) | {"workspace", "force"}
        wanted = {(step, slot.name) for slot in describe(STEPS[step]) if slot.name not in not_here}
        assert {path for path in there if path[0] == step} == wanted
    assert {("workspace",), ("force",), ("anew",), ("model",), ("data",)} <= there


def test_options_that_steps_share_have_one_definition() -> None:
    """One name, two meanings: then `run` has a name of its own for it."""
    for name in {slot.name for record in STEPS.values() for slot in describe(record)}:
        found = {
            id(slot.option): slot.option
            for record in STEPS.values()
            for slot in describe(record)
            if slot.name == name and not slot.option.is_alone
        }
        in_run = [made.run_name or name for made in found.values()]
        assert len(set(in_run)) == len(in_run), f"{name} is {len(in_run)} options of one name in run"


def test_the_recipe_and_how_it_is_carried_out_are_parts_of_finetune() -> None:
    recipe, how = ({slot.name for slot in describe(record)} for record in (RecipeOptions, ExecutionOptions))
    assert not recipe & how
    assert recipe | how <= {slot.name for slot in describe(FinetuneOptions)}
    assert set(FinetuneOptions().build_recipe_settings()) == recipe


def test_the_recipe_is_the_papers() -> None:
    """INTERLACE, arXiv 2511.19676, and its released training script."""
    made = FinetuneOptions()
    assert (made.lr, made.epochs, made.warmup, made.optim, made.objective) == (1e-5, 1.0, 0.03, "adamw_torch", "ce")
    assert (made.batch_size, made.grad_accum, made.max_length) == (16, 2, 8192)
    assert (made.min_pixels, made.max_pixels) == (784, 50176)


OLDER: list[tuple[type[Options], str, str]] = [
    (PlanOptions, "rank", "criterion"),
    (PlanOptions, "assign", "selection"),
    *[(record, "precision", "dtype") for record in (AnalyzeOptions, PruneOptions, FinetuneOptions, EvaluateOptions)],
    (RunOptions, "precision", "dtype"),
    (RunOptions, "rank", "criterion"),
    (RunOptions, "assign", "triplet_selection"),
    (RunOptions, "batch_size", "heal_batch_size"),
    (CompareOptions, "batch_size", "heal_batch_size"),
    (RunOptions, "attn", "attention"),
    (EvaluateOptions, "import", "import_results"),
    (RunOptions, "text", "calibration_text"),
    (RunOptions, "by", "importance_by"),
    (FinetuneOptions, "heal_batch_size", "batch_size"),
    (EvaluateOptions, "eval_min_pixels", "min_pixels"),
    (PrepareOptions, "data_selection", "selection"),
    (PruneOptions, "compensation_samples", "samples"),
]


@pytest.mark.parametrize(("record", "older", "name"), OLDER)
def test_an_older_name_goes_on_working(record: type[Options], older: str, name: str) -> None:
    assert read_names(record, {older: 1}) == {name: 1}


@pytest.mark.parametrize("spelling", ["heal_batch_size", "heal-batch-size", "--heal-batch-size"])
def test_dashes_and_underscores_are_the_same(spelling: str) -> None:
    assert build_options(RunOptions, {spelling: "8"}).finetune.batch_size == 8


@pytest.mark.parametrize("ambiguous", ["samples", "selection", "min_pixels", "max_pixels"])
def test_a_name_of_several_options_is_none(ambiguous: str) -> None:
    with pytest.raises(UsageError, match=f"there is no option '{ambiguous}'"):
        read_names(RunOptions, {ambiguous: 1})


@pytest.mark.parametrize(
    ("record", "name", "advice"),
    [
        (PlanOptions, "treshold", "Did you mean threshold?"),
        (RunOptions, "heal-batchsize", "Did you mean heal_batch_size?"),
        (FinetuneOptions, "presicion", "Did you mean dtype?"),
        (PlanOptions, "zzz", "--help lists the options."),
        (PlanOptions, "lr", "--help lists the options."),
    ],
)
def test_an_unknown_name_is_refused(record: type[Options], name: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_names(record, {name: 1}, "options.yaml")
    assert str(caught.value) == f"options.yaml: there is no option {name!r}. {advice}"
    with pytest.raises(UsageError) as caught:
        build_options(record, {name: 1})
    assert str(caught.value) == f"there is no option {name!r}. {advice}"


# --- building and dumping


@pytest.mark.parametrize("record", [record for record in ALL if record not in (BenchOptions, SchemaOptions)])
def test_nothing_given_is_the_defaults(record: type[Options]) -> None:
    assert flatten(build_options(record)) == list_defaults(record)
    assert flatten(record()) == list_defaults(record)


def test_a_later_layer_goes_before_an_earlier_one() -> None:
    preset, file, typed = {"lr": 5e-4, "epochs": 2.0, "seed": 1}, {"lr": "1e-3", "precision": "fp32"}, {"dtype": "bf16"}
    made = build_options(RunOptions, preset, file, typed)
    assert (made.finetune.lr, made.finetune.epochs, made.finetune.dtype) == (1e-3, 2.0, "bfloat16")
    assert made.evaluate.dtype == made.analyze.dtype == made.prune.dtype == "bfloat16"
    assert (made.prepare.seed, made.plan.seed, made.finetune.seed, made.evaluate.seed) == (1, 1, 1, 1)
    assert build_options(PlanOptions, {"rank": "loss"}, {"criterion": "taylor"}).criterion == "taylor"
    assert build_options(PlanOptions, {"criterion": "taylor"}, {"rank": "loss"}).criterion == "loss"


def test_an_error_says_what_the_command_calls_the_option() -> None:
    with pytest.raises(UsageError, match=r"^--heal-batch-size 0 is less than 1\.$"):
        build_options(RunOptions, {"batch_size": 0})
    with pytest.raises(UsageError, match=r"^--attn does not take True\."):
        build_options(AnalyzeOptions, {"attention": True})


def test_a_record_cannot_be_changed_and_a_changed_copy_is_checked() -> None:
    made = PlanOptions(ratio=0.25)
    with pytest.raises(AttributeError):
        made.ratio = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError):
        PlanOptions(0.25)  # type: ignore[misc]
    with pytest.raises(UsageError, match="--ratio 2 is not between 0 and 1"):
        replace(made, ratio=2)
    with pytest.raises(UsageError, match="plan needs either"):
        replace(made, drop=3)


# In each kind of text: what commands, shells, YAML and TOML could trip over.
TEXTS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), whitelist_characters="=:#'\"\\%${}[]"), min_size=1, max_size=12
).filter(lambda text: text == text.strip() and not text.startswith("~"))


def draw_value(slot: Slot) -> st.SearchStrategy[Any]:
    """Any valid value of the option, as the record holds it."""
    o = slot.option
    if slot.name == "figure":
        return TEXTS.map(lambda text: Path(text.replace("\0", "") + "/a.svg"))
    if o.parse is parse_layers:
        return st.sets(st.integers(0, 999_999), max_size=6).map(lambda layers: tuple(sorted(layers)))
    if o.parse is parse_weights:
        names = TEXTS.filter(lambda text: "," not in text)
        pairs = st.tuples(names, st.floats(0, 1e300))
        return st.lists(pairs, max_size=4, unique_by=lambda pair: pair[0]).map(tuple)
    if o.parse is not None:
        names = TEXTS.filter(lambda text: "=" not in text)
        return st.lists(st.tuples(names, TEXTS.map(Path)), max_size=4, unique=True).map(tuple)
    one = _draw_one(slot)
    if slot.count == 1:
        return one
    if slot.count > 1:
        return st.tuples(*[one] * slot.count)
    if slot.kind is str and not o.choices and o.separator:
        one = one.filter(lambda text: o.separator not in text)
    return st.lists(one, min_size=1, max_size=4).map(tuple)


def _draw_one(slot: Slot) -> st.SearchStrategy[Any]:
    o = slot.option
    if slot.kind is bool:
        return st.booleans()
    if o.choices:
        return st.sampled_from(o.choices)
    if slot.kind is int:
        return st.integers(None if o.low is None else int(o.low), MOST_WHOLE if o.high is None else int(o.high))
    if slot.kind is float:
        return st.floats(
            o.low, o.high, allow_nan=False, allow_infinity=False, exclude_min=o.is_open, exclude_max=o.is_open
        )
    return TEXTS.map(Path) if slot.kind is Path else TEXTS


@st.composite
def draw_options(draw: st.DrawFn, record: type[Options]) -> tuple[Options, dict[str, Any]]:
    """A valid record, and what was given for it; of options that contradict each other the first ones stay."""
    entries = draw(st.lists(st.sampled_from(list_entries(record)), unique_by=lambda entry: entry.name, max_size=9))
    needed = [entry for entry in list_entries(record) if _is_needed(entry)]
    values: dict[str, Any] = {entry.name: draw(draw_value(entry.slot)) for entry in needed}
    made = build_options(record, values)
    for entry in entries:
        more = {**values, entry.name: draw(draw_value(entry.slot))}
        try:
            made = build_options(record, more)
        except UsageError:
            continue
        values = more
    return made, values


def _is_needed(entry: Entry) -> bool:
    return entry.slot.option.default is None and not entry.slot.is_optional


@pytest.mark.parametrize("record", ALL)
def test_what_is_dumped_builds_the_same(record: type[Options]) -> None:
    schema = build_schema(record)

    @settings(max_examples=25, deadline=None)
    @given(draw_options(record))
    def check(drawn: tuple[Options, dict[str, Any]]) -> None:
        made, values = drawn
        wanted = list_defaults(record)
        for entry in list_entries(record):
            if entry.name in values:
                wanted |= dict.fromkeys(entry.targets, values[entry.name])
        assert flatten(made) == wanted, "each value is where it belongs, and nowhere else"
        dumped = dump_options(made)
        assert build_options(record, dumped) == made
        short = dump_options(made, with_defaults=False)
        assert build_options(record, short) == made
        assert set(short) <= set(values)
        assert not find_faults(dumped, schema)

    check()


@pytest.mark.parametrize("record", ALL)
def test_every_option_is_dumped_and_built(record: type[Options]) -> None:
    """Each of them once, by a value that is not its default."""
    base = {entry.name: choose_value(entry.slot) for entry in list_entries(record) if _is_needed(entry)}
    for entry in list_entries(record):
        value, needed = choose_value(entry.slot), NEEDED.get((record, entry.name), {})
        made = build_options(record, {**base, **needed, entry.name: plain_value(entry.slot, value)})
        assert all(flatten(made)[path] == value for path in entry.targets)
        assert build_options(record, dump_options(made)) == made


def test_a_call_that_is_written_out_can_be_called_again() -> None:
    given = {"data": "d", "holdout": 0.5, "lr": 1e-3, "seed": 3, "force": True, "dry_run": True}
    made = build_options(RunOptions, given)
    wanted = {**dump_options(made)}
    del wanted["force"], wanted["dry_run"]
    assert dump_call(made) == wanted
    assert (wanted["holdout"], wanted["seed"], wanted["lr"]) == (0.5, 3, 1e-3)
    # The workspace's dataset was taken: how it was drawn is not this call's.
    taken = dump_call(replace(made, data=None))
    drawn = {"data_selection", "subset", "exclude", "holdout", "calibration", "allow_download", "threads"}
    assert set(wanted) - set(taken) == {"data", *drawn}
    assert taken == {name: value for name, value in wanted.items() if name in taken}


def find_faults(values: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """What a validator of JSON Schema would say, of the words that `build_schema` uses."""
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    faults = [f"{name} is unknown" for name in values if name not in schema["properties"]]
    for name, value in values.items():
        faults += [f"{name}: {fault}" for fault in _find_value_faults(value, schema["properties"].get(name, {}))]
    return faults


WORDS_OF_SCHEMA = {
    *("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "items", "minItems", "maxItems"),
    *("description", "default"),
}


def _find_value_faults(value: Any, schema: Mapping[str, Any]) -> list[str]:
    assert set(schema) <= WORDS_OF_SCHEMA
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kinds = {
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, (int, float)) and not isinstance(value, bool),
        "string": isinstance(value, str),
        "array": isinstance(value, list),
    }
    faults = [] if any(kinds[one] for one in types) else [f"{value!r} is none of {types}"]
    if kinds["number"]:
        bad = (
            value < schema.get("minimum", value),
            value > schema.get("maximum", value),
            "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"],
            "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"],
        )
        faults += [f"{value} is out of bounds"] if any(bad) else []
    if "enum" in schema and not isinstance(value, list) and value not in schema["enum"]:
        faults.append(f"{value!r} is none of {schema['enum']}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            faults.append(f"{len(value)} items")
        faults += [fault for one in value for fault in _find_value_faults(one, schema.get("items", {"type": "string"}))]
    return faults


@pytest.mark.parametrize("record", RECORDS.values())
def test_the_schema_says_what_an_option_takes(record: type[Options]) -> None:
    schema = build_schema(record)
    assert schema["title"] == record.__name__
    for entry in list_entries(record):
        slot, o, found = entry.slot, entry.slot.option, schema["properties"][entry.name]
        assert found["description"] == o.help
        if o.default is not None:
            assert not _find_value_faults(found["default"], found)
            assert slot.read(found["default"]) == slot.read(o.default)
        value = choose_value(slot)
        assert not _find_value_faults(plain_value(slot, value), found)
        one = found.get("items", found)
        if o.choices:
            assert one["enum"] == list(o.choices)
        for bound, step, name in ((o.low, -1, "inimum"), (o.high, 1, "aximum")):
            if bound is None:
                continue
            assert one["exclusiveM" + name if o.is_open else "m" + name] == bound
            outside = bound if o.is_open else bound + step
            assert _find_value_faults(outside, one)
            with pytest.raises(UsageError):
                slot.read([outside] if slot.count != 1 else outside)


def test_env_has_nothing_to_choose() -> None:
    assert list_entries(EnvOptions) == ()


# --- presets

DEMO_RECIPE = {"lr": 5e-4, "epochs": 2.0, "heal_batch_size": 32, "grad_accum": 1}


@pytest.mark.parametrize(
    ("record", "model", "source", "given", "wanted"),
    [
        (RunOptions, "demo", "demo", {}, {"ratio": 0.25, **DEMO_RECIPE, "holdout": 0.2}),
        (RunOptions, "other", "data.json", {}, {"ratio": 0.25}),
        (RunOptions, "other", "demo", {}, {"ratio": 0.25, "holdout": 0.2}),
        (RunOptions, "demo", "data.json", {}, {"ratio": 0.25, **DEMO_RECIPE}),
        (RunOptions, "demo", None, {}, {"ratio": 0.25, **DEMO_RECIPE}),
        (RunOptions, None, None, {}, {"ratio": 0.25}),
        (RunOptions, "other", None, {"ratio": 0.1}, {}),
        (RunOptions, "other", None, {"drop": 3}, {}),
        (RunOptions, "other", None, {"--drop": 3}, {}),
        (RunOptions, "other", None, {"ratio": None}, {"ratio": 0.25}),
        (RunOptions, "demo", "demo", {"paper": True}, {"ratio": 0.25, "holdout": 0.2}),
        (RunOptions, "demo", "demo", {"paper": False}, {"ratio": 0.25, **DEMO_RECIPE, "holdout": 0.2}),
        (CompareOptions, "demo", "demo", {}, {**DEMO_RECIPE, "holdout": 0.2}),
        (CompareOptions, "other", "data.json", {}, {}),
    ],
)
def test_presets(
    record: type[Options], model: str | None, source: str | None, given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert find_preset(record, model, source, given) == wanted


def test_what_is_given_goes_before_a_preset() -> None:
    given = {"lr": 1e-3, "batch_size": 4}
    made = build_options(RunOptions, find_preset(RunOptions, "demo", "demo", given), given)
    assert (made.finetune.lr, made.finetune.batch_size, made.finetune.grad_accum) == (1e-3, 4, 1)
    assert (made.prepare.holdout, made.plan.ratio) == (0.2, 0.25)
