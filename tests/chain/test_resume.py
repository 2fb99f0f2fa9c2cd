"""Healing that is killed goes on where it was, and comes out the same to the bit."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_cut, make_healed
from safetensors.torch import load_file

from interlace_cli.domain.progress import Silent
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.healing.state import COMPLETE, State
from interlace_cli.healing.trainer import HealingTrainer

WORDS = "--lr 1e-3 --epochs 4 --batch-size 8 --grad-accum 1 --save-every 3 --tune-layers 3,5 --device cpu"
RECIPE: dict[str, Any] = {"lr": 1e-3, "epochs": 4.0, "batch_size": 8, "grad_accum": 1, "tune_layers": (3, 5)}


def start(pruned: Path, dataset: Path, out: Path, objective: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "interlace_cli", "finetune", str(pruned), "--dataset", str(dataset)]
    words += ["--out", str(out), "--objective", objective, *WORDS.split()]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.soak
@pytest.mark.parametrize("objective", ["ce", "local,distill"])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    objective: str, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    make_healed(pruned, small_dataset, tmp_path / "whole", **RECIPE, objective=objective)
    draw, out = random.Random(objective), tmp_path / "killed"
    kills = 0
    for attempt in range(3):
        running = start(pruned, small_dataset, out, objective)
        # Waits until it has come further than the last time, then a little longer.
        before = count_saved(out)
        while running.poll() is None and count_saved(out) <= before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.6))
        if running.poll() is None:
            running.send_signal(signal.SIGKILL if attempt % 2 == 0 else signal.SIGINT)
            kills += 1
        running.wait()
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()
    last = start(pruned, small_dataset, out, objective)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert kills >= 2
    assert "going on from" in said
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in (tmp_path / "whole").iterdir()}
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left behind"


def count_saved(out: Path) -> tuple[int, ...]:
    """Something that grows with what has been saved."""
    states = list(out.parent.glob(f".{out.name}.healing-*"))
    marks = [path for state in states for path in state.glob(f"stage-*/checkpoint-*/{COMPLETE}")]
    steps = max((int(mark.parent.name.split("-")[1]) for mark in marks), default=0)
    locally = [path.stat().st_mtime_ns for state in states for path in state.glob("stage-*/learners.pt")]
    return steps, *locally


@pytest.mark.long
def test_another_recipe_does_not_go_on_from_it(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop_after(4, pruned, small_dataset, tmp_path / "out")
    (left,) = tmp_path.glob(".out.healing-*")
    make_healed(pruned, small_dataset, tmp_path / "out", **RECIPE, seed=1)
    make_healed(pruned, small_dataset, tmp_path / "again", **RECIPE, seed=1)
    for path in (tmp_path / "again").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert not left.exists(), "what is of no use any more is gone"


def test_an_incomplete_checkpoint_is_not_gone_on_from(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    make_healed(pruned, small_dataset, tmp_path / "whole", **RECIPE)
    with pytest.raises(KeyboardInterrupt):
        stop_after(8, pruned, small_dataset, tmp_path / "out")
    (left,) = tmp_path.glob(".out.healing-*")
    saved = sorted(path.name for path in left.glob("stage-0/checkpoint-*"))
    assert saved == ["checkpoint-3", "checkpoint-6"], "older ones are pruned"
    tuned = load_file(left / "stage-0/checkpoint-6/tuned.safetensors")
    moments = load_file(left / "stage-0/checkpoint-6/optimizer.safetensors")
    assert {tensor.dtype for tensor in tuned.values()} == {torch.float32}
    assert {name.split(".layers.")[1][0] for name in tuned} == {"2", "4"}, "masters and moments of tuned layers alone"
    assert moments.keys() == {f"{kind}:{name}" for kind in ("exp_avg", "exp_avg_sq") for name in tuned}
    assert all(tensor.shape == tuned[name.partition(":")[2]].shape for name, tensor in moments.items())
    (left / "stage-0/checkpoint-6" / COMPLETE).unlink()
    (left / "stage-0/checkpoint-6/optimizer.safetensors").unlink()
    state = State(tmp_path / "out", left.name.rpartition("-")[2])
    checkpoint = state.find_checkpoint(0)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    make_healed(pruned, small_dataset, tmp_path / "out", **RECIPE)
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "out"))
    assert one.read_bytes() == two.read_bytes()


def stop_after(steps: int, pruned: Path, dataset: Path, out: Path) -> None:
    """Heals, and is interrupted in the step behind `steps`."""
    taken = 0
    original = HealingTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HealingTrainer, "training_step", step)
        make_healed(pruned, dataset, out, **RECIPE, save_every=3)


def test_a_state_in_another_form_is_left_alone(
    pruned: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop_after(8, pruned, small_dataset, tmp_path / "out")
    (left,) = tmp_path.glob(".out.healing-*")
    lines = Lines()
    monkeypatch.setattr("interlace_cli.core.finetune.FORMAT", 1)
    make_healed(pruned, small_dataset, tmp_path / "out", lines, **RECIPE)
    assert not [line for line in lines.lines if "going on" in line]
    assert [line for line in lines.lines if left.name in line and "begins anew" in line]
    assert not left.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"optim": "adam"}, "--optim adam cannot be used here"), ({"report_to": "paper"}, "--report-to: paper is not")],
)
def test_what_the_trainer_does_not_have_is_said_before_the_model_is_loaded(
    change: dict[str, str], message: str, pruned: Path, small_dataset: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("interlace_cli.io.models.load_model", None)
    with pytest.raises(UsageError, match=message):
        make_healed(pruned, small_dataset, tmp_path / "out", **RECIPE, **change)


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def limit_memory(patch: pytest.MonkeyPatch, tokens: int, in_backward: bool) -> None:
    """Rows of more tokens do not fit: in the middle of the forward, or when some gradients are there already."""
    original = HealingTrainer._accumulate

    def accumulate(self: Any, model: Any, samples: Any) -> Any:
        rows = self._rows(samples)
        if max(row.padded_tokens for row in rows) > tokens:
            if in_backward:
                original(self, model, samples)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, model, samples)

    patch.setattr(HealingTrainer, "_accumulate", accumulate)


@pytest.mark.parametrize("in_backward", [pytest.param(False, marks=pytest.mark.long), True])
def test_rows_that_do_not_fit_are_halved_and_the_batch_stays(
    in_backward: bool, pruned: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    short = {**RECIPE, "epochs": 1.0}
    make_healed(pruned, small_dataset, tmp_path / "whole", **short)
    limit_memory(monkeypatch, 160, in_backward)
    lines = Lines()
    make_healed(pruned, small_dataset, tmp_path / "out", lines, **short)
    assert [line for line in lines.lines if "out of memory: rows of" in line]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=0)


def test_a_sample_that_does_not_fit_is_said_so(
    pruned: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 10, False)
    with pytest.raises(InterlaceError, match="does not fit into the memory"):
        make_healed(pruned, small_dataset, tmp_path / "out", **RECIPE)
    assert not (tmp_path / "out").exists()


def test_untouched_shards_are_shared_and_the_tuned_ones_alone_rewritten(
    chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(chain_model)
    model.save_pretrained(tmp_path / "dense", max_shard_size="60KB")
    for path in chain_model.iterdir():
        if not (tmp_path / "dense" / path.name).exists() and path.suffix != ".safetensors":
            shutil.copyfile(path, tmp_path / "dense" / path.name)
    make_cut(tmp_path / "dense", [2, 6], tmp_path / "pruned")
    make_healed(tmp_path / "pruned", small_dataset, tmp_path / "healed", **{**RECIPE, "epochs": 0.1})
    shards = sorted(path.name for path in (tmp_path / "pruned").glob("*.safetensors"))
    assert shards == sorted(path.name for path in (tmp_path / "healed").glob("*.safetensors"))
    shared = {name for name in shards if (tmp_path / "pruned" / name).samefile(tmp_path / "healed" / name)}
    same = {
        name
        for name in shards
        if (tmp_path / "pruned" / name).read_bytes() == (tmp_path / "healed" / name).read_bytes()
    }
    assert shared == same
    assert 0 < len(shared) < len(shards)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "healed")


def test_what_trackers_wrote_outlives_the_state(tmp_path: Path) -> None:
    state = State(tmp_path / "healed", "key")
    (state.stage(0) / "runs/Nov21_here").mkdir(parents=True)
    (state.stage(0) / "runs/Nov21_here/events.1").write_text("losses")
    state.clear()
    assert not state.folder.exists()
    assert (tmp_path / "runs/healed-stage-0-Nov21_here/events.1").read_text() == "losses"
