"""What config.json leaves to its class is asked of transformers, here or in a process of its own; JSON is read as
transformers reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from making import make_cut

from interlace_cli.demo import CHECKPOINT
from interlace_cli.errors import CheckpointError, UnsupportedModelError
from interlace_cli.families.conformance import find_unlike
from interlace_cli.families.edit import depends_on_layers, edit_config
from interlace_cli.families.model_files import open_config
from interlace_cli.families.resolve import (
    DEEPSTACK_BESIDE,
    UNIFORM,
    UNIFORM_UNLESS_SLIDING,
    merge_resolved,
    needs_resolution,
    take_out_filled,
)
from interlace_cli.families.stacks import find_stack
from interlace_cli.io.checkpoints import fingerprint, open_checkpoint
from interlace_cli.io.model_json import parse_model_json, to_canonical_json, to_model_json
from interlace_cli.io.models import import_transformers, resolve_config


def build_default(kind: str, **fields: Any) -> dict[str, Any]:
    described: dict[str, Any] = type(import_transformers().AutoConfig.for_model(kind))(**fields).to_dict()
    return described


@pytest.mark.parametrize("kind", UNIFORM.split())
def test_a_type_that_is_not_asked_for_has_layers_of_one_kind(kind: str) -> None:
    if kind not in import_transformers().CONFIG_MAPPING:
        pytest.skip("this transformers does not have it")
    fields = build_default(kind)
    layers = find_stack(fields).num_layers
    assert layers
    assert [name for name, value in fields.items() if depends_on_layers(name, value, layers)] == []


@pytest.mark.parametrize("kind", UNIFORM_UNLESS_SLIDING.split())
def test_a_type_that_is_asked_for_if_it_slides_has_layers_of_one_kind_else(kind: str) -> None:
    for layers in (40, 7):
        fields = build_default(kind, num_hidden_layers=layers)
        described = fields.get("text_config", fields)
        assert described["layer_types"] == ["full_attention"] * layers
        dependent = {name for name, value in described.items() if depends_on_layers(name, value, layers)}
        assert dependent == {"layer_types", "max_window_layers"}


@pytest.mark.parametrize("kind", DEEPSTACK_BESIDE.split())
def test_where_features_enter_is_asked_for_unless_the_config_says_it(kind: str) -> None:
    text = {"model_type": kind, "num_hidden_layers": 8}
    config = {"model_type": "qwen3_vl", "text_config": text, "vision_config": {"depth": 4}}
    assert needs_resolution(config, find_stack(config))
    config["vision_config"]["deepstack_visual_indexes"] = [1]
    assert not needs_resolution(config, find_stack(config))


def merge(config: dict[str, Any], resolved: dict[str, Any]) -> dict[str, Any]:
    return merge_resolved(config, resolved, "language")


def test_each_field_is_filled_by_itself_and_what_is_said_stays() -> None:
    inner = {"num_hidden_layers": 4, "layer_types": ["a", "b", "a", "a"], "no_rope_layers": [], "moe_layers": None}
    full = {**inner, "layer_types": ["?"] * 4, "no_rope_layers": [1, 1, 1, 0], "moe_layers": [1, 3], "other": 1}
    full |= {"first_k_dense_replace": 2, "cross_attention_layers": [], "hidden_size": 4}
    merged = merge({"text_config": inner}, {"text_config": full})
    filled = {"no_rope_layers": [1, 1, 1, 0], "moe_layers": [1, 3], "first_k_dense_replace": 2}
    assert merged == {"text_config": {**inner, **filled}}


def test_fields_at_the_top_level_are_filled_there() -> None:
    flat = {"num_hidden_layers": 3, "vision_config": {"depth": 2}}
    resolved = {"text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "a"]}, "vision_config": {"depth": 2}}
    assert merge(flat, resolved) == {**flat, "layer_types": ["a", "b", "a"]}


def test_a_language_model_that_is_left_out_whole_is_filled_in_its_own_object() -> None:
    resolved = {"text_config": {"model_type": "x", "num_hidden_layers": 3, "hidden_size": 9}}
    filled = merge({"model_type": "y"}, resolved)
    assert filled == {"model_type": "y", "text_config": {"model_type": "x", "num_hidden_layers": 3}}


@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([None, [], 1, "x"])),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([[7, 8], 2])),
)
def test_what_was_filled_can_be_taken_out_again(original: dict[str, Any], filled: dict[str, Any]) -> None:
    said = {name: value for name, value in original.items() if value not in (None, [])}
    merged = {**original, **{name: value for name, value in filled.items() if name not in said}}
    assert take_out_filled(merged, original, merged) == original
    assert take_out_filled({"t": merged, "n": 2}, {"t": original, "n": 1}, {"t": merged, "n": 1}) == {
        "t": original,
        "n": 2,
    }


@pytest.mark.parametrize("name", ["llama4", "molmo2", "glm4v_moe", "mllama", "gemma3n", "qwen3_vl_moe", "smollm3"])
def test_a_config_in_which_only_the_count_changes_is_found_out(name: str, tmp_path: Path) -> None:
    """Lists that say each layer's kind are left out, so that the class makes them anew from its rule."""
    built = zoo.build_llava_around(name) if name in zoo.INSIDE else zoo.build_config(name)
    built.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for field in ("layer_types", "no_rope_layers", "mlp_layer_types", "cross_attention_layers"):
        config["text_config"].pop(field, None)
    config["text_config"] |= {"mlp_only_layers": [2, 5]} if name == "qwen3_vl_moe" else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    kept = [1, 2, 4, 5, 6, 7]
    naive = {**config, "text_config": {**config["text_config"], "num_hidden_layers": 6}}
    (found,) = find_unlike(str(tmp_path), [naive], "language", kept, 8)
    assert found is not None
    merged = merge(config, resolve_config(str(tmp_path)) or {})
    right = edit_config(merged, find_stack(merged), kept, 8)
    assert find_unlike(str(tmp_path), [right], "language", kept, 8) == [None], found


