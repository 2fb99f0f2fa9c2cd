"""The objective `local` on a GPU: lessons wait on the host, and one layer's training state is on the device at a
time, after an interruption too."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend import Pretend
from workspaces import call, copy

from interlace_cli.healing.away import Host, take_back
from interlace_cli.healing.heal import Healer
from interlace_cli.healing.local import LocalTrainer

WORDS = ("--objective", "local", "--batch-size", "8", "--grad-accum", "1", "--epochs", "1", "--max-length", "256")


def list_states(learner: Any) -> set[str]:
    """The kinds of devices of an optimizer's state."""
    states = learner.optimizer.state.values()
    return {value.device.type for state in states for value in state.values() if getattr(value, "ndim", 0)}


@pytest.mark.long
def test_lessons_and_learners_wait_on_the_host(
    space: Path, tmp_path: Path, gpu: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    steps: list[int] = []
    loaded: list[tuple[int, set[str]]] = []
    capture, train, load = LocalTrainer._capture, LocalTrainer._train_step, Healer._load_learners

    def watch_capture(self: LocalTrainer, row: Any) -> Any:
        gc.collect()
        before = gpu.now[0]
        lessons = capture(self, row)
        tensors = [one for lesson in lessons.values() for one in (lesson.entering, lesson.leaving)]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}
        gc.collect()
        left.append(gpu.now[0] - before)
        return lessons

    def watch_step(self: LocalTrainer, learner: Any, lessons: Any) -> float:
        others = [one for one in self.learners if one is not learner]
        assert not any("cuda" in list_states(one) for one in others)
        steps.append(learner.span.layer)
        if len(steps) == 5 and not loaded:
            raise KeyboardInterrupt
        waits = gpu.waits.copy()
        found = train(self, learner, lessons)
        assert sum(times for place, times in (gpu.waits - waits).items() if "@ local.py" in place) == 1
        return found

    def watch_load(self: Healer, file: Path, learners: Any) -> int:
        gc.collect()
        before = gpu.now[0]
        done = load(self, file, learners)
        gc.collect()
        if done:
            loaded.append((gpu.now[0] - before, set().union(*map(list_states, learners))))
        return done

    monkeypatch.setattr(LocalTrainer, "_capture", watch_capture)
    monkeypatch.setattr(LocalTrainer, "_train_step", watch_step)
    monkeypatch.setattr(Healer, "_load_learners", watch_load)
    words = ("finetune", "-w", copy(space, tmp_path / "w"), "--force", "--device", "cuda", *WORDS, "--save-every", "1")
    assert call(*words).code == 130
    found = call(*words)
    assert found.code == 0, found.err
    ((grown, kinds),) = loaded
    assert grown <= 0
    assert kinds == {"cpu"}
    # The rotary tables of one row are more.
    assert max(left) <= 4096


def test_what_is_put_away_comes_back_as_it_was() -> None:
    with Pretend():
        there, here = torch.arange(3, device="cuda"), torch.ones(2)
        value = (there, [here, None, {"a": there, "b": 3}])
        host = Host()
        away = host.put(value)
        assert away[0] is away[1][2]["a"], "copied once"
        assert away[0].tensor.device.type == "cpu"
        again = take_back(away, torch.device("cuda"))
        assert again[0].device == there.device
        assert again[0].tolist() == [0, 1, 2]
        assert again[1][0] is here
        assert again[1][2]["b"] == 3
