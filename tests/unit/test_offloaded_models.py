"""Where weights go (--device-map): the limits, the options, and models whose weights come from the disk when they are
used, beside the same models in memory."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workspaces import refuse, succeed
from zoo import build_config, build_model

from interlace_cli.errors import UsageError
from interlace_cli.families.modules import find_layers
from interlace_cli.io.models import load_model
from interlace_cli.io.placement import SHARE, Placement, limit_memory
from interlace_cli.options import AnalyzeOptions, EvaluateOptions, PruneOptions
from interlace_cli.options.shared import parse_memory
from interlace_cli.runtime.dispatch import find_devices, find_input_device, find_offloaded, loaded

ON_DISK = ("--device", "cpu", "--device-map", "auto", "--max-memory", "cpu:0.1MB")
"""Less than the model's largest block, so that nearly all of it is on the disk."""


# --- what is said


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], {}),
        (["20GiB", "0.5TiB"], {0: 20 << 30, 1: 1 << 39}),
        (["1:20GB", "cpu:60MiB"], {1: 20 * 10**9, "cpu": 60 << 20}),
        (["0", "3kib", "CPU:0"], {0: 0, 1: 3072, "cpu": 0}),
    ],
)
def test_sizes_are_read(texts: list[str], wanted: dict[Any, int]) -> None:
    assert parse_memory(texts) == wanted


@pytest.mark.parametrize("texts", [["20"], ["x"], ["1.GiB"], ["disk:3GiB"], ["1GiB", "0:2GiB"], ["-1GiB"], ["٣GiB"]])
def test_other_sizes_are_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--max-memory"):
        parse_memory(texts)


SIZES = st.integers(0, 1 << 40)


@given(st.lists(SIZES, max_size=9), SIZES, st.dictionaries(st.one_of(st.integers(0, 12), st.just("cpu")), SIZES))
def test_limits_are_what_is_given_and_never_more_than_is_free(
    free: list[int], host: int, asked: dict[int | str, int]
) -> None:
    gpus = {key for key in asked if key != "cpu"}
    if gpus - set(range(len(free))):
        with pytest.raises(UsageError, match="GPU"):
            limit_memory(dict(enumerate(free)), host, asked)
        return
    wanted = {gpu: min(asked[gpu], free[gpu]) for gpu in gpus}
    if not gpus:
        wanted = {gpu: int(SHARE * size) for gpu, size in enumerate(free)}
    found = limit_memory(dict(enumerate(free)), host, asked)
    assert found.pop("cpu") == asked.get("cpu", int(SHARE * host))
    assert found == {gpu: size for gpu, size in wanted.items() if size}
    assert all(size <= free[int(gpu)] for gpu, size in found.items())
    assert list(found) == sorted(found), "the first GPU is the one that offloaded weights come to"


@pytest.mark.parametrize("record", [AnalyzeOptions, PruneOptions, EvaluateOptions])
def test_options_that_contradict_each_other_are_refused(record: Any) -> None:
    for given_options, words in (
        ({"max_memory": ("1GiB",)}, "--max-memory belongs to --device-map"),
        ({"offload_folder": Path("x")}, "--offload-folder belongs to --device-map"),
        ({"device_map": "auto", "device": "cuda:1"}, "takes all GPUs, and --device cuda:1 is one"),
        ({"device_map": "auto", "max_memory": ("much",)}, "does not take 'much'"),
    ):
        with pytest.raises(UsageError, match=words):
            record(**given_options)


def test_a_gpu_that_is_not_there_is_refused(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = ["analyze", chain_model, "--dataset", small_dataset, "-w", tmp_path, "--device", "cpu"]
    sentence = refuse(*words, "--device-map", "auto", "--max-memory", "1GiB", code=2)
    assert "--max-memory names GPU 0, and there is no GPU here" in sentence


# --- what comes of it


@pytest.fixture
def model(chain_model: Path, tmp_path: Path) -> Any:
    return load_model(chain_model, "float32", Placement("cpu", "auto", ("cpu:0.1MB",), tmp_path))


def test_weights_of_the_disk_come_for_their_forward(model: Any, chain_model: Path) -> None:
    plain = load_model(chain_model, "float32", "cpu")
    assert {parameter.device.type for parameter in find_layers(model).parameters()} == {"meta"}
    assert (find_input_device(model).type, find_offloaded(model)) == ("cpu", ["disk"])
    assert [device.type for device in find_devices(model)] == ["cpu"]
    ids = torch.arange(3, 13)[None]
    for _ in range(2):
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    asked = {"input_ids": ids, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**asked), plain.generate(**asked))


def test_changed_weights_stay_changed(model: Any, chain_model: Path) -> None:
    plain = load_model(chain_model, "float32", "cpu")
    ids = torch.arange(3, 13)[None]
    before = model(input_ids=ids).logits
    for one in (model, plain):
        layer = find_layers(one)[3]
        with torch.no_grad(), loaded(layer, is_changed=True):
            layer.mlp.down_proj.weight.mul_(-2)
    assert {parameter.device.type for parameter in find_layers(model)[3].parameters()} == {"meta"}
    after = model(input_ids=ids).logits
    assert not torch.allclose(before, after)
    assert torch.equal(after, plain(input_ids=ids).logits)
    with loaded(find_layers(model)[3]):
        assert torch.equal(find_layers(model)[3].mlp.down_proj.weight, find_layers(plain)[3].mlp.down_proj.weight)


LINEAR, WANDA = (pytest.param(how, marks=pytest.mark.long) for how in ("linear", "wanda"))


@pytest.mark.parametrize("how", ["analyze", LINEAR, WANDA, "magnitude", "verify"])
def test_a_model_on_the_disk_gives_the_same_bytes(
    how: str, chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    calls: dict[str, list[object]] = {
        "analyze": ["analyze", chain_model, "--samples", 4, "--importance", "similarity,loss", "--loss-samples", 2],
        "linear": ["prune", chain_model, "--drop-layers", "2,5", "--compensate", "linear", "--samples", 4],
        "wanda": ["prune", chain_model, "--method", "wanda", "--samples", 4],
        "magnitude": ["prune", chain_model, "--method", "magnitude"],
        "verify": ["prune", chain_model, "--drop-layers", "2,5", "--verify"],
    }
    made = []
    for where in ((), ON_DISK):
        folder = tmp_path / f"w{len(where)}"
        found = succeed(
            *calls[how], "--dataset", small_dataset, "-w", folder, *(where or ("--device", "cpu")), "--json"
        )
        if how == "verify":
            assert found.json["fidelity"]["difference"] == 0
        files = sorted(folder.rglob("*.safetensors"))
        made.append([(file.relative_to(folder), file.read_bytes()) for file in files])
        assert not list(folder.glob(".*"))
    assert made[0]
    assert made[0] == made[1]


def test_what_had_to_be_written_to_the_disk_goes_with_the_model(tmp_path: Path) -> None:
    """Experts lie one by one in the file, and are one tensor in the model: those are written again."""
    folder, files = tmp_path / "workspace", tmp_path / "model"
    build_model(build_config("qwen3_vl_moe")).save_pretrained(files)
    plain = load_model(files, "float32", "cpu")
    model = load_model(files, "float32", Placement("cpu", "auto", ("cpu:0",), folder))
    ids = torch.arange(10, 20)[None]
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert list(folder.glob(".offloaded.*/*.safetensors"))
    del model
    gc.collect()
    assert not list(folder.glob(".offloaded.*"))
