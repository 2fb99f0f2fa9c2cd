"""`eval`, `compare` and the check of a cut on a GPU that holds one model: one at a time, and no answer is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_cut, make_dataset
from pretend import Pretend
from safetensors.torch import load_file

import interlace_cli.io.models
from interlace_cli.core.evaluate import build_step
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.progress import Silent
from interlace_cli.evaluation import answering, speed
from interlace_cli.evaluation.checkpoints import time_checkpoints
from interlace_cli.evaluation.fidelity import compare_checkpoints
from interlace_cli.evaluation.turns import Turns, measure_turns
from interlace_cli.io.datasets import load_split
from interlace_cli.options.evaluate import EvaluateOptions

Held = list[int]
Family = tuple[EvaluateOptions, list[Path]]


@pytest.fixture(scope="session")
def family(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A dense checkpoint and two cuts of it, with a few questions."""
    folder = tmp_path_factory.mktemp("family")
    make_dataset("demo", folder / "dataset", max_samples=10, holdout=0.3, calibration=0.2)
    for drop in (2, 5):
        make_cut(chain_model, [drop], folder / f"without-{drop}")
    paths = [chain_model, folder / "without-2", folder / "without-5"]
    options = EvaluateOptions(
        checkpoints=tuple(map(str, paths)),
        dataset=folder / "dataset",
        workspace=folder,
        batch_size=2,
        max_new_tokens=2,
        repeats=1,
        dtype="float32",
        device="cuda",
    )
    return options, paths


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """Bytes on the GPU each time that a model begins to be loaded."""
    found: Held = []
    load = interlace_cli.io.models.load_model

    def watch(*given: Any, **named: Any) -> Any:
        found.append(torch.cuda.memory_allocated())
        return load(*given, **named)

    monkeypatch.setattr(interlace_cli.io.models, "load_model", watch)
    monkeypatch.setattr("interlace_cli.evaluation.fidelity.load_model", watch)
    return found


def evaluate(options: EvaluateOptions, out: Path, **more: Any) -> Evaluation:
    return build_step(replace(options, out=out, **more), Silent()).make(Silent(), False)


def count_weights(path: Path) -> int:
    """Bytes in float32."""
    return sum(4 * value.numel() for file in path.glob("*.safetensors") for value in load_file(file).values())


