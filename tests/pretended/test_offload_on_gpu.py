"""`--engine offload` on a pretend GPU: what lies there at once, what the host waits for, and that AdamW is fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_cut, make_dataset, make_healed
from pretend import Pretend
from safetensors.torch import load_file
from torch import nn

from interlace_cli.bench.shapes import SHAPES, build_model, build_samples
from interlace_cli.data.rows import build_rows
from interlace_cli.domain.progress import Silent
from interlace_cli.families.modules import find_layers
from interlace_cli.healing.layout import choose_layout
from interlace_cli.healing.loss import choose_loss
from interlace_cli.healing.objective import Stage
from interlace_cli.healing.offload import HostAdamW, find_master, keep_masters
from interlace_cli.healing.optimizer import keep_form
from interlace_cli.healing.step import RowLoss, TermWeights
from interlace_cli.healing.trainable import apply_checkpointing, apply_trainable_set
from interlace_cli.runtime import allocator

WIDTH = 256
LAYER = 2 * WIDTH * WIDTH * 2
"""Bytes of a layer's matrices in bfloat16."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.down(self.up(self.norm(hidden)).relu())


def build(count: int = 6) -> nn.ModuleList:
    """Layers in bfloat16 on the GPU, with their masters on the host."""
    torch.manual_seed(0)
    layers = nn.ModuleList(Layer() for _ in range(count)).to("cuda", torch.bfloat16)
    for layer in layers:
        keep_masters(layer)
    return layers


def build_optimizer(layers: nn.ModuleList) -> HostAdamW:
    return HostAdamW([{"params": list(layers.parameters())}], list(layers), lr=1e-2, weight_decay=0.0)


def run_row(layers: nn.ModuleList) -> None:
    hidden = torch.ones(4, WIDTH, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        for layer in layers:
            hidden = layer(hidden)
    hidden.float().square().mean().backward()


def test_the_device_has_one_layers_gradients_at_most_and_no_training_state(gpu: Pretend) -> None:
    layers = build()
    optimizer = build_optimizer(layers)
    weights = gpu.now[0]
    assert weights < 6 * LAYER * 1.05, "norms alone are float32"
    for _ in range(2):
        optimizer.forget()
        for _ in range(3):
            run_row(layers)
        assert gpu.peak[0] - weights < 1.4 * LAYER, "activations are a quarter of a layer"
        optimizer.land()
        assert gpu.now[0] == weights
        optimizer.clip(1.0)
        gpu.peak[0] = gpu.now[0]
        optimizer.step()
        assert gpu.peak[0] == weights, "the step needs nothing of the device"
    for parameter in layers.parameters():
        master = find_master(parameter)
        assert master is not None
        assert (master.device.type, master.dtype) == ("cpu", torch.float32)
        assert torch.equal(parameter.cpu(), master.to(parameter.dtype))


def test_copies_go_through_pinned_memory_and_the_host_waits_for_gradients_alone(gpu: Pretend) -> None:
    layers = build()
    optimizer = build_optimizer(layers)
    run_row(layers)
    gpu.pageable.clear()
    gpu.waits.clear()
    run_row(layers)
    optimizer.land()
    optimizer.clip(1.0)
    optimizer.step()
    run_row(layers)
    assert not gpu.pageable
    assert {what.split(" @ ")[0] for what in gpu.waits} == {"Event.synchronize"}, gpu.waits
    # Two rows' gradients, the first row's before `clear`; and at most one wait a layer for weights on their way.
    count = len(list(layers.parameters()))
    assert sum(gpu.waits.values()) <= 3 * count


def step_plainly(**form: Any) -> tuple[torch.optim.AdamW, nn.Linear]:
    layer = nn.Linear(8, 8, device="cuda")
    layer(torch.ones(1, 8, device="cuda")).sum().backward()
    optimizer = torch.optim.AdamW(layer.parameters(), **form)
    return optimizer, layer


@pytest.mark.parametrize("saved", [{"foreach": True}, {"fused": True}, {}])
def test_a_fused_optimizer_goes_on_from_the_state_of_any_other(saved: dict[str, Any], gpu: Pretend) -> None:
    old, _ = step_plainly(**saved)
    old.step()
    new, _ = step_plainly(fused=True)
    keep_form(new)
    new.load_state_dict(old.state_dict())
    assert all(group["fused"] and not group["foreach"] for group in new.param_groups)
    new.step()
    assert {float(state["step"]) for state in new.state.values()} == {2.0}
    assert {state["step"].device.type for state in new.state.values()} == {"cuda"}


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_gpu_gives_the_same_weights_by_both_engines(
    chain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run fused AdamW, in float16 with a scaler."""
    for name in (allocator.NAME, allocator.OURS):
        monkeypatch.setenv(name, allocator.SETTING)
    pruned, dataset, told = tmp_path / "pruned", tmp_path / "dataset", Lines()
    make_cut(chain_model, [2, 6], pruned)
    make_dataset("demo", dataset, max_samples=20)
    where = {"device": "cuda", "dtype": "float16", "tune_layers": (3, 5), "max_length": 150, "save_every": 2}
    recipe = {"lr": 1e-3, "epochs": 1.0, "batch_size": 6, "grad_accum": 1, **where}
    peaks = {}
    for engine in ("ddp", "offload"):
        with Pretend() as gpu:
            card = make_healed(pruned, dataset, tmp_path / engine, told, **recipe, engine=engine)
        assert card.healing.recipe["optim"] == "adamw_torch_fused"
        peaks[engine] = gpu.peak[0]
        assert not [place for place in gpu.pageable if "side_stream" in place]
    one, two = (load_file(tmp_path / engine / "model.safetensors") for engine in peaks)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert peaks["offload"] < peaks["ddp"]
    assert told.lines.count(allocator.describe_segments("cuda")) == 2


@pytest.mark.soak
@pytest.mark.parametrize(("name", "most"), [("8b", 22), ("4b", 12)])
def test_large_models_are_healed_in_little_memory(name: str, most: int) -> None:
    """GiB of a step of 8192 tokens, a quarter of the layers dropped and as many tuned."""
    shape = SHAPES[name]
    with Pretend(fake=True) as gpu:
        model = build_model(shape, torch.bfloat16, "cuda")
        layers = find_layers(model)
        apply_trainable_set(model, layers, shape.tuned, has_masters=True)
        apply_checkpointing(model, layers, shape.tuned)
        samples = build_samples(shape, 8192, model.train())
        layout = choose_layout(model, samples, torch.bfloat16)
        (row,) = build_rows(samples, layout.is_packed, 8192, len(samples), layout.padding, layout.lengths)
        optimizer = HostAdamW(
            [{"params": [p for p in model.parameters() if p.requires_grad]}], [layers[i] for i in shape.tuned], lr=1e-5
        )
        with torch.autocast("cuda", torch.bfloat16):
            there = row.to("cuda", torch.bfloat16)
            with torch.no_grad():
                loss = RowLoss(Stage(("ce",)), choose_loss(model, there), TermWeights(0.0, 0.0))
            loss.compute(model, there).token.backward()
        optimizer.land()
        optimizer.clip(1.0)
        optimizer.step()
    print(f"{name}: {gpu.peak[0] / 2**30:.2f} GiB")
    assert 6 < gpu.peak[0] / 2**30 < most
