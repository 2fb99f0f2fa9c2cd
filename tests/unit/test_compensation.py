"""Compensation: the least-squares map is that of numpy, it goes into the right weight, and only where it serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from safetensors.torch import load_file
from tiny import TINY
from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.data.batches import Batcher
from interlace_cli.data.labels import keep_label_positions, sum_losses
from interlace_cli.data.prefetch import iter_calibration
from interlace_cli.demo import CHECKPOINT
from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.modules import bypassed, find_layers
from interlace_cli.families.replay import Replay
from interlace_cli.healing.compensation import Gap, _find_last_linear, _fold, _Sums, compensate, find_gaps
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor
from interlace_cli.io.sample_keys import build_keys, load_keys

DROP = [3, 5, 7, 9, 11, 13]


def test_gaps_are_runs_with_a_layer_in_front() -> None:
    assert find_gaps([5, 2, 3, 8]) == [Gap(1, 2, 3), Gap(4, 5, 5), Gap(7, 8, 8)]
    assert find_gaps([0, 1, 4]) == [Gap(3, 4, 4)]
    assert find_gaps([0]) == []


def test_the_map_is_the_least_squares_solution() -> None:
    """Against numpy on the stacked, weighted problem; the penalty is rows that ask for the identity."""
    rng = np.random.default_rng(0)
    made, wanted, scale = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)), rng.uniform(0.5, 9, size=40)
    sums, rest = (_Sums.begin(6, torch.device("cpu")) for _ in range(2))
    for one, rows in ((sums, slice(0, 25)), (rest, slice(25, 40))):
        one.add(*(torch.tensor(values[rows]) for values in (made, wanted, scale)))
    for ridge in (1e-9, 0.3, 1e9):
        found = (sums + rest).solve(ridge).numpy()
        weight = np.sqrt(ridge * np.mean(np.sum((made / scale[:, None]) ** 2, axis=0)))
        left = np.concatenate([made / scale[:, None], weight * np.eye(6)])
        right = np.concatenate([wanted / scale[:, None], weight * np.eye(6)])
        np.testing.assert_allclose(found, np.linalg.lstsq(left, right, rcond=None)[0], atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_a_map_behind_a_linear_layer_is_folded_into_it(bias: bool) -> None:
    linear, inputs, after = torch.nn.Linear(5, 4, bias=bias), torch.randn(7, 5), torch.randn(4, 4)
    with torch.no_grad():
        wanted = linear(inputs) @ after
        _fold(linear, [parameter.clone() for parameter in linear.parameters()], after.double())
        torch.testing.assert_close(linear(inputs), wanted)


def test_a_map_is_folded_into_a_weight_that_is_stored_across() -> None:
    """GPT-2's."""
    from transformers.pytorch_utils import Conv1D

    linear, inputs, after = Conv1D(4, 5), torch.randn(7, 5), torch.randn(4, 4)
    with torch.no_grad():
        linear.bias.copy_(torch.randn(4))
        wanted = linear(inputs) @ after
        _fold(linear, [parameter.clone() for parameter in linear.parameters()], after.double())
        torch.testing.assert_close(linear(inputs), wanted)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("gpt2", "mlp.c_proj"), ("gemma3_text", None), ("qwen3_moe", None), ("olmo2", None), ("opt", "fc2")],
)
def test_the_last_linear_map_of_a_language_model_is_found_or_refused(name: str, wanted: str | None) -> None:
    """Gemma 3 and OLMo 2 end with a norm, and Qwen3-MoE with its experts; all of it is known from the first batch."""
    config = zoo.build_config(name)
    model, inputs = zoo.build_model(config), zoo.build_inputs(name, config)

    def fetch() -> Iterator[dict[str, torch.Tensor]]:
        yield {**inputs, "labels": inputs["input_ids"]}
        raise AssertionError("the second batch")

    layers = find_layers(model)
    if wanted is None:
        with pytest.raises(UnsupportedModelError, match=r"layer 3 of .* cannot make up for layers behind it"):
            compensate(model, layers, [4], fetch(), lambda *_: None)
        return
    with torch.no_grad(), Replay(model, layers) as replay:
        recording, hidden = replay.record(inputs, stop=3)
        assert _find_last_linear(replay, recording, 3, hidden) is layers[3].get_submodule(wanted)


@pytest.mark.parametrize("name", TINY)
def test_the_last_linear_map_of_a_layer_is_found(name: str) -> None:
    model, inputs = TINY[name].build_model(), TINY[name].build_inputs()
    layers = find_layers(model)
    with torch.no_grad(), Replay(model, layers) as replay:
        recording, hidden = replay.record(inputs, stop=4)
        assert _find_last_linear(replay, recording, 4, hidden) is layers[4].mlp.down_proj


@pytest.fixture(scope="module")
def demo(small_dataset: Path) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    model = load_model(CHECKPOINT)
    batcher = Batcher(load_processor(CHECKPOINT), small_dataset)
    samples = load_split(small_dataset, "calibration")
    return model, list(iter_calibration(batcher, samples, 6, model, keep_label_positions))


def measure(model: Any, batches: list[dict[str, torch.Tensor]]) -> float:
    with torch.inference_mode(), bypassed(model, DROP):
        return sum(
            float(sum_losses(model(**{k: v for k, v in batch.items() if k != "labels"}), batch["labels"]).sum())
            for batch in batches
        )


def test_it_lowers_the_loss(demo: tuple[Any, list[dict[str, torch.Tensor]]]) -> None:
    model, batches = demo
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = measure(model, batches)
    changed = compensate(model, find_layers(model), DROP, batches, lambda *_: None)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert set(changed) <= {2, 4, 6, 8, 10, 12}
    assert moved == {f"model.language_model.layers.{layer}.mlp.down_proj.weight" for layer in changed}
    assert measure(model, batches) < 0.9 * plain
    model.load_state_dict(before)


def test_the_command_writes_a_plain_checkpoint(small_dataset: Path, tmp_path: Path) -> None:
    def call(*words: str | Path) -> tuple[int, str]:
        done = CliRunner().invoke(
            app, [str(word) for word in ("prune", "demo", "--drop-layers", "3,5,7,9,11,13", *words)]
        )
        return done.exit_code, done.stdout + done.stderr

    linear = ("--compensate", "linear", "--dataset", small_dataset)
    assert call("--out", tmp_path / "plain")[0] == 0
    for name in ("one", "two"):
        code, said = call("--out", tmp_path / name, *linear)
        assert code == 0, said
    card = json.loads((tmp_path / "one/interlace.json").read_text())
    dense = [card["dense_index"][position] for position in card["compensated"]]
    assert dense
    assert "make up for the dropped ones behind" in card["notes"][-1]
    seen = build_keys(load_split(small_dataset, "calibration"))
    assert load_keys(tmp_path / "one")["calibrated"].tolist() == seen.tolist()
    assert not load_keys(tmp_path / "plain")
    plain, one = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "one"))
    moved = {name for name in plain if not torch.equal(plain[name], one[name])}
    assert moved == {f"model.language_model.layers.{at}.mlp.down_proj.weight" for at in card["compensated"]}
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    load_model(tmp_path / "one")
    for more in (["--verify"], ["--dry-run"]):
        assert call("--out", tmp_path / "x", *linear, *more)[0] == 2
    assert call("--out", tmp_path / "x", *linear, "--stack", "vision")[0] == 2
    assert not (tmp_path / "x").exists()
