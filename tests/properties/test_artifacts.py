"""Artifacts come back from disk as they were, in canonical bytes, and refuse by name what cannot be true."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.record import Artifact
from interlace_cli.domain.scores import Scores
from interlace_cli.errors import ArtifactError
from interlace_cli.io.artifacts import build_origin, load_artifact, save_artifact, to_json
from interlace_cli.options import PlanOptions
from interlace_cli.strategies.decide import ModelConstraints, decide_plan

finite = st.floats(allow_nan=False, allow_infinity=False)
cosines = st.floats(-1.001, 1.001)
counts = st.integers(0, 2**63 - 1)
names = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)


def headers(cls: type[Artifact]) -> dict[str, st.SearchStrategy[Any]]:
    created_by = {"interlace": names, "command": names, "settings": st.dictionaries(names, values, max_size=4)}
    return {
        "kind": st.just(cls.KIND),
        "schema": st.just(cls.SCHEMA),
        "created_by": st.fixed_dictionaries(created_by),
        "inputs": st.dictionaries(names, names, max_size=3),
    }


def models(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    per_layer = st.lists(counts, min_size=layers, max_size=layers)
    words = dict.fromkeys(["name", "location", "fingerprint", "model_type"], names)
    numbers = ["embedding_parameters", "head_parameters", "rest_parameters", "total_bytes", "attention_width"]
    return st.fixed_dictionaries(
        {
            **words,
            **dict.fromkeys([*numbers, "deepstack_layers"], counts),
            **dict.fromkeys(["layer_parameters", "layer_bytes"], per_layer),
            "is_tied": st.booleans(),
        }
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A plan of any roles, as an editor may leave it; its picks and notes say anything."""
    layers = draw(st.integers(2, 24))
    roles = draw(st.lists(st.sampled_from(["drop", "tune", "anchor", "keep"]), min_size=layers, max_size=layers))
    roles[draw(st.integers(0, layers - 1))] = "drop"
    roles[roles.index("drop") - 1] = "keep"
    members = st.lists(st.integers(0, layers - 1), max_size=3)
    listed = {"layers": members, "drop": members, "tune": members, "anchor": members}
    pick = st.fixed_dictionaries({"rule": names, "score": st.none() | finite, **listed})
    scores = dict.fromkeys(["s1", "s2", "s3"], st.none() | finite)
    note = st.fixed_dictionaries({"index": counts, "parameters": st.none() | counts, "why": names, **scores})
    saved = dict.fromkeys(["parameters", "parameters_left", "bytes", "bytes_left"], st.none() | counts)
    left = {"layers": st.just(layers), "layers_left": st.just(layers - roles.count("drop"))}
    fields = {
        **headers(Plan),
        "strategy": names,
        "protect": members,
        "picks": st.lists(pick, max_size=3),
        "layers": st.lists(note, max_size=3),
        "summary": st.none() | st.fixed_dictionaries({**left, **saved, "prefill_speedup": st.none() | finite}),
        "model": st.none() | models(layers),
    }
    return Plan.model_validate({"num_layers": layers, "roles": roles, **draw(st.fixed_dictionaries(fields))})


@st.composite
def analyses(draw: st.DrawFn) -> Analysis:
    layers = draw(st.integers(2, 16))
    lists = {f"s{p}": st.lists(cosines, min_size=layers + 1 - p, max_size=layers + 1 - p) for p in (1, 2, 3)}
    spans = st.fixed_dictionaries(lists)
    amounts = st.floats(1, 1e9)
    calibration = {"samples": st.integers(1, 10**9), "tokens": amounts, "image_tokens": amounts}
    fields = {
        **headers(Analysis),
        "model": models(layers),
        "calibration": st.fixed_dictionaries({**calibration, "vision_patches": amounts}),
        "similarity": spans,
        "image": st.none() | spans,
        "text": st.none() | spans,
    }
    return Analysis.model_validate(draw(st.fixed_dictionaries(fields)))


@settings(max_examples=150, deadline=None)
@given(st.one_of(plans(), analyses()))
def test_what_is_written_is_what_is_read(artifact: Plan | Analysis) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new/artifact.json"
        save_artifact(artifact, path)
        again = load_artifact(path, type(artifact))
        assert again == artifact
        assert to_json(again) == path.read_bytes()
        assert list(path.parent.iterdir()) == [path], "a temporary file stays"


