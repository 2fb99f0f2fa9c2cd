"""Batches that are made ahead in threads are those made one by one."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from interlace_cli.data.batches import Batcher, Inputs, cast_on_host
from interlace_cli.data.prefetch import count_threads, cut, read_ahead
from interlace_cli.demo import CHECKPOINT
from interlace_cli.errors import DatasetError
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_processor

MODEL = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def batcher(small_dataset: Path) -> Batcher:
    return Batcher(load_processor(CHECKPOINT), small_dataset)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_batches_in_the_same_order(batcher: Batcher, small_dataset: Path, threads: int) -> None:
    """With padding and without it at once, which a tokenizer that two threads share would mix up."""
    batches = cut(load_split(small_dataset, "train"), 3)[:24]
    expected = [batcher.build_both(samples) for samples in batches]
    for _ in range(3):
        found = list(read_ahead(batches, Batcher.build_both, batcher, MODEL, threads))
        for made, wanted in zip(found, expected, strict=True):
            for ours, theirs in zip(made, wanted, strict=True):
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_no_two_threads_share_a_tokenizer(batcher: Batcher) -> None:
    """What two would do to its padding shows itself rarely; that they have one is told for certain."""
    in_use: set[int] = set()
    shared: list[int] = []

    def make(own: Batcher, number: int) -> tuple[Inputs]:
        if id(own.tokenizer) in in_use:
            shared.append(number)
        in_use.add(id(own.tokenizer))
        time.sleep(0.01)
        in_use.discard(id(own.tokenizer))
        return ({"number": torch.tensor(number)},)

    assert [int(batch["number"]) for (batch,) in read_ahead(range(12), make, batcher, MODEL, 3)] == list(range(12))
    assert not shared


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_fails_is_raised_in_its_turn(batcher: Batcher, threads: int) -> None:
    def make(own: Batcher, number: int) -> tuple[Inputs]:
        if number == 2:
            raise DatasetError("image 2 does not open.")
        return ({"number": torch.tensor(number)},)

    made = read_ahead(range(5), make, batcher, MODEL, threads)
    assert [int(next(made)[0]["number"]) for _ in range(2)] == [0, 1]
    with pytest.raises(DatasetError, match="image 2"):
        next(made)


def test_no_more_is_made_than_is_needed(batcher: Batcher) -> None:
    """Memory is that of a batch a thread; and who stops early waits for those under way alone."""
    begun: list[int] = []

    def make(own: Batcher, number: int) -> tuple[Inputs]:
        begun.append(number)
        return ({"number": torch.tensor(number)},)

    made = read_ahead(range(1000), make, batcher, MODEL, 2)
    next(made)
    time.sleep(0.1)
    assert len(begun) <= 3
    made.close()
    assert len(begun) <= 3
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_pixels_are_cast_once_however_many_batches_share_them() -> None:
    pixels = torch.rand(3)
    half = SimpleNamespace(device=torch.device("cpu"), dtype=torch.bfloat16)
    first, second = cast_on_host(({"pixels": pixels, "ids": torch.arange(2)}, {"pixels": pixels}), half)
    assert first["pixels"] is second["pixels"]
    assert first["pixels"].dtype == torch.bfloat16
    assert first["ids"].dtype == torch.int64


def test_the_cores_that_compute_are_left_to_the_model() -> None:
    assert count_threads(torch.device("cpu")) == 0
    assert count_threads(torch.device("cuda")) >= 1