@pytest.fixture(scope="session")
def answered(family: Family, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, int, Path]:
    """The answers of all, the peak in bytes, and the folder of the evaluation."""
    folder = tmp_path_factory.mktemp("answered")
    with Pretend() as gpu:
        return evaluate(family[0], folder / "whole.json", speed=False), gpu.peak[0], folder


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timing of two tokens, once."""
    monkeypatch.setattr(speed, "WARM_UPS", 0)
    monkeypatch.setattr(speed, "measure_speed", partial(speed.measure_speed, new_tokens=2))


def test_one_model_at_a_time(
    family: Family, answered: tuple[Evaluation, int, Path], held: Held, tmp_path: Path, gpu: Pretend
) -> None:
    options, paths = family
    alone = evaluate(options, tmp_path / "one.json", speed=False, checkpoints=options.checkpoints[:1])
    assert gpu.now[0] == 0
    together, peak, _ = answered
    assert alone.results[0] == together.results[0]
    assert peak == gpu.peak[0], "what the largest takes with its batch"
    assert count_weights(paths[0]) <= peak < count_weights(paths[0]) + count_weights(paths[1])
    assert held == [0]


@pytest.mark.parametrize("models", [1, pytest.param(2.5, marks=pytest.mark.long), 8])
def test_checkpoints_are_timed_in_turns_where_they_fit(
    models: float, family: Family, answered: tuple[Evaluation, int, Path], held: Held, tmp_path: Path
) -> None:
    """A little more than one fits, all but the third, and all of them with room to spare."""
    options, paths = family
    largest = count_weights(paths[0])
    wanted, most, _ = answered
    with Pretend(capacity=int((models - 1) * largest) + most + (1 << 17)) as gpu:
        found = evaluate(options, tmp_path / "tight.json")
        assert not gpu.shortages
        assert gpu.now[0] == 0
        peak = gpu.peak[0]
    fits = models == 8
    assert held[:3] == [0, 0, 0]
    assert len(held) == (6 if fits else 3), "in turns they are loaded once more, all of them"
    assert (peak > largest + count_weights(paths[1]) + count_weights(paths[2])) == fits
    assert [result.kinds for result in found.results] == [result.kinds for result in wanted.results]
    assert [result.loss for result in found.results] == [result.loss for result in wanted.results]
    speeds = [result.speed for result in found.results]
    assert all(one is not None and one.in_turns == fits and one.ttft_ms > 0 for one in speeds)
    told = [line for line in found.cautions if "one after another, not in turns" in line]
    assert bool(told) != fits


def test_a_kill_keeps_the_answers_of_models_that_have_answered(
    family: Family,
    answered: tuple[Evaluation, int, Path],
    held: Held,
    tmp_path: Path,
    gpu: Pretend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, (whole, _, folder) = family[0], answered
    answer, asked = answering.answer_tasks, []

    def stop_at_the_third(*given: Any, **named: Any) -> Any:
        asked.append(given[0])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(*given, **named)

    monkeypatch.setattr(answering, "answer_tasks", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate(options, tmp_path / "cut.json", speed=False)
    kept = tmp_path / "cut.answers.json"
    assert len(json.loads(kept.read_bytes())["answers"]) == 2
    assert not (tmp_path / "cut.json").exists()
    asked.clear()
    held.clear()
    again = evaluate(options, tmp_path / "cut.json", speed=False)
    assert len(asked) == len(held) == 1
    assert again.results == whole.results
    assert (tmp_path / "cut.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()
    assert not kept.exists()
    del gpu


@pytest.mark.long
@pytest.mark.parametrize("more", [{"max_new_tokens": 3}, {"samples": 1}, {"dtype": "bfloat16"}], ids=str)
def test_answers_to_another_question_are_not_taken(
    more: dict[str, Any], family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(family[0], device="cpu", speed=False, checkpoints=family[0].checkpoints[:2])
    answer, asked = answering.answer_tasks, []

    def count(*given: Any, **named: Any) -> Any:
        asked.append(given[0])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answer(*given, **named)

    monkeypatch.setattr(answering, "answer_tasks", count)
    with pytest.raises(KeyboardInterrupt):
        evaluate(options, tmp_path / "e.json")
    evaluate(options, tmp_path / "e.json", **more)
    assert len(asked) == 4


def test_two_checkpoints_are_timed_one_after_another_where_both_do_not_fit(family: Family, held: Held) -> None:
    """`compare`: a cell beside the dense model."""
    options, paths = family
    samples = load_split(options.dataset, "heldout")[:1]  # type: ignore[arg-type]
    said: list[str] = []

    class Told(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    with Pretend(capacity=2 * count_weights(paths[0])) as gpu:
        times = time_checkpoints(paths[:2], options.dataset, samples, options, 2, Told())  # type: ignore[arg-type]
        assert gpu.now[0] == 0
        assert not gpu.shortages
    assert [len(row) for row in times] == [2, 2]
    assert held == [0, 0]
    assert any("one after another" in line for line in said)


def test_the_check_of_a_cut_holds_one_model(family: Family, held: Held, gpu: Pretend) -> None:
    paths = family[1]
    parameters = count_weights(paths[0]) // 4
    found = compare_checkpoints(paths[0], paths[1], [2], "language", parameters, "cuda")
    assert found.difference <= found.tolerance
    assert held[1] < count_weights(paths[1]) / 10, "the inputs, for the other one"
    assert gpu.now[0] == 0
    assert gpu.peak[0] < 2 * count_weights(paths[1])


def build(sizes: list[int], memory: list[int], most: int) -> Iterator[Callable[[], int]]:
    """Loaders that take memory until it is out."""
    for size in sizes:

        def load(size: int = size) -> int:
            if sum(memory) + size > most:
                memory.clear()
                raise torch.OutOfMemoryError("CUDA out of memory.")
            memory.append(size)
            return size

        yield load


def test_what_does_not_fit_after_all_is_measured_one_by_one() -> None:
    memory: list[int] = []
    calls: list[list[int]] = []

    def measure(loaded: Any) -> list[int]:
        calls.append(list(loaded))
        memory.clear()
        return [10 * one for one in loaded]

    assert measure_turns(list(build([3, 4], memory, 9)), measure) == ([30, 40], True)
    assert measure_turns(list(build([3, 4], memory, 5)), measure) == ([30, 40], False)
    assert calls == [[3, 4], [3], [4]]
    assert not Turns(100, 100, 2, "").is_together
    assert Turns(80, 100, 2, "").is_together
    assert not Turns(10, 100, 1, "").is_together
    told = Turns(45 * 10**9, 229 * 10**8, 3, "the GPU's memory").describe()
    assert "45.0 GB, 22.9 GB of the GPU's memory were free" in told
