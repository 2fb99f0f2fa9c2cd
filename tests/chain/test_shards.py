"""Models whose weights are divided between processes (--device-map fsdp): what comes of them is what one process says,
to the bit, and no process holds the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import zoo
from safetensors.torch import load_file
from shard_ranks import finish, save_zoo, start
from workspaces import refuse, succeed

from interlace_cli.io.models import import_transformers
from interlace_cli.io.row_reading import shapes_of_parts
from interlace_cli.io.shards import Shards

HUB_EXPERTS = "qwen3_moe"
"""A mixture whose files have each expert by itself, as on the Hub."""
USED = ["qwen3_vl", "qwen3_vl_moe", HUB_EXPERTS, "phi3", "glm4v", "ernie4_5_vl_moe"]
"""Towers, experts that are transposed, merged and parted as they are read, and projections that lie in one tensor."""


@pytest.mark.engines
def test_outputs_are_those_of_one_process(tmp_path: Path) -> None:
    names = save_zoo(tmp_path, USED)
    first, second = finish(start("zoo", tmp_path, *names, port=29651))
    assert first == second == dict.fromkeys(names, "same")


@pytest.mark.soak
def test_outputs_of_every_architecture_are_those_of_one_process(tmp_path: Path) -> None:
    names = save_zoo(tmp_path, [*zoo.NAMES, *zoo.TEXT_NAMES])
    first, second = finish(start("zoo", tmp_path, *names, port=29652))
    assert first == second == dict.fromkeys(names, "same")


@pytest.mark.engines
def test_processes_need_not_do_the_same(chain_model: Path, tmp_path: Path) -> None:
    """Three of them; rows that do not divide by three."""
    for found in finish(start("uneven", tmp_path, chain_model, port=29653, size=3)):
        assert set(found.values()) == {True}, found


@pytest.mark.soak
def test_each_process_holds_its_part(tmp_path: Path) -> None:
    """Looked at from outside, with a mixture whose experts transformers merges as it reads them."""
    transformers = import_transformers()
    shape = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 256, "vocab_size": 1000}
    shape |= {"num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    config = transformers.Qwen3MoeConfig(**shape, num_experts=48, num_experts_per_tok=2)
    for name, layers, experts in (("large", 6, 48), ("small", 2, 4)):
        config.num_hidden_layers, config.num_experts = layers, experts
        transformers.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / name)
    whole = sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors"))
    assert whole > 200e6
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in load_file(tmp_path / "large" / "model.safetensors")
    processes = start("hold", tmp_path, tmp_path / "large", tmp_path / "small", port=29654)
    before, after = [], []
    for held in (before, after):
        for process in processes:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            held.append(read_private(process.pid))
            process.stdin.write("\n")
            process.stdin.flush()
    finish(processes)
    for one, other in zip(before, after, strict=True):
        assert 0.45 * whole < other - one < 0.6 * whole, (whole, before, after)


def read_private(process: int) -> int:
    """Bytes of memory that are its own: what is mapped from a file can be given up any time."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


@pytest.mark.engines
def test_steps_do_what_one_process_does(chain_model: Path, pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    """Samples are dealt out, and what changes weights is done by the first, with the parts of the other."""
    cut = f"prune {chain_model} --dataset {small_dataset}"
    search = "--importance similarity,loss --loss-samples 4 --search-ratio 0.25"
    calls = {
        "analysis": f"analyze {chain_model} --dataset {small_dataset} --samples 6 --batch-size 2 {search}",
        "compensated": f"{cut} --drop-layers 3,5 --compensate linear --samples 4",
        "wanda": f"{cut} --method wanda --samples 4",
        "magnitude": f"{cut} --method magnitude",
        "eval": f"eval dense={chain_model} cut={pruned} --dataset {small_dataset} --samples 10 --batch-size 4"
        " --max-new-tokens 3 --no-speed",
    }
    common = ["--dtype", "float32", "--device", "cpu"]
    ours = []
    for name, text in calls.items():
        words = text.split()
        suffix = ".json" if name in ("analysis", "eval") else ""
        one, two = (tmp_path / kind / f"{name}{suffix}" for kind in ("one", "two"))
        succeed(*words, *common, "--out", one, "-w", tmp_path / "one")
        ours.append([*words, *common, "--out", str(two), "-w", str(tmp_path / "two"), "--device-map", "fsdp"])
    (tmp_path / "commands.json").write_text("\n".join(map(json.dumps, ours)))
    for codes in finish(start("commands", tmp_path, port=29660)):
        assert set(codes.values()) == {0}
    written = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.safetensors")}
    assert len(written) == 5
    for path in written:
        assert (tmp_path / "two" / path).read_bytes() == (tmp_path / "one" / path).read_bytes(), path
    results = [json.loads((tmp_path / kind / "eval.json").read_bytes())["results"] for kind in ("one", "two")]
    assert results[0] == results[1]


@pytest.mark.engines
def test_a_command_starts_the_processes_and_compares(chain_model: Path, tmp_path: Path) -> None:
    words = ["prune", chain_model, "--drop-layers", "3", "--verify", "-w", tmp_path / "w", "--json"]
    found = succeed(*words, "--device", "cpu", "--device-map", "fsdp", "--processes", "2")
    assert found.json["fidelity"]["difference"] == 0
    assert found.json["fidelity"]["generates_alike"]


def test_what_it_is_not_for_is_refused(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = ["analyze", chain_model, "--dataset", small_dataset, "-w", tmp_path, "--device-map", "fsdp"]
    assert "--device-map fsdp is for several processes. Add --processes N" in refuse(*words, code=2)
    assert "--max-memory belongs to a --device-map of one process" in refuse(*words, "--max-memory", "1GiB", code=2)


def test_where_a_part_does_not_fit_the_advice_is_an_option_that_is_taken() -> None:
    assert Shards("cuda").advise("cuda:0") == "Take more --processes, each with a GPU or a machine of its own."


class Divided:
    """A parameter as transformers sees one that is divided: the whole's shape, and this process's part."""

    shape = torch.Size([4, 2, 3])
    _local_tensor = torch.zeros(2, 2, 3)

    def get_parameter(self, name: str) -> Divided:
        return self


def test_transformers_still_compares_a_part_with_the_whole() -> None:
    """If it does not any more, `shapes_of_parts` can go."""
    from transformers.core_model_loading import Transpose

    stored = torch.zeros(2, 2, 3)
    asked = {"model": Divided(), "full_layer_name": "x"}
    operation = Transpose(1, 2, check_dims=True)
    (wrong,) = operation.convert({"x": stored}, ["x"], ["x"], **asked).values()
    assert wrong.shape == (2, 3, 2)
    with shapes_of_parts():
        (right,) = operation.convert({"x": stored}, ["x"], ["x"], **asked).values()
    assert right is stored