def test_a_wrong_config_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace_cli.families.edit.COUNTS_FROM_THE_START", ())
    config = zoo.build_config("glm4v_moe")
    zoo.build_model(config).save_pretrained(tmp_path / "model")
    with pytest.raises(
        UnsupportedModelError, match=r"mlp\.class of layer 2 is 'Glm4vMoeTextMoE', and would become 'Glm4"
    ):
        make_cut(tmp_path / "model", [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_transformers_does_not_know_is_not_asked_for(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"model_type": "my_vl", "text_config": {**config["text_config"], "model_type": "my_text"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    card = make_cut(tmp_path / "model", [3], tmp_path / "out")
    assert any("compared with nothing" in note for note in card.notes)


def test_a_process_of_its_own_gives_the_same_answers(tmp_path: Path) -> None:
    zoo.build_config("gemma3").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"].pop("layer_types")
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = (
        "import json, sys; from interlace_cli.families.model_files import open_config\n"
        "from interlace_cli.errors import InterlaceError\n"
        "found = open_config(sys.argv[1]).config\n"
        "assert 'transformers' not in sys.modules\n"
        "try: open_config(sys.argv[2])\n"
        "except InterlaceError as error: print(json.dumps([found, type(error).__name__, str(error)]))\n"
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    text = {**config["text_config"], "num_hidden_layers": 8, "layer_types": ["no such kind"] * 8}
    (broken / "config.json").write_text(json.dumps({**config, "text_config": text}))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(broken)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(CheckpointError) as caught:
        open_config(broken)
    assert json.loads(done.stdout) == [open_config(tmp_path).config, "CheckpointError", str(caught.value)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_json_is_written_so_that_python_reads_the_same_again(value: Any) -> None:
    written = to_model_json(value)
    assert repr(json.loads(written)) == repr(value) == repr(parse_model_json(written))
    assert to_canonical_json(value) == to_canonical_json(parse_model_json(written))


def test_numbers_that_strict_json_has_not_stay_and_are_told_apart(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    path, prints = tmp_path / "model" / "config.json", set()
    config = json.loads(path.read_text())
    for limit in (float("inf"), float("-inf"), None):
        path.write_text(json.dumps({**config, "limits": [0.0, limit], "big": 10**30}))
        prints.add(fingerprint(open_checkpoint(tmp_path / "model")))
        make_cut(tmp_path / "model", [3], tmp_path / "out", force=True)
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        assert written["limits"] == [0.0, limit]
        assert written["big"] == 10**30
    assert len(prints) == 3


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": 1', "\ufeff{}"])
def test_what_is_no_json_is_refused_with_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_config(tmp_path)
