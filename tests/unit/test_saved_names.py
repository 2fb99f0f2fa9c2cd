"""Checkpoints that were saved from a wrapper, or in part: transformers would not find their tensors."""

from __future__ import annotations

import json
import re
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

from interlace_cli.errors import CheckpointError, UnsupportedModelError
from interlace_cli.families.architectures import ARCHITECTURES, LANGUAGE_MODELS, NEEDS
from interlace_cli.families.cut import check_whole, cut_config
from interlace_cli.families.model_files import open_model
from interlace_cli.io.checkpoints import open_checkpoint
from interlace_cli.io.expected_tensors import compare_with_class
from interlace_cli.io.models import import_transformers, load_model
from interlace_cli.io.saved_names import find_common


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
    load = import_transformers().AutoModelForImageTextToText.from_pretrained
    assert not load(model, output_loading_info=True)[1]["missing_keys"]
    make_cut(model, [3, 6], model.parent / "cut")
    assert not load(model.parent / "cut", output_loading_info=True)[1]["missing_keys"]


@pytest.mark.parametrize("where", [".layers.7.", "", "visual"])
def test_empty_tensors_are_those_that_nobody_gathered(where: str, model: Path) -> None:
    """Of one layer, of all, of the vision tower."""
    change(model, lambda name, tensor: (name, torch.zeros(0, dtype=tensor.dtype) if where in name else tensor))
    found = refuse("prune", model, "--drop-layers", "3,6", "--out", model.parent / "out", names="are empty")
    assert "zero_to_fp32.py" in found.sentence
    assert not (model.parent / "out").exists()


def refuse_cut(model: Path, match: str) -> None:
    """By `prune`, before anything has its name, and by whatever loads the model."""
    with pytest.raises(CheckpointError, match=match):
        make_cut(model, [3, 6], model.parent / "cut")
    assert [path.name for path in model.parent.iterdir()] == ["model"]
    with pytest.raises(CheckpointError, match=match):
        load_model(model)


def test_a_part_that_was_not_saved(model: Path) -> None:
    change(model, lambda name, tensor: None if "visual" in name else (name, tensor))
    refuse_cut(model, r"lacks \d+ of the \d+ tensors that .* looks for, model.visual")


def test_one_tensor_that_was_not_saved(model: Path) -> None:
    change(model, lambda name, tensor: None if name.endswith("layers.5.mlp.up_proj.weight") else (name, tensor))
    refuse_cut(model, r"lacks 1 of the \d+ .*layers\.5\.mlp\.up_proj\.weight for one\. Its files have to be whole")


def test_a_tensor_of_another_shape(model: Path) -> None:
    change(model, lambda name, tensor: (name, tensor[:-1].clone() if "layers.5.mlp.up_proj" in name else tensor))
    refuse_cut(model, r"layers\.5\.mlp\.up_proj\.weight has the shape \[\d+, \d+\], and by config.json it would have")


