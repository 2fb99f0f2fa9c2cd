"""Models as they were published: lists of layers left out, empty or null, older names of fields, text fields at the top
level. Each is cut, and compared with the dense model, both loaded by plain transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from making import make_cut
from published import Fields, build_flat, build_older, iter_forms
from safetensors.torch import load_file, save_file

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.architectures import NEEDS
from interlace_cli.families.model_files import open_config
from interlace_cli.families.modules import bypassed, find_layers
from interlace_cli.families.stacks import find_stack
from interlace_cli.io.models import import_transformers


def load_plainly(folder: Path) -> Any:
    transformers = import_transformers()
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def build_saved(name: str, folder: Path) -> Fields:
    """config.json as today's transformers writes it."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name not in import_transformers().CONFIG_MAPPING:
        pytest.skip("this transformers does not have it")
    config = zoo.build_llava_around(name) if name in zoo.INSIDE else zoo.build_config(name)
    config.save_pretrained(folder)
    saved: Fields = json.loads((folder / "config.json").read_text())
    return saved


def publish(form: Fields, folder: Path, inputs: dict[str, torch.Tensor]) -> bool:
    """Writes the model that plain transformers makes of `form`, with this very config.json. False if it makes none, or
    one that does not run."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(form))
    try:
        transformers = import_transformers()
        config = transformers.AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            tried = transformers.AutoModelForImageTextToText.from_config(config)
        # A form that the class does not know leaves it the sizes of the real model.
        if len(find_layers(tried)) != zoo.LAYERS:
            return False
        model = zoo.build_model(config)
        with torch.inference_mode():
            model(**inputs, use_cache=False)
    except Exception:
        return False
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(form))
    return True


def cut_and_compare(folder: Path, out: Path, inputs: dict[str, torch.Tensor], seed: str) -> Fields:
    """One cut at random; returns the config that it writes."""
    dense, rng = load_plainly(folder), random.Random(seed)
    layers = len(find_layers(dense))
    for _ in range(100):
        drop = sorted(rng.sample(range(layers), rng.randint(1, layers // 2)))
        try:
            make_cut(folder, drop, out)
            break
        except UnsupportedModelError as error:
            if "cannot be dropped exactly" not in error.what:
                # No limit that is known beforehand.
                raise
    else:
        raise AssertionError("no drop was allowed")
    with torch.inference_mode(), bypassed(dense, drop):
        wanted = dense(**inputs, use_cache=False).logits
    with torch.inference_mode():
        found = load_plainly(out)(**inputs, use_cache=False).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, msg=f"dropped {drop}")
    written: Fields = json.loads((out / "config.json").read_text())
    return written


def _text(change: Callable[[Fields], Any]) -> Callable[[Fields], Fields]:
    def apply(config: Fields) -> Fields:
        change(find_stack(config).describe_in(config))
        return config

    return apply


def _gemma3_4b(config: Fields) -> Fields:
    """Its text config has no more than this: everything else is for the class to fill in."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "sliding_window", "model_type")
    few = ("vocab_size", "head_dim", "num_attention_heads", "num_key_value_heads")
    text = {name: config["text_config"][name] for name in (*names, *few)}
    return {**build_older(config), "text_config": {**text, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}


def _nemotron(config: Fields) -> Fields:
    """A letter for each layer, no count, and a limit of infinity."""
    letters = {"linear_attention": "M", "mamba": "M", "moe": "E", "attention": "*", "full_attention": "*", "mlp": "-"}
    text = config["text_config"]
    text["hybrid_override_pattern"] = "".join(letters[kind] for kind in text.pop("layers_block_type"))
    text.pop("num_hidden_layers", None)
    text["time_step_limit"] = [0.0, float("inf")]
    return build_older(config)


def _lfm2(text: Fields) -> None:
    kinds = text.pop("layer_types")
    text["full_attn_idxs"] = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"] or [2, 5]
    text["block_ff_dim"] = text.pop("intermediate_size")


def _without(*names: str) -> Callable[[Fields], Fields]:
    return _text(lambda text: [text.pop(name, None) for name in names])


PUBLISHED: dict[str, tuple[str, Callable[[Fields], Fields]]] = {
    "gemma 3 4b": ("gemma3", _gemma3_4b),
    "glm 4.5v": ("glm4v_moe", _without("first_k_dense_replace")),
    "lfm2-vl": ("lfm2_vl", _text(_lfm2)),
    "llama 4 scout": ("llama4", _text(lambda text: (text.update(no_rope_layers=[]), text.pop("layer_types")))),
    "llama 4 maverick": (
        "llama4",
        _text(lambda text: text.update(no_rope_layers=[], moe_layers=None, interleave_moe_layer_step=2)),
    ),
    "molmo 2": ("molmo2", _without("rope_scaling_layers")),
    "nemotron": ("nemotron_h_omni", _nemotron),
    "qwen2-vl": ("qwen2_vl", lambda config: build_older(build_flat(config))),
    "qwen2.5-vl": (
        "qwen2_5_vl",
        _text(lambda text: (text.pop("layer_types"), text.update(use_sliding_window=False, sliding_window=None))),
    ),
    "qwen3.5": ("qwen3_5", _without("layer_types")),
}
"""Name -> architecture, and what makes the published config of one that is saved today."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_cut_exactly(name: str, tmp_path: Path) -> None:
    architecture, change = PUBLISHED[name]
    form = change(build_saved(architecture, tmp_path))
    inputs = zoo.build_inputs(architecture, None)
    assert publish(form, tmp_path / "dense", inputs), "plain transformers has to take it"
    written = cut_and_compare(tmp_path / "dense", tmp_path / "pruned", inputs, name)
    # What was published stays, and a few fields at the most come to it.
    known, new = find_stack(form).describe_in(form), find_stack(written).describe_in(written)
    assert list(new)[: len(known)] == list(known)
    assert len(new) <= len(known) + 3
    assert {key for key in form if key not in written} == set()


def rename_tensors(folder: Path) -> bool:
    """Gives the tensors the names of the modules, which differ from those on disk where transformers has moved modules
    about since (`model.language_model.layers` was `language_model.model.layers`). False where they do not."""
    model, file = load_plainly(folder), folder / "model.safetensors"
    stored, tied = load_file(file), set(getattr(model, "all_tied_weights_keys", {}))
    named = {name: value.clone() for name, value in model.state_dict().items() if name not in tied}
    save_file(named, file, {"format": "pt"})
    return named.keys() != stored.keys()


@pytest.mark.parametrize("name", ["gemma3", "llava", "mllama", "qwen2_vl"])
def test_weights_under_the_names_of_other_versions_are_cut_exactly(name: str, tmp_path: Path) -> None:
    saved, inputs = build_saved(name, tmp_path), zoo.build_inputs("llava", None)
    assert publish(saved, tmp_path / "dense", inputs)
    assert rename_tensors(tmp_path / "dense")
    cut_and_compare(tmp_path / "dense", tmp_path / "pruned", inputs, name)
    kept = find_layer_names(tmp_path / "dense") & find_layer_names(tmp_path / "pruned")
    assert kept == find_layer_names(tmp_path / "dense"), "the names stay those of the dense model"


def find_layer_names(folder: Path) -> set[str]:
    return {name.partition(".layers.")[0] for name in load_file(folder / "model.safetensors") if ".layers." in name}


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava", "mllama"])
def test_a_tower_whose_config_leaves_out_where_features_come_from_is_cut_by_the_defaults(
    name: str, tmp_path: Path
) -> None:
    fields = (
        "fullatt_block_indexes",
        "deepstack_visual_indexes",
        "vision_feature_layer",
        "intermediate_layers_indices",
    )
    config = build_saved(name, tmp_path)
    for owner in (config, config["vision_config"]):
        for field in fields:
            owner.pop(field, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    resolved = import_transformers().AutoConfig.from_pretrained(tmp_path).to_dict()
    opened = open_config(tmp_path, "vision").config
    for was, now in ((resolved, opened), (resolved["vision_config"], opened["vision_config"])):
        assert {field: now.get(field) for field in fields} == {field: was.get(field) for field in fields}


@pytest.mark.zoo
@pytest.mark.parametrize("name", [*zoo.NAMES, *zoo.INSIDE])
def test_every_form_of_an_architecture_is_cut_exactly(name: str, tmp_path: Path) -> None:
    saved = build_saved(name, tmp_path)
    inputs = zoo.build_inputs(
        "llava" if name in zoo.INSIDE else name, import_transformers().AutoConfig.from_pretrained(tmp_path)
    )
    count = 0
    for number, (label, form) in enumerate(iter_forms(saved)):
        folder = tmp_path / str(number)
        if label.startswith("null") or not publish(form, folder, inputs):
            continue
        cut_and_compare(folder, tmp_path / f"{number}-pruned", inputs, f"{name} {label}")
        count += 1
        if label == "older" and rename_tensors(folder):
            cut_and_compare(folder, tmp_path / f"{number}-renamed", inputs, f"{name} renamed")
    assert count, "not one form could be loaded"