@settings(max_examples=100, deadline=None)
@given(st.one_of(plans(), analyses()))
def test_the_bytes_are_sorted_indented_and_end_in_a_newline(artifact: Plan | Analysis) -> None:
    def read_sorted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert [name for name, _ in pairs] == sorted(name for name, _ in pairs)
        return dict(pairs)

    text = to_json(artifact).decode()
    data = json.loads(text, object_pairs_hook=read_sorted)
    indents = {len(line) - len(line.lstrip(" ")) for line in text.split("\n")}
    assert indents == set(range(0, max(indents) + 1, 2)), "two spaces a level"
    assert '\n  "kind": ' in text
    assert text.endswith("\n}\n")
    backwards = dict(reversed(data.items()))
    assert to_json(type(artifact).model_validate(backwards)).decode() == text


FALLING = [0.9 - layer / 100 for layer in range(8)]
DERIVED = ["drop", "tune", "anchor", "picks", "layers", "summary"]


def make_plan() -> dict[str, Any]:
    """A plan as parsed JSON: of 8 layers 0 and 3 go, 1 and 4 are tuned, 2 and 5 are anchors."""
    scores, origin = Scores(8, FALLING, FALLING[:7], FALLING[:6]), build_origin("plan", {})
    made = decide_plan(scores, PlanOptions(drop=2), ModelConstraints(), None, origin, {})
    return dict(json.loads(to_json(made)))


@pytest.fixture
def plan() -> dict[str, Any]:
    return make_plan()


@pytest.fixture
def analysis() -> dict[str, Any]:
    """An analysis of a model of four layers as parsed JSON."""
    words = dict.fromkeys(["name", "location", "fingerprint", "model_type"], "m")
    numbers = ["embedding_parameters", "head_parameters", "rest_parameters", "total_bytes", "attention_width"]
    lists = {"layer_parameters": [1] * 4, "layer_bytes": [2] * 4}
    return {
        "kind": Analysis.KIND,
        "schema": 1,
        "created_by": {"interlace": "0", "command": "analyze", "settings": {}},
        "inputs": {},
        "model": {**words, **lists, **dict.fromkeys([*numbers, "deepstack_layers"], 0), "is_tied": False},
        "calibration": {"samples": 3, "tokens": 30.5, "image_tokens": 0, "vision_patches": 0},
        **{name: {"s1": [0.5] * 4, "s2": [0.5] * 3, "s3": [0.5] * 2} for name in ("similarity", "image", "text")},
    }


def read(data: Any, cls: type[Any] = Plan) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return load_artifact(path, cls)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "interlace.analysis"}, "is of kind 'interlace.analysis' where 'interlace.plan' is needed"),
        ({"schema": 2}, "has schema 2, and this interlace .* reads up to 1"),
        ({"schema": 0}, "schema is 0, and has to be at least 1"),
        ({"surprise": 1}, "there is no field 'surprise'"),
        ({"strategy": 3}, "strategy has to be text, and is 3"),
        ({"inputs": []}, "inputs has to be a group of fields, and is a list"),
        ({"num_layers": 7.5}, "num_layers has to be a whole number, and is 7.5"),
        ({"num_layers": 1}, "num_layers is 1, and has to be at least 2"),
        ({"num_layers": 9}, "roles has 8 entries for a model of 9 layers"),
        ({"roles": ["drop"] * 3}, "roles has 3 entries for a model of 8 layers"),
        ({"roles": ["gone"] * 8}, r"roles\.0 is 'gone', and has to be one of 'drop', 'tune', 'anchor' or 'keep'"),
        ({"roles": ["keep"] * 8}, "drop and roles differ at layer 0"),
        ({"drop": [0, 4]}, r"drop and roles differ at layer 3; roles gives drop as \[0, 3\]"),
        ({"drop": [0, 3, 7]}, "drop and roles differ at layer 7"),
        ({"drop": [3, 0]}, "drop and roles are not in ascending order"),
        ({"tune": []}, "tune and roles differ at layer 1"),
        ({"anchor": [2, 5, 6]}, "anchor and roles differ at layer 6"),
        ({"roles": ["keep"] * 8, "drop": [], "tune": [], "anchor": []}, "roles drops no layer"),
        ({"roles": ["drop"] * 8, "drop": [*range(8)], "tune": [], "anchor": []}, "roles drops every layer"),
        ({"summary": {"layers": 8, "layers_left": 7}}, "summary.layers_left is 7 but roles leaves 6 layers"),
        ({"created_by": {"interlace": "1", "settings": {}}}, r"created_by\.command is missing"),
    ],
)
def test_a_plan_refuses_what_it_cannot_be(change: dict[str, Any], sentence: str, plan: dict[str, Any]) -> None:
    read(plan)
    with pytest.raises(ArtifactError, match=sentence):
        read({**plan, **change})


