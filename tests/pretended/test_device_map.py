"""--device-map on pretended GPUs: a model larger than one of them is measured, cut and asked as on one device."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend import Pretend
from pretend_numbers import Numbered
from safetensors.numpy import load_file
from tiny import IMAGE, TINY
from workspaces import Called, call

from interlace_cli.data.batches import to_model
from interlace_cli.families.modules import bypassed, find_layers
from interlace_cli.importance.similarity import SpanHook
from interlace_cli.io.models import load_model
from interlace_cli.io.placement import Placement
from interlace_cli.runtime.dispatch import find_offloaded

WAYS: dict[str, dict[str, Any]] = {
    "two": {"gpus": 2, "used": 2},
    "four": {"gpus": 4, "used": 3},
    "offloaded": {"gpus": 2, "used": 2, "sizes": "0.8MB,0.5MB"},
}
"""How the model is spread. Of four GPUs the tower, which is one block, leaves one empty; where sizes are given some
layers stay on the host."""
LONG = pytest.param("offloaded", marks=pytest.mark.long)
IMPORTANCE = {"two": "similarity,loss,taylor", "four": "similarity", "offloaded": "similarity,loss"}


def spread(way: str, *words: object) -> tuple[Called, Pretend]:
    """A command on several GPUs; float32, so that kernels are those of one CPU."""
    asked = WAYS[way]
    limits = ["--max-memory", asked["sizes"]] if "sizes" in asked else []
    with Pretend(asked["gpus"]) as gpu, Numbered():
        found = call(*words, "--dtype", "float32", "--device-map", "auto", *limits)
    return found, gpu


def read_arrays(folder: Path) -> dict[str, Any]:
    return load_file(folder / "analysis.safetensors")


def expect_spread(gpu: Pretend, way: str, model: Path) -> None:
    """Several GPUs held a part of the model."""
    size = (model / "model.safetensors").stat().st_size
    assert sum(peak > size / 10 for peak in gpu.peak) >= WAYS[way]["used"]
    if way == "offloaded":
        assert gpu.moved["to device"] > 2 * size, "weights come again for each forward"


@pytest.fixture(scope="module")
def plain(chain_model: Path, small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one device makes of it: analysis and a compensated checkpoint."""
    folder = tmp_path_factory.mktemp("plain")
    for words in (analyze(chain_model, small_dataset, folder), compensate(chain_model, small_dataset, folder)):
        assert call(*words, "--dtype", "float32", "--device", "cpu").code == 0
    return folder


def analyze(model: Path, dataset: Path, folder: Path, importance: str = "similarity,loss,taylor") -> list[object]:
    words = ["analyze", model, "--dataset", dataset, "-w", folder, "--samples", 6, "--batch-size", 3]
    return [*words, "--importance", importance, "--loss-samples", 4, "--search-ratio", 0.25]


def compensate(model: Path, dataset: Path, folder: Path) -> list[object]:
    words = ["prune", model, "--drop-layers", "5", "--dataset", dataset, "-w", folder, "--samples", 4]
    return [*words, "--batch-size", 2, "--compensate", "linear"]


@pytest.mark.parametrize("way", ["two", pytest.param("four", marks=pytest.mark.long), LONG])
def test_scores_are_those_of_one_device(
    way: str, chain_model: Path, small_dataset: Path, plain: Path, tmp_path: Path
) -> None:
    found, gpu = spread(way, *analyze(chain_model, small_dataset, tmp_path, IMPORTANCE[way]))
    assert found.code == 0, found.err
    expect_spread(gpu, way, chain_model)
    wanted, made = read_arrays(plain), read_arrays(tmp_path)
    for name, values in made.items():
        assert np.array_equal(values, wanted[name], equal_nan=True), name
    one, other = (json.loads((folder / "analysis.json").read_text()) for folder in (plain, tmp_path))
    measured = [name for name in IMPORTANCE[way].split(",") if name != "similarity"]
    assert {f"{name}_tokens" for name in measured} <= set(made)
    assert [one[name] for name in measured] == [other[name] for name in measured]


@pytest.mark.parametrize("way", [pytest.param("two", marks=pytest.mark.long), "offloaded"])
def test_a_compensated_checkpoint_is_that_of_one_device(
    way: str, chain_model: Path, small_dataset: Path, plain: Path, tmp_path: Path
) -> None:
    found, gpu = spread(way, *compensate(chain_model, small_dataset, tmp_path))
    assert found.code == 0, found.err
    expect_spread(gpu, way, chain_model)
    one, other = ((folder / "pruned/model.safetensors").read_bytes() for folder in (plain, tmp_path))
    assert hashlib.sha256(one).hexdigest() == hashlib.sha256(other).hexdigest()


@pytest.mark.parametrize("way", ["two", LONG])
def test_a_cut_is_verified_and_asked_as_on_one_device(
    way: str, chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "pruned"
    verified, gpu = spread(way, "prune", chain_model, "--drop-layers", "5", "-w", tmp_path, "--verify", "--json")
    assert verified.code == 0, verified.err
    expect_spread(gpu, way, chain_model)
    assert verified.json["fidelity"]["difference"] == 0
    assert verified.json["fidelity"]["device"] == "cuda"
    words = ["eval", chain_model, cut, "--dataset", small_dataset, "--samples", 4, "--max-new-tokens", 3, "--json"]
    words += ["-w", tmp_path, "--allow-overlap", "--no-speed"]
    plain = call(*words, "--dtype", "float32", "--device", "cpu", "--out", tmp_path / "plain.json")
    found, gpu = spread(way, *words)
    assert found.code == 0, found.err
    expect_spread(gpu, way, chain_model)
    assert found.json["device"] == "2 × Pretended GPU"
    for one, other in zip(plain.json["results"], found.json["results"], strict=True):
        assert one == other


@pytest.mark.parametrize(
    "name", [name if name == "qwen3_vl" else pytest.param(name, marks=pytest.mark.long) for name in TINY]
)
def test_each_family_computes_the_same_on_several_devices(name: str, tmp_path: Path) -> None:
    """Outputs, outputs with layers bypassed (the last is on another device than the first), similarities, angles."""
    TINY[name].save(tmp_path)
    inputs = TINY[name].build_inputs()
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])

    def run(model: Any) -> list[torch.Tensor]:
        there = to_model(inputs, model)
        with torch.inference_mode():
            found = [model(**there, use_cache=False).logits]
            with bypassed(model, [3, 7]):
                found.append(model(**there, use_cache=False).logits)
        with SpanHook(find_layers(model)) as hook:
            found += [hook.run(model, there, there["input_ids"] == IMAGE), hook.angles]
        return [value.cpu() for value in found]

    plain = load_model(tmp_path, "float32", "cpu")
    wanted, size = run(plain), sum(parameter.nbytes for parameter in plain.parameters())
    for sizes in ((), (f"{size * 45 // 100000}KB", f"{size * 30 // 100000}KB")):
        with Pretend(2), Numbered():
            model = load_model(tmp_path, "float32", Placement("auto", "auto", sizes, tmp_path))
            assert {0, 1} <= set(model.hf_device_map.values())
            assert find_offloaded(model) == (["CPU"] if sizes else [])
            found = run(model)
        assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


def test_gradients_of_offloaded_weights_are_refused(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    found, _ = spread("offloaded", *analyze(chain_model, small_dataset, tmp_path, "similarity,taylor"))
    assert found.code == 1
    assert "weights are offloaded to the CPU" in found.sentence