def test_weights_of_another_vocabulary_than_the_config(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    rows = config["text_config"]["vocab_size"]
    config["text_config"]["vocab_size"] = rows + 3
    (model / "config.json").write_text(json.dumps(config))
    refuse_cut(model, rf"has the shape \[{rows}, \d+\], .* would have \[{rows + 3}, ")


def test_what_an_adapter_wraps(model: Path) -> None:
    """Saved with the adapter in it, and no `adapter_config.json`."""
    change(model, lambda name, tensor: (name.replace("q_proj.weight", "q_proj.base_layer.weight"), tensor))
    refuse_cut(model, r"lacks 8 .*q_proj\.weight .*base_layer\.weight.*merge_and_unload")


def test_a_cut_that_would_lose_a_tensor_is_no_fault_of_the_files(model: Path) -> None:
    opened = open_model(model)
    config, _ = cut_config(opened, [3, 6])
    config["text_config"]["intermediate_size"] += 8
    with pytest.raises(UnsupportedModelError, match=r"the pruned checkpoint: tensor .* has the shape"):
        check_whole(opened, config, [3, 6])


def test_an_expert_that_was_not_saved(tmp_path: Path) -> None:
    """transformers joins them, and says no more than that it could not."""
    model = tmp_path / "model"
    zoo.build_model(zoo.build_config("mixtral")).save_pretrained(model)
    lost = "layers.5.block_sparse_moe.experts.2.w3.weight"
    change(model, lambda name, tensor: None if name.endswith(lost) else (name, tensor))
    refuse_cut(model, rf"lacks 1 of the \d+ .*{re.escape(lost)} for one")


def compare_model(folder: Path) -> Any:
    stored = open_checkpoint(folder).tensors.values()
    return compare_with_class(folder, {tensor.name: (tensor.dtype, tensor.shape) for tensor in stored})


@pytest.mark.parametrize(
    ("named", "head", "is_whole"),
    [
        ("Qwen3ForCausalLM", "lm_head", True),
        ("Qwen3Model", None, True),
        ("Qwen3ForSequenceClassification", "score", True),
        ("Qwen3ForRewards", "reward_head", True),
        ("Qwen3ForCausalLM", None, False),
        (None, None, False),
    ],
)
def test_the_head_is_that_of_the_class_that_the_config_names(
    named: str | None, head: str | None, is_whole: bool, tmp_path: Path
) -> None:
    """Models for embeddings and rewards have none for words."""
    folder = tmp_path / "model"
    zoo.build_model(zoo.build_config("qwen3")).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    rows = 2 if head in ("score", "reward_head") else config["vocab_size"]
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [named] if named else None}))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    if head is not None:
        tensors[f"{head}.weight"] = torch.zeros(rows, config["hidden_size"])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert compare_model(folder).is_whole == is_whole


def quantize(name: str, tensor: torch.Tensor, lacks: str) -> dict[str, torch.Tensor]:
    if not name.endswith("_proj.weight") or "layers" not in name:
        return {} if name.endswith(lacks) else {name: tensor}
    module = name.removesuffix(".weight")
    packed = {f"{module}.qweight": torch.zeros(2, tensor.shape[0], dtype=torch.int32), f"{module}.scales": tensor[:1]}
    return {} if module.endswith(lacks) else packed


@pytest.mark.parametrize("lacks", ["nothing", "layers.3.input_layernorm.weight", "layers.3.mlp.up_proj"])
def test_modules_of_a_quantizer_have_names_of_their_own(lacks: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    zoo.build_model(zoo.build_config("qwen3")).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    changed: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        changed |= quantize(name, tensor, lacks)
    save_file({name: tensor.clone() for name, tensor in changed.items()}, folder / "model.safetensors")
    found = compare_model(folder)
    assert found.missing == ([] if lacks == "nothing" else [f"model.{lacks.removesuffix('.weight')}.weight"])
    assert not found.mismatched


@given(st.lists(st.lists(st.sampled_from(["model", "layers", "mod", "0", "a"]), min_size=1, max_size=5), max_size=6))
def test_the_common_beginning_is_made_of_whole_parts(names: list[list[str]]) -> None:
    found = find_common(".".join(parts) for parts in names)
    inner = [parts[:-1] for parts in names]
    wanted = 0
    while inner and all(len(parts) > wanted and parts[wanted] == inner[0][wanted] for parts in inner):
        wanted += 1
    assert found == "".join(f"{part}." for part in (inner[0][:wanted] if inner else []))


@pytest.mark.zoo
@pytest.mark.parametrize("name", sorted((set(ARCHITECTURES) | set(LANGUAGE_MODELS)) - set(NEEDS)))
def test_every_architecture_is_found_whole(name: str, tmp_path: Path) -> None:
    """No false alarm, and a tensor that is taken away is missed."""
    if name not in import_transformers().CONFIG_MAPPING:
        pytest.skip("this transformers does not have it")
    zoo.build_model(zoo.build_config(name)).save_pretrained(tmp_path)
    found = compare_model(tmp_path)
    assert found is not None
    assert (found.missing, found.unexpected, found.mismatched) == ([], [], [])
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(next(name for name in sorted(tensors) if re.search(r"\.0\..*weight$", name)))
    save_file(tensors, tmp_path / "model.safetensors")
    assert not compare_model(tmp_path).is_whole