def test_a_plan_refuses_a_model_of_another_size(plan: dict[str, Any], analysis: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="num_layers is 8 but the model has 4"):
        read({**plan, "model": analysis["model"]})


@pytest.mark.parametrize("field", ["schema", "created_by", "inputs", "strategy", "num_layers", "roles"])
def test_a_missing_field_is_named(field: str, plan: dict[str, Any]) -> None:
    plan.pop(field)
    with pytest.raises(ArtifactError, match=f"{field} is missing"):
        read(plan)


@pytest.mark.parametrize("text", ["", "{", "NaN", "[]", "null", '{"a": 1}'])
def test_what_is_no_artifact_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"is not JSON|is not an artifact of interlace"):
        read(text)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*/none\.json: No such file"):
        load_artifact(tmp_path / "none.json", Plan)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(word: str, plan: dict[str, Any]) -> None:
    plan["picks"][0]["score"] = "THE SCORE"
    with pytest.raises(ArtifactError, match=r"is not JSON|finite"):
        read(json.dumps(plan).replace('"THE SCORE"', word))


@pytest.mark.parametrize("name", ["similarity", "image", "text"])
@pytest.mark.parametrize("value", [1.5, -1.002, "high", None])
def test_a_similarity_is_a_cosine(name: str, value: Any, analysis: dict[str, Any]) -> None:
    read(analysis, Analysis)
    analysis[name]["s2"][1] = value
    with pytest.raises(ArtifactError, match=rf"{name}(\.s2\.1 has to be a number|: s2\[1\] is {value}, and a cosine)"):
        read(analysis, Analysis)


@pytest.mark.parametrize("name", ["similarity", "image", "text"])
@pytest.mark.parametrize(("spans", "length"), [("s1", 3), ("s2", 4), ("s3", 0)])
def test_the_number_of_spans_follows_from_the_layers(
    name: str, spans: str, length: int, analysis: dict[str, Any]
) -> None:
    analysis[name][spans] = [0.5] * length
    with pytest.raises(ArtifactError, match=rf"{name} has .* spans where a model of 4 layers has \[4, 3, 2\]"):
        read(analysis, Analysis)


def without(plan: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {name: value for name, value in plan.items() if name not in fields}


def test_a_plan_as_it_was_made_is_not_edited(plan: dict[str, Any]) -> None:
    assert not read(plan).is_edited
    assert not read(without(plan, "drop", "tune", "anchor", "layers", "summary")).is_edited
    assert read(without(plan, "picks")).is_edited, "without its picks nobody can tell"


@given(roles=st.lists(st.sampled_from(["drop", "tune", "anchor", "keep"]), min_size=6, max_size=6))
def test_an_edited_plan_needs_only_its_roles(roles: list[str]) -> None:
    plan = make_plan()
    plan["roles"] = ["drop", "keep", *roles]
    edited = read(without(plan, *DERIVED))
    assert edited.is_edited
    for role in ("drop", "tune", "anchor"):
        assert getattr(edited, role) == [layer for layer, said in enumerate(plan["roles"]) if said == role]
    assert edited.kept == [layer for layer in range(8) if layer not in edited.drop]
    assert [edited.kept[position] for position in edited.tune_positions] == edited.tune


@pytest.mark.parametrize("layer", range(8))
def test_one_changed_role_makes_a_plan_edited(layer: int, plan: dict[str, Any]) -> None:
    plan["roles"][layer] = "tune" if plan["roles"][layer] == "keep" else "keep"
    assert read(without(plan, "drop", "tune", "anchor", "summary")).is_edited
