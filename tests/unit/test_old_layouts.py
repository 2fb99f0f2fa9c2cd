"""Layouts of custom code and of older releases, cut by their files alone: every tensor by its name and value, every
count of the config; what no rule reads is refused, with the field's name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from old_layouts import LAYERS, LAYOUTS, TOWER, Config, Layout
from safetensors.torch import load_file
from text_models import write_conversations
from workspaces import Called, call, refuse, succeed

from interlace_cli.families.edit import edit_config
from interlace_cli.families.general import check_general_rules, iter_unread
from interlace_cli.families.stacks import find_stack, vision_path
from interlace_cli.families.tensors import find_fitting_prefixes
from interlace_cli.io.files import parse_json
from interlace_cli.io.models import import_transformers

DROP = [1, 3]
KEPT = [layer for layer in range(LAYERS) if layer not in DROP]


def read_config(folder: Path) -> Config:
    found: Config = parse_json((folder / "config.json").read_bytes())
    return found


def change_at(config: Config, path: str, value: Any) -> Any:
    """Sets the field, and returns what it was."""
    *outer, last = path.split(".")
    for key in outer:
        config = config[key]
    before, config[last] = config.get(last), value
    return before


def prune(folder: Path, out: Path, *more: object) -> Called:
    return call("prune", folder, "--drop-layers", ",".join(map(str, DROP)), "--out", out, *more)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layers_go_by_their_names_and_counts_wherever_they_stand(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    dense = layout.save(tmp_path / "dense")
    done = prune(tmp_path / "dense", tmp_path / "pruned")
    assert done.code == 0, done.err
    kind = layout.config["model_type"]
    assert f"transformers does not know {kind} models of this layout" in done.said
    wanted = {}
    for tensor, value in dense.items():
        found = re.fullmatch(rf"{re.escape(layout.layers)}\.(\d+)\.(.+)", tensor)
        if found is None:
            wanted[tensor] = value
        elif int(found[1]) in KEPT:
            wanted[f"{layout.layers}.{KEPT.index(int(found[1]))}.{found[2]}"] = value
    pruned = load_file(tmp_path / "pruned/model.safetensors")
    assert pruned.keys() == wanted.keys()
    assert all(torch.equal(pruned[tensor], wanted[tensor]) for tensor in wanted)
    config = read_config(tmp_path / "dense")
    for path in layout.count_paths:
        assert change_at(config, path, len(KEPT)) == LAYERS
    owner = config.get("llm_config", config)
    if "max_window_layers" in owner:
        # Of the first five layers three stay.
        owner["max_window_layers"] = 3
    assert read_config(tmp_path / "pruned") == config


@pytest.mark.parametrize(("width", "is_read"), [(4, True), (4, False)], ids=["read", "unreadable"])
def test_kinds_of_layers_that_the_language_model_inside_leaves_out(width: int, is_read: bool, tmp_path: Path) -> None:
    """Ovis 1.6: every second layer of Gemma 2 has a window, by its number alone."""

    def change(config: Config) -> None:
        config["llm_config"] = {
            "model_type": "gemma2",
            "num_hidden_layers": LAYERS,
            "hidden_size": width,
            "head_dim": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2 if is_read else "two",
            "vocab_size": 4,
        }

    LAYOUTS["ovis"].save(tmp_path / "dense", change)
    done = prune(tmp_path / "dense", tmp_path / "pruned")
    assert done.code == 0, done.err
    inner = read_config(tmp_path / "pruned")["llm_config"]
    if is_read:
        # Of 0 to 5, where every even one slides, 0, 2, 4 and 5 stay.
        assert inner["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
        assert "compared as those of transformers' gemma2" in done.said
        assert "now has layer_types" in done.said
    else:
        assert "layer_types" not in inner
        assert "compared as those" not in done.said


def test_custom_code_may_name_no_type(tmp_path: Path) -> None:
    """CogVLM 2. Its class stands for it, and config.json gets no type that it did not have."""
    dense = tmp_path / "dense"
    LAYOUTS["minicpmv"].save(dense, lambda config: void(config.pop("model_type")))
    done = prune(dense, tmp_path / "pruned")
    assert done.code == 0, done.err
    assert "transformers does not know MiniCPMV models of this layout" in done.said
    assert "model_type" not in read_config(tmp_path / "pruned")
    sentence = "does not know models written for MiniCPMV, and code from a checkpoint is never run"
    assert sentence in refuse("prune", dense, "--drop-layers", "1", "--verify", "--out", tmp_path / "out")


def test_code_that_names_a_layer_is_told_of(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    LAYOUTS["minicpmv"].save(dense)
    (dense / "modeling.py").write_text("WIDE = ['llm.model.layers.4.mlp']\nx = layers[3].mlp\n")
    (dense / "configuration.py").write_text("layers = 4.5\n")
    done = prune(dense, tmp_path / "pruned")
    assert "modeling.py names a layer by its old number (layers.4)" in done.said
    assert "configuration.py names" not in done.said
    assert (tmp_path / "pruned/modeling.py").read_bytes() == (dense / "modeling.py").read_bytes()


def test_counts_and_lists_inside_follow(tmp_path: Path) -> None:
    def change(config: Config) -> None:
        config["language_config"] |= {"first_k_dense_replace": 2, "rope_kinds": list("abcdef")}

    LAYOUTS["deepseek_vl_v2"].save(tmp_path / "dense", change)
    assert prune(tmp_path / "dense", tmp_path / "pruned").code == 0
    inner = read_config(tmp_path / "pruned")["language_config"]
    assert (inner["first_k_dense_replace"], inner["rope_kinds"]) == (1, ["a", "c", "e", "f"])


UNREAD: list[tuple[str, str, Any]] = [
    ("deepseek_vl_v2", "language_config.moe_layer_freq", 2),
    ("deepseek_vl_v2", "language_config.attention_interval", 3),
    ("deepseek_vl_v2", "language_config.dense_layers", 2),
    ("internvl_chat", "llm_config.global_layers", [0, 3]),
    ("internvl_chat", "llm_config.full_attention_idx", [0, 5]),
    ("internvl_chat", "llm_config.hybrid_pattern", "aab"),
    ("internvl_chat", "llm_config.layer_overrides", {"2": {"head_dim": 2}}),
    ("internvl_chat", "llm_config.some_layers", list(range(LAYERS))),
    ("internvl_chat", "layer_kinds", ["a"] * LAYERS),
    ("internvl_chat", "draft_config", {"num_hidden_layers": LAYERS}),
    ("minicpmv", "sizes", [[1, 2]] * LAYERS),
    ("llava_qwen", "injected_layer", 3),
]


@pytest.mark.parametrize(("name", "path", "value"), UNREAD, ids=[path for _, path, _ in UNREAD])
def test_a_field_that_no_rule_reads_is_refused_by_name(name: str, path: str, value: Any, tmp_path: Path) -> None:
    LAYOUTS[name].save(tmp_path / "dense", lambda config: void(change_at(config, path, value)))
    said = refuse("prune", tmp_path / "dense", "--drop-layers", "1,3", "--out", tmp_path / "pruned")
    assert path.split(".")[-1] in said
    assert "no rule" in said or "none of them says" in said
    assert not (tmp_path / "pruned").exists()


def void(value: Any) -> None:
    del value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("llm_config.moe_layer_freq", 1),
        ("llm_config.layer_norm_type", 2),
        ("llm_config.num_nextn_predict_layers", 1),
        ("llm_config.time_step_rank", 4),
        ("llm_config.hidden_size_per_layer_input", 4),
        ("llm_config.exit_layer", -1),
        ("llm_config.bad_token_ids", [1, 2]),
        ("vision_config.feature_layers", [1, 2]),
        ("template", "internvl2_5"),
    ],
)
def test_what_says_nothing_of_layers_is_no_reason(path: str, value: Any) -> None:
    config = parse_json(to_text(LAYOUTS["internvl_chat"]))
    change_at(config, path, value)
    check_general_rules(config, find_stack(config), KEPT, LAYERS)


def to_text(layout: Layout) -> bytes:
    return json.dumps(layout.config).encode()


@pytest.mark.parametrize(
    ("select", "drop", "is_right"),
    [(-1, [0], True), (-1, [TOWER - 1], False), (-2, [0], True), (-2, [2], False), (2, [0], False)],
)
def test_features_of_an_old_tower_are_counted_from_the_end_or_the_cut_is_refused(
    select: int, drop: list[int], is_right: bool, tmp_path: Path
) -> None:
    LAYOUTS["internvl_chat"].save(tmp_path / "dense", lambda config: config.update(select_layer=select))
    words = ["prune", tmp_path / "dense", "--stack", "vision", "--drop-layers", ",".join(map(str, drop))]
    done = call(*words, "--out", tmp_path / "pruned")
    assert (done.code == 0) == is_right, done.err
    if not is_right:
        assert "select_layer" in done.sentence
        return
    config = read_config(tmp_path / "pruned")
    assert config["vision_config"]["num_hidden_layers"] == TOWER - 1
    assert config["llm_config"] == LAYOUTS["internvl_chat"].config["llm_config"]
    assert config["select_layer"] == select


def test_which_of_two_equal_lists_is_meant() -> None:
    stack = find_stack({"model_type": "new", "num_hidden_layers": 2})

    def find(*prefixes: str) -> list[str]:
        return find_fitting_prefixes([f"{prefix}.{n}.weight" for prefix in prefixes for n in range(2)], stack, 2)

    assert find("vpm.layers", "llm.layers") == ["llm.layers"]
    assert find("sensor.layers", "language_model.layers") == ["language_model.layers"]
    assert find("first.layers", "second.layers") == ["first.layers", "second.layers"]


def test_two_lists_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    config = {**LAYOUTS["llava_qwen"].config, "model_type": "new_llava"}
    Layout(config, "first.layers", "vision.layers", (), beside={"second.layers": LAYERS}).save(tmp_path / "dense")
    said = refuse("prune", tmp_path / "dense", "--drop-layers", "1", "--out", tmp_path / "pruned")
    assert "first.layers and second.layers both have 6 numbered layers" in said


def test_what_needs_the_model_says_so_and_the_rest_works_without(tmp_path: Path) -> None:
    model, space = tmp_path / "model", tmp_path / "w"
    LAYOUTS["minicpmv"].save(model)
    sentence = "does not know minicpmv models written for MiniCPMV, and code from a checkpoint is never run"
    assert sentence in refuse("prune", model, "--drop-layers", "1", "--verify", "--out", space / "pruned")
    assert not (space / "pruned").exists()
    data = write_conversations(tmp_path)
    assert sentence in refuse("run", model, "--data", data, "-w", space, "--ratio", "0.34")
    assert not (space / "dataset").exists()
    succeed("prepare", data, "-w", space, "--portion", "1", "--calibration", "0.3")
    assert sentence in refuse("analyze", model, "-w", space)
    plan = succeed("plan", "--model", model, "--strategy", "random", "--drop", "2", "-w", space, "--json").json
    card = succeed("prune", model, "-w", space, "--json").json["checkpoint"]
    assert card["dropped"] == plan["drop"]
    assert read_config(space / "pruned")["num_hidden_layers"] == LAYERS - 2


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_a_whole_omni_is_cut_in_its_thinker(name: str) -> None:
    """The talker hears a hidden state of the thinker, which has another number afterwards."""
    config = json.loads(import_transformers().AutoConfig.for_model(name).to_json_string(use_diff=False))
    stack = find_stack(config)
    assert (stack.path, vision_path(config)) == (("thinker_config", "text_config"), ("thinker_config", "vision_config"))
    layers = stack.num_layers
    assert layers is not None
    kept = [layer for layer in range(layers) if layer not in (5, 9, layers - 2)]
    edited = edit_config(config, stack, kept, layers)
    assert edited["thinker_config"]["text_config"]["num_hidden_layers"] == layers - 3
    assert {key for key in config if edited[key] != config[key]} <= {"thinker_config", "talker_config"}
    if name == "qwen3_omni_moe":
        heard = config["talker_config"]["accept_hidden_layer"]
        assert edited["talker_config"]["accept_hidden_layer"] == heard - sum(layer < heard for layer in (5, 9))
        talked = {**edited["talker_config"], "accept_hidden_layer": heard}
        assert talked == config["talker_config"]
        assert find_stack(config, "vision").path == ("thinker_config", "vision_config")
    assert not list(iter_unread(config, stack, kept, layers))
