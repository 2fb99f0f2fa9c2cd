"""`--engine offload` does what the ordinary engine does, with the training state on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_dataset, make_healed
from safetensors.torch import load_file
from torch import Tensor

from interlace_cli.domain.progress import Advance, Silent
from interlace_cli.errors import UsageError
from interlace_cli.healing import heal, offload
from interlace_cli.healing.engine import Engine
from interlace_cli.healing.optimizer import choose_optim
from interlace_cli.healing.side_stream import Copy, SideStream
from interlace_cli.healing.step import RowLoss
from interlace_cli.options import FinetuneOptions

RECIPE: dict[str, Any] = {
    "lr": 1e-3,
    "epochs": 1.0,
    "batch_size": 8,
    "grad_accum": 1,
    "max_length": 100,
    "tune_layers": (3, 5),
    # What the host computes too: then not a bit may differ.
    "optim": "adamw_torch_fused",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of samples."""
    folder = tmp_path_factory.mktemp("few") / "dataset"
    make_dataset("demo", folder, max_samples=48, holdout=0.17, calibration=0.17)
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def check_same(one: Path, two: Path) -> None:
    a, b = read(one), read(two)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All that have trained."""
    found: list[Any] = []
    train = heal.train_stage

    def watch(trainer: Any, *rest: Any) -> Any:
        found.append(trainer)
        return train(trainer, *rest)

    monkeypatch.setattr(heal, "train_stage", watch)
    return found


def list_logged(trainer: Any) -> list[dict[str, float]]:
    """What it has logged of its steps."""
    names = ("loss", "grad_norm", "learning_rate")
    return [{name: entry[name] for name in names} for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="float32"),
        pytest.param(
            {"objective": "distill+anchor", "gradient_checkpointing": True, "dtype": "bfloat16"}, id="bfloat16"
        ),
        pytest.param({"objective": "local,ce", "dtype": "bfloat16"}, id="local"),
    ],
)
def test_the_weights_are_those_of_the_ordinary_engine(
    more: dict[str, Any],
    pruned: Path,
    dataset: Path,
    tmp_path: Path,
    trainers: list[Any],
) -> None:
    """Several rows a step, and gradients that are clipped."""
    cards = [
        make_healed(pruned, dataset, tmp_path / engine, **{**RECIPE, **more, "engine": engine}).healing
        for engine in ("ddp", "offload")
    ]
    check_same(tmp_path / "ddp", tmp_path / "offload")
    assert cards[0].curve == cards[1].curve
    assert (cards[0].loss_before, cards[0].loss_after) == (cards[1].loss_before, cards[1].loss_after)
    assert cards[0].frozen_sha256 == cards[1].frozen_sha256
    logged = [list_logged(trainer) for trainer in trainers]
    assert logged[0] == logged[1]
    assert len(logged[0]) >= 2
    if not more:
        assert max(step["grad_norm"] for step in logged[0]) > 1, "nothing was clipped"
    left = trainers[1].model
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in left.parameters())
    assert not any(layer._forward_pre_hooks for layer in left.modules())


class _Stop(Silent):
    """Interrupts healing at its step `last`, as Ctrl-C does."""

    def __init__(self, last: int) -> None:
        self.last, self.lines = last, list[str]()

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Advance]:
        done = 0.0

        def advance(steps: float = 1, note: str = "") -> None:
            nonlocal done
            done += steps
            if description == "heal" and done >= self.last:
                raise KeyboardInterrupt

        yield advance


def interrupt(pruned: Path, dataset: Path, out: Path, last: int, first: str, recipe: dict[str, Any]) -> None:
    """Healing by the engine `first` that is interrupted at its step `last`, and goes on by `offload`."""
    with pytest.raises(KeyboardInterrupt):
        make_healed(pruned, dataset, out, _Stop(last), **recipe, engine=first)
    told = _Stop(100)
    make_healed(pruned, dataset, out, told, **recipe, engine="offload")
    assert [line for line in told.lines if line.startswith("going on from")], told.lines
    assert [line for line in told.lines if "saves no memory on a CPU" in line], told.lines


@pytest.mark.parametrize(("objective", "last"), [pytest.param("ce", 3, marks=pytest.mark.long), ("local,ce", 2)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    objective: str, last: int, pruned: Path, dataset: Path, tmp_path: Path
) -> None:
    recipe = {**RECIPE, "objective": objective, "save_every": 1}
    make_healed(pruned, dataset, tmp_path / "whole", **recipe, engine="offload")
    interrupt(pruned, dataset, tmp_path / "out", last, "offload", recipe)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


@pytest.mark.long
def test_a_run_of_the_ordinary_engine_goes_on_without_room_on_the_device(
    pruned: Path, dataset: Path, tmp_path: Path, trainers: list[Any]
) -> None:
    recipe = {**RECIPE, "optim": "adamw_torch", "save_every": 1}
    make_healed(pruned, dataset, tmp_path / "whole", **recipe)
    interrupt(pruned, dataset, tmp_path / "out", 3, "ddp", recipe)
    assert not any(group["fused"] for group in trainers[1].optimizer.param_groups)
    assert all(group["fused"] for group in trainers[2].host.param_groups), "the form of the run that saved it"
    for name, tensor in read(tmp_path / "whole").items():
        torch.testing.assert_close(read(tmp_path / "out")[name], tensor, atol=1e-6, rtol=0)


class _LateStream(SideStream):
    """Copies nothing before somebody waits for it, as a GPU may; then all that came before it too."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.queue: list[_LateCopy] = []

    def send_out(self, source: Tensor) -> Copy:
        return self._put(source, torch.full_like(source, torch.nan))

    def send_in(self, source: Tensor, target: Tensor) -> Copy:
        return self._put(source.to(target.dtype, copy=True), target)

    def _put(self, source: Tensor, target: Tensor) -> Copy:
        self.queue.append(_LateCopy(source, target, queue=self.queue))
        return self.queue[-1]


