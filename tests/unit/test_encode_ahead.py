"""Steps that threads encode ahead are those encoded in turn; they need no file descriptors and no shared memory."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interlace_cli.data import encode_ahead, rows
from interlace_cli.data.batches import Batcher
from interlace_cli.data.encode_ahead import AHEAD, StepsAhead, iter_steps
from interlace_cli.data.rows import Encoded, EncodedSteps
from interlace_cli.demo import CHECKPOINT
from interlace_cli.errors import UnusableSampleError
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_processor

EPOCHS = [[0, 1, 2], [3, 4], [4, 1, 0], [3, 2], [2, 3, 4], [0, 1]]
"""Three epochs; a sample may come twice among the steps that are encoded at once."""


@pytest.fixture(scope="module")
def batcher(small_dataset: Path) -> Batcher:
    return Batcher(load_processor(CHECKPOINT), small_dataset)


@pytest.fixture
def build(batcher: Batcher) -> Callable[..., EncodedSteps]:
    samples = load_split(batcher.folder, "train")

    def positions(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.arange(inputs["input_ids"].shape[1])[None, None]

    return lambda steps, start=0: EncodedSteps(samples, steps, batcher, positions, start)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the samples that were encoded, in the order in which that began."""
    found: list[str] = []
    real = rows.encode_sequences

    def encode(sample: Any, *rest: Any) -> list[Encoded]:
        found.append(sample.id)
        return real(sample, *rest)

    for module in (rows, encode_ahead):
        monkeypatch.setattr(module, "encode_sequences", encode)
    return found


def are_same(one: list[Encoded], other: list[Encoded]) -> bool:
    def list_tensors(sample: Encoded) -> list[torch.Tensor]:
        fields = sorted((sample.tokens | sample.whole).items())
        return [*(value for _, value in fields), sample.targets_T, sample.positions_RT]

    pairs = zip(one, other, strict=True)
    return all(all(map(torch.equal, list_tensors(a), list_tensors(b))) for a, b in pairs)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 2])
def test_the_same_steps_each_sample_encoded_once(
    threads: int, start: int, build: Callable[..., EncodedSteps], encoded: list[str]
) -> None:
    plain = build(EPOCHS, start)
    wanted = [plain[number] for number in range(len(plain))]
    del encoded[:]
    found = list(iter_steps(build(EPOCHS, start), threads))
    assert len(found) == len(EPOCHS) - start
    assert all(map(are_same, found, wanted))
    assert len(encoded) == len(set(encoded)) == 5


def test_samples_that_do_not_fit_into_the_cache_are_encoded_again(
    build: Callable[..., EncodedSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = build(EPOCHS)
    wanted = [plain[number] for number in range(len(plain))]
    monkeypatch.setattr(rows, "CACHE", 1)
    assert all(map(are_same, iter_steps(build(EPOCHS), 2), wanted))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_sample_that_cannot_be_encoded_is_named_in_its_turn(
    threads: int, build: Callable[..., EncodedSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build([[0], [1], [2], [3]])
    real, broken = rows.encode_sequences, source.samples[2].id

    def encode(sample: Any, *rest: Any) -> list[Encoded]:
        if sample.id == broken:
            raise UnusableSampleError(sample.id, "its picture does not open")
        return real(sample, *rest)

    for module in (rows, encode_ahead):
        monkeypatch.setattr(module, "encode_sequences", encode)
    made = iter_steps(source, threads)
    next(made)
    next(made)
    with pytest.raises(UnusableSampleError, match=broken):
        next(made)
    assert not list_threads()


def list_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("encode")]


def test_no_more_steps_are_held_than_ahead_and_closing_ends_the_threads(
    build: Callable[..., EncodedSteps], encoded: list[str]
) -> None:
    ahead = StepsAhead(build([[i] for i in range(30)]), 2)
    made = iter(ahead)
    next(made)
    time.sleep(0.3)
    assert len(encoded) <= 1 + AHEAD
    assert list_threads()
    ahead.close()
    assert not list_threads()
    assert len(encoded) <= 1 + AHEAD


def test_steps_of_many_tensors_take_no_file_descriptors(build: Callable[..., EncodedSteps]) -> None:
    """Worker processes sent each tensor as a descriptor: a step of 64 samples, read ahead, was more than 1024."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 200
    source = build([[i % 20 for i in range(64)]] * 4)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 16, hard))
    try:
        assert [len(step) for step in iter_steps(source, 3)] == [64] * 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nothing_depends_on_how_worker_processes_start() -> None:
    """On macOS and Windows they are spawned, and what they are given is pickled, which a local function cannot be."""
    package = Path(encode_ahead.__file__).parents[1]
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "multiprocessing" not in text, path
        assert "os.fork" not in text, path
        assert set(re.findall(r"num_workers=(\w+)", text)) <= {"0"}, path
