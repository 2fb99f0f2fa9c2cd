"""Checkpoints that were saved from a wrapper, or in part: transformers would not find their tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from making import make_cut
from outcome import refuse
from safetensors.torch import load_file, save_file
from tiny import TINY

from interlace_cli.errors import CheckpointError
from interlace_cli.families.architectures import ARCHITECTURES, NEEDS
from interlace_cli.families.model_files import open_model
from interlace_cli.families.saved_names import find_common, is_suspicious
from interlace_cli.families.stacks import find_stack
from interlace_cli.io.checkpoints import open_checkpoint
from interlace_cli.io.expected_tensors import compare_with_class
from interlace_cli.io.models import import_transformers


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    TINY["qwen3_vl"].save(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(model: Path, how: Any) -> None:
    """Every name and tensor by `how`, which returns None for one that goes."""
    tensors = load_file(model / "model.safetensors")
    changed = (how(name, tensor) for name, tensor in tensors.items())
    save_file(dict(pair for pair in changed if pair is not None), model / "model.safetensors", {"format": "pt"})


NAMES = {
    "module.{}": "begin with `module.` .* accelerator.unwrap_model",
    "base_model.model.{}": r"begin with `base_model.model.` .*merge_and_unload\(\)",
    "_orig_mod.{}": "begin with `_orig_mod.` .*unwrap_model",
    "model._fsdp_wrapped_module.{}": "unwrap_model",
    "policy.{}": "begin with `policy.` .* Save the whole model again",
    "policy.net.{}": "begin with `policy.net.` .* Save the whole model again",
}


@pytest.mark.parametrize("form", NAMES)
def test_a_beginning_that_a_tool_has_put_in_front(form: str, model: Path) -> None:
    change(model, lambda name, tensor: (form.format(name), tensor))
    with pytest.raises(CheckpointError, match=NAMES[form]) as caught:
        make_cut(model, [3, 6], model.parent / "cut")
    assert "etch" not in str(caught.value)
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_names_that_transformers_itself_understands_are_cut(model: Path) -> None:
    """The names without `model.`, and doubled, are those that it looks for, too."""
    change(model, lambda name, tensor: (f"model.{name}", tensor))
    assert is_suspicious(open_checkpoint(model).tensors, *describe(model))
    load = import_transformers().AutoModelForImageTextToText.from_pretrained
    assert not load(model, output_loading_info=True)[1]["missing_keys"]
    make_cut(model, [3, 6], model.parent / "cut")
    assert not load(model.parent / "cut", output_loading_info=True)[1]["missing_keys"]


def describe(model: Path) -> tuple[Any, Any]:
    config = json.loads((model / "config.json").read_text())
    return config, find_stack(config)


@pytest.mark.parametrize("where", [".layers.7.", "", "visual"])
def test_empty_tensors_are_those_that_nobody_gathered(where: str, model: Path) -> None:
    """Of one layer, of all, of the vision tower."""
    change(model, lambda name, tensor: (name, torch.zeros(0, dtype=tensor.dtype) if where in name else tensor))
    found = refuse("prune", model, "--drop-layers", "3,6", "--out", model.parent / "out", names="are empty")
    assert "zero_to_fp32.py" in found.sentence
    assert not (model.parent / "out").exists()


def test_a_part_that_was_not_saved(model: Path) -> None:
    change(model, lambda name, tensor: None if "visual" in name else (name, tensor))
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the \d+ tensors that .* looks for, model.visual"):
        open_model(model)


def test_weights_of_another_vocabulary_than_the_config(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    rows = config["text_config"]["vocab_size"]
    config["text_config"]["vocab_size"] = rows + 3
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"has the shape \[{rows}, \d+\], .* would have \[{rows + 3}, "):
        open_model(model)


def test_what_an_adapter_wraps(model: Path) -> None:
    """Saved with the adapter in it, and no `adapter_config.json`."""
    change(model, lambda name, tensor: (name.replace("q_proj.weight", "q_proj.base_layer.weight"), tensor))
    with pytest.raises(CheckpointError, match=r"lacks 8 .*q_proj\.weight .*base_layer\.weight.*merge_and_unload"):
        open_model(model)


@given(st.lists(st.lists(st.sampled_from(["model", "layers", "mod", "0", "a"]), min_size=1, max_size=5), max_size=6))
def test_the_common_beginning_is_made_of_whole_parts(names: list[list[str]]) -> None:
    found = find_common(".".join(parts) for parts in names)
    inner = [parts[:-1] for parts in names]
    wanted = 0
    while inner and all(len(parts) > wanted and parts[wanted] == inner[0][wanted] for parts in inner):
        wanted += 1
    assert found == "".join(f"{part}." for part in (inner[0][:wanted] if inner else []))


@pytest.mark.zoo
@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(NEEDS)))
def test_every_architecture_is_found_whole(name: str, tmp_path: Path) -> None:
    """By the comparison; and few are out of the ordinary, so that few wait for it."""
    if name not in import_transformers().CONFIG_MAPPING:
        pytest.skip("this transformers does not have it")
    zoo.build_model(zoo.build_config(name)).save_pretrained(tmp_path)
    found = compare_with_class(tmp_path)
    assert found is not None
    assert (found.missing, found.unexpected, found.mismatched) == ([], [], [])
    is_asked = is_suspicious(open_checkpoint(tmp_path).tensors, *describe(tmp_path))
    assert is_asked is (name in ("mllama", "pix2struct"))
