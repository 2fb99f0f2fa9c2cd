"""`--engine offload` does what the ordinary engine does, with the training state on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_cut, make_healed
from safetensors.torch import load_file

from interlace_cli.domain.progress import Advance, Silent
from interlace_cli.errors import UsageError
from interlace_cli.healing import heal
from interlace_cli.healing.engine import Engine
from interlace_cli.options import FinetuneOptions

RECIPE: dict[str, Any] = {
    "lr": 1e-3,
    "epochs": 0.15,
    "batch_size": 10,
    "grad_accum": 1,
    "max_length": 150,
    "tune_layers": (3, 5),
    # What the host computes too: then not a bit may differ.
    "optim": "adamw_torch_fused",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def pruned(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offload") / "pruned"
    make_cut(chain_model, [2, 6], folder)
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def check_same(one: Path, two: Path) -> None:
    a, b = read(one), read(two)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, float]]]:
    """What each Trainer has logged of its steps."""
    found: list[list[dict[str, float]]] = []
    train = heal.train_stage

    def watch(trainer: Any, *rest: Any) -> Any:
        losses = train(trainer, *rest)
        names = ("loss", "grad_norm", "learning_rate")
        found.append([{n: entry[n] for n in names} for entry in trainer.state.log_history if "loss" in entry])
        return losses

    monkeypatch.setattr(heal, "train_stage", watch)
    return found


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="float32"),
        pytest.param(
            {"objective": "distill+anchor", "gradient_checkpointing": True, "dtype": "bfloat16"}, id="bfloat16"
        ),
        pytest.param({"objective": "local,ce", "dtype": "bfloat16", "epochs": 0.3}, id="local"),
    ],
)
def test_the_weights_are_those_of_the_ordinary_engine(
    more: dict[str, Any],
    pruned: Path,
    small_dataset: Path,
    tmp_path: Path,
    logged: list[list[dict[str, float]]],
) -> None:
    """Several rows a step, and gradients that are clipped."""
    cards = [
        make_healed(pruned, small_dataset, tmp_path / engine, **{**RECIPE, **more, "engine": engine}).healing
        for engine in ("ddp", "offload")
    ]
    check_same(tmp_path / "ddp", tmp_path / "offload")
    assert cards[0].curve == cards[1].curve
    assert (cards[0].loss_before, cards[0].loss_after) == (cards[1].loss_before, cards[1].loss_after)
    assert cards[0].frozen_sha256 == cards[1].frozen_sha256
    assert logged[0] == logged[1]
    assert len(logged[0]) >= 3
    if not more:
        assert max(step["grad_norm"] for step in logged[0]) > 1, "nothing was clipped"


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


@pytest.mark.parametrize(
    ("before", "objective", "last"),
    [("offload", "ce", 3), ("ddp", "ce", 3), ("offload", "local,ce", 2)],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    before: str, objective: str, last: int, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """Also one of the ordinary engine, whose state is the same."""
    recipe = {**RECIPE, "epochs": 0.3, "objective": objective, "dtype": "float32", "save_every": 1}
    make_healed(pruned, small_dataset, tmp_path / "whole", **recipe, engine="offload")
    stop = _Stop(last)
    with pytest.raises(KeyboardInterrupt):
        make_healed(pruned, small_dataset, tmp_path / "out", stop, **recipe, engine=before)
    told = _Stop(100)
    make_healed(pruned, small_dataset, tmp_path / "out", told, **recipe, engine="offload")
    assert [line for line in told.lines if line.startswith("going on from")], told.lines
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


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
