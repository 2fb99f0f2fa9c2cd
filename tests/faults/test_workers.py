"""One of several processes that dies, or hangs; batches that do not fit into the memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import workspaces
from making import make_analysis
from outcome import call

from interlace_cli.data.batches import Batcher
from interlace_cli.data.oom import Halving
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import InterlaceError
from interlace_cli.evaluation.quality import measure_quality
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor

pytestmark = pytest.mark.long
LAUNCH = """
import sys
from interlace_cli.runtime import launch
launch.SILENCE, launch.GRACE = 3.0, 2.0
from interlace_cli.cli.app import main
sys.argv = ["interlace", *sys.argv[1:]]
main()
"""


def find_children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.parametrize(
    ("number", "sentence"), [(signal.SIGKILL, "was killed (SIGKILL)"), (signal.SIGSTOP, "has not answered")]
)
def test_a_process_that_dies_and_one_that_hangs(
    number: int, sentence: str, small_dataset: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", LAUNCH, "analyze", "demo", "--dataset", small_dataset, "-w", tmp_path, "-q"]
    running = subprocess.Popen(
        [*map(str, words), "--processes", "2", "--batch-size", "1"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while len(find_children(running.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.5)
    children = find_children(running.pid)
    os.kill(children[-1], number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1, said
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "analysis.json").exists()
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


SHORT = """
import os
if os.environ.get("RANK") == "1":
    import torch
    from interlace_cli.healing.trainer import HealingTrainer
    def short(*_):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 23.50 GiB of which 1.00 GiB"
            " is free."
        )
    HealingTrainer._accumulate = short