@dataclass(frozen=True, eq=False)
class _LateCopy(Copy):
    queue: list[_LateCopy] = field(default_factory=list)

    @torch.no_grad()
    def wait(self) -> None:
        while any(copy is self for copy in self.queue):
            first = self.queue.pop(0)
            first.target.copy_(first.source)

    precede = wait


def test_nobody_reads_what_is_still_on_its_way(
    pruned: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {**RECIPE, "save_every": 1}
    make_healed(pruned, dataset, tmp_path / "whole", **recipe)
    monkeypatch.setattr(offload, "SideStream", _LateStream)
    make_healed(pruned, dataset, tmp_path / "out", **recipe, engine="offload")
    check_same(tmp_path / "whole", tmp_path / "out")


def test_a_step_that_does_not_fit_starts_again_without_its_gradients(
    pruned: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second row is too much, when the gradients of the first are on the host."""
    make_healed(pruned, dataset, tmp_path / "whole", **RECIPE, gradient_checkpointing=True)
    compute, calls = RowLoss.compute, 0

    def run_short(self: RowLoss, model: Any, row: Any) -> Any:
        nonlocal calls
        calls += model.training
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(self, model, row)

    monkeypatch.setattr(RowLoss, "compute", run_short)
    told = _Stop(100)
    make_healed(pruned, dataset, tmp_path / "out", told, **RECIPE, engine="offload")
    assert "out of memory: gradient checkpointing is switched on" in told.lines
    check_same(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"processes": 2}, "for one process, and --processes is 2. Take --engine zero3-offload"),
        ({"optim": "adamw_8bit"}, "runs torch's AdamW on the host, and --optim adamw_8bit is another optimizer"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        FinetuneOptions(engine="offload", **change)
    assert sentence in str(refused.value)
    FinetuneOptions(engine="ddp", **change)


def test_a_launcher_of_several_processes_is_refused() -> None:
    with pytest.raises(UsageError, match="--engine offload is for one process"):
        Engine("offload", 2)


@pytest.mark.parametrize(
    ("optim", "device", "engine", "chosen"),
    [
        ("adamw_torch", "cpu", "auto", "adamw_torch"),
        ("adamw_torch", "mps", "auto", "adamw_torch"),
        ("adamw_torch", "cuda:1", "auto", "adamw_torch_fused"),
        ("adamw_torch", "cuda", "fsdp", "adamw_torch_fused"),
        ("adamw_torch", "cuda", "zero2", "adamw_torch"),
        ("adamw_torch", "cpu", "offload", "adamw_torch_fused"),
        ("adamw_8bit", "cuda", "ddp", "adamw_8bit"),
    ],
)
def test_adamw_is_fused_on_a_gpu(optim: str, device: str, engine: str, chosen: str) -> None:
    assert choose_optim(optim, device, engine) == chosen
