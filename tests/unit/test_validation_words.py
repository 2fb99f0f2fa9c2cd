"""What is wrong with a field is said in words of ours, whatever the library says; and files of earlier versions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from making import make_dataset
from pydantic import Field, ValidationError, create_model

from interlace_cli import __version__
from interlace_cli.core.plan import plan
from interlace_cli.core.prepare import build_step
from interlace_cli.core.tasks import read_specs
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest, Turn
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.progress import Silent
from interlace_cli.domain.record import Artifact, Record
from interlace_cli.errors import ArtifactError, ExistsError, InterlaceError, UsageError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.config_files import parse_config
from interlace_cli.io.datasets import load_manifest
from interlace_cli.io.validation import describe_validation
from interlace_cli.options import PlanOptions, PrepareOptions

TASKS = {
    "a name that is nearly one": ("sample: 3", "task a: there is no field 'sample' (did you mean 'samples'?)."),
    "a name like no other": ("colour: 3", "task a: there is no field 'colour'."),
    "missing": ("name: a", "task a: source is missing."),
    "a word for a number": ("samples: many", "task a: samples has to be a whole number, and is 'many'."),
    "half a number": ("samples: 2.5", "task a: samples has to be a whole number, and is 2.5."),
    "a list for a number": ("samples: [3]", "task a: samples has to be a whole number, and is a list."),
    "too large a number": ("seed: 1e300", "task a: seed has to be a whole number, and is '1e300'."),
    "a number of digits": ("subset: 0x" + "f" * 9000, "and is a number of very many digits (put it in"),
    "a number for a text": ("subset: 7", "task a: subset has to be text, and is 7 (put it in quotes)."),
    "a date for a text": ("revision: 2024-01-31", "revision has to be text, and is 2024-01-31 (put it in quotes)."),
    "a truth for a text": ("metric: no", "task a: metric has to be text, and is false (put it in quotes)."),
    "a group for a text": ("category: {x: y}", "task a: category has to be text, and is a group of fields."),
    "nothing for a text": ("source: null", "task a: source has to be text, and is null."),
    "below its bound": ("samples: 0", "task a: samples is 0, and has to be at least 1."),
    "two faults": (
        "samples: 0, subset: []",
        "subset has to be text, and is a list; samples is 0, and has to be at least 1.",
    ),
}


def read_task(text: str, folder: Path) -> str:
    """What is said of a task with such fields."""
    fields = {"name": "a", "source": "x"}
    given = [f"{name}: {value}" for name, value in fields.items() if not text.startswith(f"{name}:")]
    (folder / "tasks.yaml").write_text("- {name: a}" if text == "name: a" else f"- {{{', '.join([*given, text])}}}")
    with pytest.raises(UsageError) as caught:
        read_specs(folder / "tasks.yaml")
    return str(caught.value)


@pytest.mark.parametrize("case", TASKS)
def test_a_field_of_a_task(case: str, tmp_path: Path) -> None:
    text, sentence = TASKS[case]
    said = read_task(text, tmp_path)
    assert said.startswith(f"{tmp_path / 'tasks.yaml'}, task a: ")
    assert sentence in said


@pytest.mark.parametrize("name", ["a b", "a/b", "..", ".", ".a", "", "ä:"])
def test_a_name_that_would_be_no_folder(name: str, tmp_path: Path) -> None:
    said = read_task(f"name: {json.dumps(name)}", tmp_path)
    assert f"name is {name!r}, and has to be letters, digits, '_', '-' and '.' alone, with no '.' in front." in said, (
        said
    )


@pytest.mark.parametrize("name", ["a", "a.b-c_d", "-a", "_a", "Ä1"])
def test_a_name_that_is_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(f"- {{name: {name}, source: x}}")
    assert read_specs(tmp_path / "tasks.yaml")[0].name == name


def test_a_task_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text("- 3")
    with pytest.raises(UsageError, match=r"tasks\.yaml, task 0: it has to be a group of fields, and is 3\.$"):
        read_specs(tmp_path / "tasks.yaml")


def make_plan(**changes: Any) -> dict[str, Any]:
    """As parsed JSON: of 4 layers 0 goes, 1 is tuned, 2 is its anchor."""
    note = {"index": 0, "s1": 0.5, "s2": 0.5, "s3": 0.5, "parameters": 1, "why": "redundant"}
    pick = {"rule": "triplet", "layers": [0, 1, 2], "drop": [0], "tune": [1], "anchor": [2], "score": 0.5}
    made = {"interlace": __version__, "command": "plan", "settings": {"ratio": 0.25}}
    fields = {"num_layers": 4, "roles": ["drop", "tune", "anchor", "keep"], "drop": [0], "tune": [1], "anchor": [2]}
    rest = {"strategy": "interlace", "picks": [pick], "layers": [note], "pair_bar": 0.5, "model": make_model()}
    return {"kind": Plan.KIND, "schema": 1, "created_by": made, "inputs": {"x": "y"}, **fields, **rest, **changes}


def make_model(**changes: Any) -> dict[str, Any]:
    words = dict.fromkeys(["name", "location", "fingerprint", "model_type"], "m")
    numbers = ["embedding_parameters", "head_parameters", "rest_parameters", "total_bytes", "attention_width"]
    lists = {"layer_parameters": [1] * 4, "layer_bytes": [2] * 4, "locked": [{"layers": [3], "reason": "r"}]}
    return {**words, **lists, **dict.fromkeys([*numbers, "deepstack_layers"], 0), "is_tied": False, **changes}


def make_analysis(**changes: Any) -> dict[str, Any]:
    spans = {"s1": [0.5] * 4, "s2": [0.5] * 3, "s3": [0.5] * 2}
    steps = {"path": [{"layer": 0, "loss": 1.0}], "protected": [3], "samples": 3, "answer_tokens": 9}
    loss = {"dense": 1.0, "single": [1.0, None, 1.0, 1.0], **steps, "layer_runs": 1, "naive_layer_runs": 2}
    taylor = {"taylor_weight": [1.0] * 4, "taylor_activation": [1.0] * 4, "samples": 3}
    group = {"by": "source", "name": "x", "samples": 1, "similarity": spans}
    return {
        "kind": Analysis.KIND,
        "schema": 1,
        "created_by": {"interlace": __version__, "command": "analyze", "settings": {}},
        "inputs": {},
        "model": make_model(),
        "calibration": {"samples": 3, "tokens": 30.5, "image_tokens": 0, "vision_patches": 0},
        "similarity": spans,
        "image": spans,
        "text": None,
        "loss": loss,
        "taylor": taylor,
        "groups": [group],
        **changes,
    }


def make_card(**changes: Any) -> dict[str, Any]:
    recipe = {"lr": 1e-5, "epochs": 1, "engine": "none", "packing": True}
    numbers = {"steps": 1, "samples": 1, "first_loss": 1.0, "last_loss": 0.5, "trained_parameters": 5}
    healing = {"dataset": "d", "recipe": recipe, **numbers, "curve": [[1, 0.5]], "frozen_sha256": "0"}
    layers = {"dense_index": [1, 2, 3], "dropped": [0], "tune": [0]}
    return {
        "kind": CheckpointCard.KIND,
        "schema": 1,
        "created_by": {"interlace": __version__, "command": "finetune", "settings": {}},
        "inputs": {},
        "stage": "healed",
        "base": make_model(),
        "strategy": "interlace",
        "ratio": 0.25,
        **layers,
        "healing": healing,
        "files": {"config.json": "0"},
        **changes,
    }


def make_evaluation(**changes: Any) -> dict[str, Any]:
    speed = {"ttft_ms": 1.0, "tokens_per_second": 1.0, "peak_memory_bytes": 1, "repeats": 1}
    speed |= {"prompt_tokens": 1, "new_tokens": 1}
    result = {"name": "dense", "location": "x", "fingerprint": "0", "layers": 4, "parameters": 1, "bytes": 1}
    result |= {"score": 1.0, "loss": 1.0, "kinds": {"a": 1.0}, "retention_interval": [1.0, 2.0], "speed": speed}
    row = {"name": "dense", "fingerprint": "0", "scores": {"POPE": 80.0}, "average": 80.0}
    benchmarks = {"harness": "x", "version": "1", "settings": {"a": "b"}, "categories": {"c": ["POPE"]}, "rows": [row]}
    return {
        "kind": Evaluation.KIND,
        "schema": Evaluation.SCHEMA,
        "created_by": {"interlace": __version__, "command": "eval", "settings": {}},
        "inputs": {},
        "samples": {"a": 3},
        "categories": {"c": ["a"]},
        "results": [result],
        "benchmarks": benchmarks,
        **changes,
    }


def make_manifest(**changes: Any) -> dict[str, Any]:
    splits = {name: {"samples": 1, "images": 1, "sha256": "0"} for name in ("train", "calibration", "heldout")}
    draw = {"part": "p", "available": 2, "taken": 1, "groups": 1, "files": 1, "bytes": 1}
    return {
        "kind": Manifest.KIND,
        "schema": Manifest.SCHEMA,
        "created_by": {"interlace": __version__, "command": "prepare", "settings": {}},
        "inputs": {},
        "source": "s",
        "draws": [draw],
        "splits": splits,
        "kinds": {"all": 3},
        "skipped": {"broken": 1},
        "skipped_records": [{"record": "r", "reason": "broken"}],
        **changes,
    }


def refuse(data: dict[str, Any], record: type[Artifact], folder: Path) -> str:
    """What is said of such a file, after its path."""
    path = folder / "artifact.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path, record)
    return str(caught.value).removeprefix(str(path)).lstrip(": ")


ARTIFACTS: dict[str, tuple[type[Artifact], dict[str, Any], str]] = {
    "a field of the file": (Plan, make_plan(role=[]), "there is no field 'role' (did you mean 'roles'?)."),
    "a field under its name in files": (
        Plan,
        make_plan(skema=1),
        "there is no field 'skema' (did you mean 'schema'?).",
    ),
    "a field of a field": (
        Plan,
        make_plan(model=make_model(is_tide=True)),
        "model: there is no field 'is_tide' (did you mean 'is_tied'?).",
    ),
    "a field in a list": (
        Plan,
        make_plan(layers=[{"index": 0, "s1": 1, "s2": 1, "s3": 1, "parameters": 1, "why": "", "hows": ""}]),
        "layers.0: there is no field 'hows'.",
    ),
    "a field in a table": (
        Manifest,
        make_manifest(splits={"train": {"samples": 1, "images": 1, "sha256": "", "sha265": ""}}),
        "splits.train: there is no field 'sha265' (did you mean 'sha256'?).",
    ),
    "no whole number": (Plan, make_plan(num_layers=4.5), "num_layers has to be a whole number, and is 4.5."),
    "no number": (
        Analysis,
        make_analysis(calibration={"samples": 3, "tokens": "x", "image_tokens": 0, "vision_patches": 0}),
        "calibration.tokens has to be a number, and is 'x'.",
    ),
    "a number in quotes": (Plan, make_plan(pair_bar="high"), "pair_bar has to be a number, and is 'high'."),
    "no text": (Plan, make_plan(strategy=3), "strategy has to be text, and is 3 (put it in quotes)."),
    "no list": (Plan, make_plan(roles="drop"), "roles has to be a list, and is 'drop'."),
    "no pair": (Evaluation, make_evaluation(results=3), "results has to be a list, and is 3."),
    "no table": (Plan, make_plan(inputs=[]), "inputs has to be a group of fields, and is a list."),
    "no record": (Plan, make_plan(model="demo"), "model has to be a group of fields, and is 'demo'."),
    "neither true nor false": (
        Plan,
        make_plan(model=make_model(is_tied="perhaps")),
        "model.is_tied has to be true or false, and is 'perhaps'.",
    ),
    "a bound": (Plan, make_plan(num_layers=1), "num_layers is 1, and has to be at least 2."),
    "a bound of the schema": (Plan, make_plan(schema=0), "schema is 0, and has to be at least 1."),
    "too few": (
        Plan,
        make_plan(model=make_model(layer_parameters=[1])),
        "model.layer_parameters has 1 entry, and has to have at least 2.",
    ),
    "one of some": (
        Plan,
        make_plan(roles=["gone", "tune", "anchor", "keep"]),
        "roles.0 is 'gone', and has to be one of 'drop', 'tune', 'anchor' or 'keep'.",
    ),
    "several kinds": (
        CheckpointCard,
        make_card(healing={**make_card()["healing"], "recipe": {"lr": [1]}}),
        "healing.recipe.lr has to be text or a whole number or a number or true or false, and is a list.",
    ),
    "an entry too many": (
        CheckpointCard,
        make_card(healing={**make_card()["healing"], "curve": [[1, 2.0, 3]]}),
        "healing.curve.0 has 3 entries, and has to have at most 2.",
    ),
    "an entry too few": (
        CheckpointCard,
        make_card(healing={**make_card()["healing"], "curve": [[1]]}),
        "healing.curve.0.1 is missing.",
    ),
    "what our own records say": (Plan, make_plan(num_layers=9), "roles has 4 entries for a model of 9 layers."),
    "what they say of a field": (
        Analysis,
        make_analysis(image={"s1": [0.5] * 4, "s2": [0.5, 2, 0.5], "s3": [0.5] * 2}),
        "image: s2[1] is 2.0, and a cosine lies between -1 and 1.",
    ),
    "more than three": (
        Plan,
        make_plan(strategy=[], stack=[], num_layers=[], roles=3, pair_bar=[]),
        "strategy has to be text, and is a list; stack has to be text, and is a list; num_layers has to be a whole"
        " number, and is a list; and 2 more.",
    ),
    "a long text": (
        Plan,
        make_plan(num_layers="9a" * 500),
        f"num_layers has to be a whole number, and is '{('9a' * 500)[:59]}....",
    ),
}


@pytest.mark.parametrize("case", ARTIFACTS)
def test_a_field_of_an_artifact(case: str, tmp_path: Path) -> None:
    record, data, sentence = ARTIFACTS[case]
    assert refuse(data, record, tmp_path) == f"{sentence} Correct the file or make it again."


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"from": "robot", "value": "x"}, "from is 'robot', and has to be one of 'system', 'human' or 'gpt'"),
        ({"from": "gpt"}, "value is missing"),
        ({"form": "gpt", "value": "x"}, "from is missing; there is no field 'form' (did you mean 'from'?)"),
    ],
)
def test_a_field_of_another_name_in_files(data: dict[str, Any], sentence: str) -> None:
    assert describe(Turn, data) == sentence


@pytest.mark.parametrize(
    ("bounds", "value", "sentence"),
    [
        ({"ge": 1}, 0.5, "share is 0.5, and has to be at least 1"),
        ({"gt": 0}, 0, "share is 0, and has to be more than 0"),
        ({"le": 1}, 2, "share is 2, and has to be at most 1"),
        ({"lt": 1}, 1, "share is 1, and has to be less than 1"),
        ({}, float("inf"), "share has to be a finite number, and is inf"),
    ],
)
def test_bounds(bounds: dict[str, Any], value: float, sentence: str) -> None:
    """Also those that no record of ours has yet."""
    record = create_model("Bounded", __base__=Record, share=(float, Field(**bounds)))
    assert describe(record, {"share": value}) == sentence


def describe(record: type[Record], data: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        record.model_validate(data)
    return describe_validation(caught.value, record)


MADE = {Plan: make_plan, Analysis: make_analysis, CheckpointCard: make_card}
MADE |= {Evaluation: make_evaluation, Manifest: make_manifest}
ODD: list[Any] = [None, True, -1, 10**30, 1.5, "", "x", [], {}, [None], {"a": 1}, [[1, 2, 3, 4]]]


def every_field(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, item in inner:
        yield (*path, key)
        yield from every_field(item, (*path, key))


@pytest.mark.parametrize("record", MADE)
def test_no_word_of_the_library_is_shown_whatever_stands_in_a_field(record: type[Artifact]) -> None:
    said = set()
    record.model_validate(MADE[record]())
    for path in every_field(MADE[record]()):
        for odd in ODD:
            changed = json.loads(json.dumps(MADE[record]()))
            owner = changed
            for key in path[:-1]:
                owner = owner[key]
            owner[path[-1]] = odd
            try:
                record.model_validate(changed)
            except ValidationError as error:
                said.add(describe_validation(error, record, most=99))
    assert len(said) > 100
    library = re.compile(r"(?i)\b(input|permitted|required|pars\w+|valid|value error|should|ensure|instance)\b")
    assert not [text for text in said if library.search(text)]


def from_version(data: dict[str, Any], version: Any) -> dict[str, Any]:
    return {**data, "created_by": {**data["created_by"], "interlace": version}}


OLD_NOTE = {"index": 0, "s1": 0.5, "s2": 0.5, "s3": 0.5, "damage": 0.1, "parameters": 1, "why": "redundant"}


@pytest.mark.parametrize("version", ["0.1.0", "0.1", "0.0.99", "0.1.9rc1", "0"])
def test_fields_of_an_earlier_version_are_made_again(version: str, tmp_path: Path) -> None:
    """As 0.1.0 called them."""
    said = refuse(from_version(make_plan(layers=[OLD_NOTE], pair_bar="x"), version), Plan, tmp_path)
    assert said == (
        f"was written by an earlier interlace ({version}): its fields do not fit this one ({__version__}): pair_bar"
        " has to be a number, and is 'x'; and 1 more. Make it again: `interlace plan --force`."
    )


@pytest.mark.parametrize("version", [__version__, "99.0", "main", "", 7, None, []])
def test_others_are_to_be_corrected(version: Any, tmp_path: Path) -> None:
    said = refuse(from_version(make_plan(layers=[OLD_NOTE]), version), Plan, tmp_path)
    assert said.startswith("created_by.interlace" if not isinstance(version, str) else "layers.0: there is no field")
    assert said.endswith("Correct the file or make it again.")


def test_an_earlier_file_that_fits_is_read(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(from_version(make_plan(), "0.1.0")))
    assert load_artifact(tmp_path / "plan.json", Plan).drop == [0]


def test_an_earlier_schema_is_made_again(tmp_path: Path) -> None:
    old = from_version(make_manifest(schema=1), "0.1.0")
    said = refuse(old, Manifest, tmp_path)
    assert said == (
        f"was written by an earlier interlace (0.1.0): its schema is 1, and this one ({__version__}) reads"
        f" {Manifest.SCHEMA}."
        " Make it again: `interlace prepare --force`."
    )
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(InterlaceError, match=r"manifest\.json was written by an earlier interlace \(0\.1\.0\)"):
        load_manifest(tmp_path)


def test_a_step_says_so_and_makes_it_again_when_told_to(tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    make_dataset("demo", out, max_samples=40)
    old = {**json.loads((out / "manifest.json").read_text()), "schema": 1}
    (out / "manifest.json").write_text(json.dumps(from_version(old, "0.1.0")))
    step = build_step(PrepareOptions(source="demo", out=out, max_samples=40))
    state = step.find_state()
    assert state.is_stale
    assert "manifest.json was written by an earlier interlace (0.1.0)" in state.reasons[0]
    with pytest.raises(ExistsError, match=r"by an earlier interlace .* `interlace prepare --force` replaces it"):
        step.run(Silent(), force=False)
    assert step.run(Silent(), force=True) == load_manifest(out)


@pytest.mark.parametrize("made", [[], None, {}, {"interlace": "`rm`", "command": "`rm -rf /`"}, {"command": ["x"]}])
def test_an_earlier_schema_by_nobody_we_know(made: Any, tmp_path: Path) -> None:
    said = refuse(make_manifest(schema=1, created_by=made), Manifest, tmp_path)
    assert said == (
        f"was written by an earlier interlace: its schema is 1, and this one ({__version__}) reads"
        f" {Manifest.SCHEMA}. Make it again."
    )


def test_a_command_says_so_too(tmp_path: Path) -> None:
    old = from_version(make_analysis(taylor={"sensitivity": [1.0] * 4, "samples": 3}), "0.1.0")
    (tmp_path / "analysis.json").write_text(json.dumps(old))
    with pytest.raises(ArtifactError, match=r"by an earlier interlace .* `interlace analyze --force`\.$"):
        plan(PlanOptions(workspace=tmp_path, ratio=0.25), Silent())


FILES = {
    "no date": ("tasks.yaml", "- {name: a, source: x, revision: 2024-13-01}"),
    "digits": ("tasks.yaml", "- {name: a, seed: " + "9" * 5000 + "}"),
    "deep": ("tasks.yaml", "[" * 5000),
    "a tag": ("tasks.yaml", "- {name: !!float abc}"),
    "another tag": ("tasks.yaml", "- {name: !!bool 7}"),
    "a third tag": ("tasks.yaml", "- {name: !!timestamp abc}"),
    "digits in TOML": ("tasks.toml", "seed = " + "9" * 5000),
    "deep TOML": ("tasks.toml", "x = " + "[" * 5000),
    "broken TOML": ("tasks.toml", "x = "),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read_is_one_sentence(case: str, tmp_path: Path) -> None:
    name, text = FILES[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=rf"{name} is not {'YAML' if name.endswith('yaml') else 'TOML'}: \S"):
        parse_config(tmp_path / name)