"""
"""What the second process begins with."""


def test_one_process_short_of_memory_ends_all_with_its_sentence(
    chain_model: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is in the middle of a step, and waits for it."""
    (tmp_path / "sitecustomize.py").write_text(SHORT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    words = ("--dense", chain_model, "--tune-layers", "3", "--dataset", small_dataset)
    size = ("--processes", 2, "--batch-size", 4, "--grad-accum", 1, "--epochs", "0.01")
    found = workspaces.call("finetune", *words, *size, "-w", tmp_path / "w", "--device", "cpu")
    assert found.code == 1
    assert "tokens does not fit into the memory: 2.00 GiB more were asked for" in found.sentence
    assert "are free on cuda:1. Take --gradient-checkpointing" in found.sentence
    assert not (tmp_path / "w" / "dense-ft").exists()


FAIL = """
import sys, threading
import torch.distributed as dist
from interlace_cli.core import plan
from interlace_cli.cli.app import main
from interlace_cli.errors import InterlaceError

kind, store = sys.argv.pop(), sys.argv.pop()

def fail(*_, **more):
    dist.init_process_group("gloo", init_method="file://" + store, rank=0, world_size=1)
    threading.Thread(target=threading.Event().wait).start()
    raise InterlaceError("it failed.") if kind == "sentence" else ValueError("strange")

plan.plan = fail
sys.argv[0] = "interlace"
main()
"""
"""Ends by an error while the group is open, and while a thread runs that is not done."""


@pytest.mark.parametrize(("kind", "words"), [("sentence", "Error: it failed."), ("traceback", "ValueError: strange")])
def test_a_process_that_fails_ends_whatever_is_in_flight(kind: str, words: str, tmp_path: Path) -> None:
    debug = ["--debug"] if kind == "traceback" else []
    command = [sys.executable, "-c", FAIL, "plan", "-w", tmp_path, *debug, tmp_path / "store", kind]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert words in ended.stderr


class Short:
    """Lets no more than so many samples through a model at once."""

    def __init__(self, model: Any, most: int, error: BaseException) -> None:
        self.most, self.error = most, error
        self.handle = model.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > self.most:
            raise self.error


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_analysis_short_of_memory_halves_its_batches(
    error: BaseException, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlace_cli.io import models

    whole = make_analysis("demo", small_dataset, tmp_path / "whole.json", samples=20)
    load = models.load_model

    def load_short(*args: Any, **more: Any) -> Any:
        model = load(*args, **more)
        Short(model, 3, error)
        return model

    monkeypatch.setattr(models, "load_model", load_short)
    told = Told()
    halved = make_analysis("demo", small_dataset, tmp_path / "halved.json", told, samples=20)
    assert [line for line in told.lines if "halved" in line] == [
        "out of memory: batches of 8 are halved, which changes results by rounding alone"
    ]
    for mine, theirs in zip(whole.similarity.s2, halved.similarity.s2, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_an_evaluation_short_of_memory_halves_its_batches(small_dataset: Path) -> None:
    samples = load_split(small_dataset, "heldout")[:16]
    batcher = Batcher(load_processor(CHECKPOINT), small_dataset)
    whole = measure_quality(load_model(CHECKPOINT), batcher, samples, 8, 8, lambda *_: None, print)
    model = load_model(CHECKPOINT)
    Short(model, 3, ERRORS[0])
    said: list[str] = []
    halved = measure_quality(model, batcher, samples, 8, 8, lambda *_: None, said.append)
    assert halved.answers == whole.answers
    assert halved.tokens == whole.tokens
    assert halved.loss == pytest.approx(whole.loss, rel=1e-3, abs=1e-4)
    assert len(said) == 1


def test_a_single_sample_that_does_not_fit_is_said_so(small_dataset: Path) -> None:
    samples = load_split(small_dataset, "heldout")[:4]
    model, batcher = load_model(CHECKPOINT), Batcher(load_processor(CHECKPOINT), small_dataset)
    Short(model, 0, ERRORS[0])
    with pytest.raises(InterlaceError, match=r"a sample of \d+ tokens does not fit into the memory"):
        measure_quality(model, batcher, samples, 4, 8, lambda *_: None, print)


def test_a_long_sample_does_not_make_its_neighbours_long(small_dataset: Path) -> None:
    samples = load_split(small_dataset, "train")[:8]
    batcher = Batcher(load_processor(CHECKPOINT), small_dataset)

    def make(own: Batcher, chosen: Any) -> Any:
        return (own.build_prompts([samples[i] for i in chosen]),)

    said: list[str] = []
    chosen = list(range(8))
    sizes = Halving(batcher, make, said.append, max_tokens=100).run(
        chosen, make(batcher, chosen), lambda part, made: (list(part), made[0]["input_ids"].numel())
    )
    assert [index for part, _ in sizes for index in part] == chosen
    assert all(size <= 100 or len(part) == 1 for part, size in sizes)
    assert not said, "that is no shortage"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_shortage_anywhere_else_says_what_to_do(
    error: BaseException, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr("interlace_cli.core.analyze.analyze", fail)
    found = call("analyze", "demo", "--dataset", small_dataset, "-w", tmp_path)
    assert found.code == 1
    assert "lower --batch-size" in found.sentence


def test_other_errors_are_not_taken_for_a_shortage(small_dataset: Path) -> None:
    samples = load_split(small_dataset, "heldout")[:4]
    model, batcher = load_model(CHECKPOINT), Batcher(load_processor(CHECKPOINT), small_dataset)
    Short(model, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure_quality(model, batcher, samples, 4, 8, lambda *_: None, print)


def test_a_model_that_runs_one_sample_alone_is_not_short_of_memory(small_dataset: Path) -> None:
    samples, said = load_split(small_dataset, "heldout")[:4], []
    model, batcher = load_model(CHECKPOINT), Batcher(load_processor(CHECKPOINT), small_dataset)
    Short(model, 1, RuntimeError("shapes do not fit"))
    measure_quality(model, batcher, samples, 4, 8, lambda *_: None, said.append)
    assert said == [f"{type(model).__name__}: shapes do not fit: samples are run one by one"]
