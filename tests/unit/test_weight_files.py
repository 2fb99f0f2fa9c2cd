"""Which files hold a model's weights: those that plain transformers loads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_cut
from safetensors.torch import load_file, save_file
from tiny import TINY

from interlace_cli.errors import CheckpointError
from interlace_cli.io.checkpoints import open_checkpoint, read_config
from interlace_cli.io.models import import_transformers
from interlace_cli.io.weights import choose_weights

NORM = "model.language_model.norm.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, in which the last norm is a mark of its own."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    TINY["qwen3_vl"].save(folder)
    mark(folder / "model.safetensors", 0.25)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def mark(file: Path, value: float) -> None:
    tensors = load_file(file)
    save_file({**tensors, NORM: torch.full_like(tensors[NORM], value)}, file, {"format": "pt"})


def add_shards(model: Path, value: float, index: str = "model.safetensors.index.json", folder: str = "") -> None:
    """The same tensors once more, in two files and with another mark."""
    tensors = load_file(model / "model.safetensors")
    tensors[NORM] = torch.full_like(tensors[NORM], value)
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        shard = f"{folder}model-{number:05d}-of-00002.safetensors"
        (model / shard).parent.mkdir(exist_ok=True)
        save_file({name: tensors[name] for name in part}, model / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (model / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def read_mark(folder: Path) -> float:
    """As plain transformers loads it."""
    loaded = import_transformers().AutoModelForImageTextToText.from_pretrained(folder)
    return float(loaded.state_dict()[NORM][0])


def name_weights(model: Path, name: str) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))


def both(model: Path) -> None:
    add_shards(model, 0.5)


def broken_index(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text("{")


def shards(model: Path) -> None:
    add_shards(model, 0.5)
    (model / "model.safetensors").unlink()


def shards_in_a_folder(model: Path) -> None:
    add_shards(model, 0.5, folder="parts/")
    (model / "model.safetensors").unlink()


def a_named_file(model: Path) -> None:
    shutil.copy(model / "model.safetensors", model / "best.safetensors")
    mark(model / "best.safetensors", 0.75)
    name_weights(model, "best.safetensors")


def a_named_index(model: Path) -> None:
    add_shards(model, 0.5, "best.safetensors.index.json")
    name_weights(model, "best.safetensors.index.json")


def a_pickle_beside(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"older")
    (model / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (
            both,
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (broken_index, ["model.safetensors.index.json"]),
        (shards, []),
        (shards_in_a_folder, []),
        (a_named_file, ["model.safetensors"]),
        (a_named_index, ["model.safetensors"]),
        (a_pickle_beside, []),
    ],
)
def test_the_weights_that_are_cut_are_those_that_transformers_loads(change: Any, left: list[str], model: Path) -> None:
    change(model)
    wanted = read_mark(model)
    card = make_cut(model, [3, 6], model.parent / "cut")
    assert read_mark(model.parent / "cut") == wanted
    remarks = open_checkpoint(model).remarks
    assert len(remarks) == bool(left)
    assert all(name in remarks[0] for name in left)
    assert set(left) <= set(card.left)
    found = {path.name for path in (model.parent / "cut").iterdir()}
    assert not {"pytorch_model.bin.index.json", "best.safetensors", "best.safetensors.index.json"} & found
    assert "transformers_weights" not in json.loads((model.parent / "cut/config.json").read_text())


@pytest.mark.parametrize("change", [both, shards_in_a_folder, a_named_file, a_named_index])
def test_a_baseline_without_a_cut_has_the_same_weights(change: Any, model: Path, tmp_path: Path) -> None:
    """`--method`, `finetune` and `export` copy the config as it is."""
    from interlace_cli.io.surgery import copy_config, replace_tensors, select_tensors, write_tensors

    change(model)
    opened = open_checkpoint(model)
    names = {name: name for name in opened.tensors}
    for made in ("replaced", "written"):
        (tmp_path / made).mkdir()
        copy_config(model, tmp_path / made)
        if made == "replaced":
            replace_tensors(opened, tmp_path / made, {}, share=False)
        else:
            write_tensors(opened, tmp_path / made, select_tensors(opened, names))
        assert read_mark(tmp_path / made) == read_mark(model)


@pytest.mark.parametrize("place", ["below", "cluster", "hub"])
def test_weights_may_be_links(place: str, model: Path, tmp_path: Path) -> None:
    """Into a folder below; to another disk; into the Hub's cache, from a folder of one's own."""
    store = {"below": model / "store", "cluster": tmp_path / "shared", "hub": tmp_path / "hub/models--a--b/blobs"}[
        place
    ]
    store.mkdir(parents=True)
    (model / "model.safetensors").rename(store / "0123")
    os.symlink(os.path.relpath(store / "0123", model), model / "model.safetensors")
    if place == "hub":
        (model / "tokenizer_config.json").write_text("{}")
        (model / "tokenizer_config.json").rename(store / "4567")
        os.symlink(store / "4567", model / "tokenizer_config.json")
    make_cut(model, [3, 6], tmp_path / "cut")
    assert read_mark(tmp_path / "cut") == 0.25
    assert not any(path.is_symlink() for path in (tmp_path / "cut").iterdir())
    assert bool(open_checkpoint(model).remarks) is (place == "cluster")


@pytest.mark.parametrize(
    ("present", "sentence"),
    [
        (["pytorch_model.bin", "training_args.bin"], "weights in pytorch_model.bin, .* save_pretrained it elsewhere"),
        (["pytorch_model-00001-of-00002.bin"], "weights in pytorch_model-00001-of-00002.bin"),
        (["original/consolidated.00.pth"], "weights in original/consolidated.00.pth"),
        (["model-Q4_K_M.gguf"], "weights in model-Q4_K_M.gguf.* convert it to GGUF after the cut"),
        (["tf_model.h5"], "weights in tf_model.h5.* PyTorch's form"),
        (["flax_model.msgpack"], "PyTorch's form"),
        (["model.fp16.safetensors"], "only as a variant.* Rename it to model.safetensors"),
        (["model_index.json", "unet/config.json"], "a pipeline of several models"),
        (["consolidated.safetensors", "params.json"], "It has consolidated.safetensors, which transformers does not"),
        (["training_args.bin", "optimizer.pt"], "has no model.safetensors and no model.safetensors.index.json. Give"),
        ([], "has no model.safetensors and no model.safetensors.index.json"),
    ],
)
def test_a_folder_without_weights_that_can_be_cut(present: list[str], sentence: str) -> None:
    top = [name for name in present if "/" not in name]
    with pytest.raises(CheckpointError, match=sentence):
        choose_weights("here", top, present, {}, json.loads)


def test_an_adapter_is_to_be_merged_first(model: Path) -> None:
    (model / "adapter_config.json").write_text("{}")
    for read in (open_checkpoint, lambda folder: read_config(str(folder))):
        with pytest.raises(CheckpointError, match=r"adapter.* Merge it first \(peft's merge.*take the adapter"):
            read(model)
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match="Merge it first"):
        open_checkpoint(model)
