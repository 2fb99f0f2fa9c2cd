"""Measuring layers on a GPU: how often the host waits for it, and where what is kept lies."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from making import make_dataset
from pretend import Pretend

from interlace_cli.data.batches import Batcher, Inputs
from interlace_cli.data.labels import keep_label_positions
from interlace_cli.data.prefetch import iter_calibration
from interlace_cli.families.modules import find_layers
from interlace_cli.families.ways import Way
from interlace_cli.healing.compensation import RIDGES, compensate
from interlace_cli.importance.loss import Limits, count_candidates, search_by_loss
from interlace_cli.importance.room import Room, find_room
from interlace_cli.importance.rows import measure_rows
from interlace_cli.importance.search_state import SearchState
from interlace_cli.importance.taylor import measure_taylor
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor
from interlace_cli.sparsity.pattern import Pattern
from interlace_cli.sparsity.wanda import prune_by_wanda

LAYERS = 8
LIMITS = Limits(frozenset(), frozenset({0, 1, 7}), 2)
SAMPLES, BATCH = 4, 2
FORWARD = 45
"""Waits of transformers' own code in one whole forward of a batch with pictures, at most."""
MIB = 1 << 20


def load(device: str, folder: Path, dataset: Path, is_moved: bool = False) -> tuple[Any, Batcher, list[Inputs]]:
    model = load_model(folder, "float32", device)
    batcher = Batcher(load_processor(folder), dataset)
    samples = load_split(dataset, "calibration")[:SAMPLES]
    return model, batcher, list(iter_calibration(batcher, samples, BATCH, model, keep_label_positions, is_moved))


def list_own(counts: Counter[str]) -> Counter[str]:
    """Those in lines of ours, without those of libraries that we call."""
    return Counter({place: count for place, count in counts.items() if "(" not in place})


def search(model: Any, batches: list[Inputs], way: Way, room: Room) -> SearchState:
    state = SearchState()
    search_by_loss(
        model, find_layers(model), "language", batches, LIMITS, state, lambda *_: None, lambda *_: None, way, room
    )
    return state


Given = tuple[Path, Path]


@pytest.fixture(scope="session")
def given(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    """A checkpoint of eight small layers, and a few samples."""
    folder = tmp_path_factory.mktemp("few") / "dataset"
    make_dataset("demo", folder, max_samples=12, holdout=0.2, calibration=0.5)
    return chain_model, folder


@pytest.fixture(scope="session")
def on_cpu(given: Given) -> SearchState:
    model, _, batches = load("cpu", *given)
    return search(model, batches, *find_room(model, find_layers(model), batches, SAMPLES))


@pytest.mark.parametrize("stays", [True, False], ids=["device", "host"])
def test_the_search_waits_once_a_candidate(stays: bool, given: Given, on_cpu: SearchState, gpu: Pretend) -> None:
    """And runs seven times as many layers."""
    model, _, batches = load("cuda", *given)
    way, room = find_room(model, find_layers(model), batches, SAMPLES)
    assert (way, room.stays) == (Way.DIRECT, (True,) * 2)
    before = gpu.now[0]
    trial = gpu.peak[0] - before
    gpu.waits.clear()
    gpu.pageable.clear()
    gpu.peak[0] = before
    state = search(model, batches, way, room if stays else Room((False,) * 2))
    assert asdict(state) == asdict(on_cpu)
    own, candidates = list_own(gpu.waits), count_candidates(LAYERS, LIMITS)
    assert sum(own.values()) == candidates
    # The dense model, and the two layers whose features DeepStack adds, are run whole.
    assert (gpu.waits - own).total() <= 3 * len(batches) * FORWARD
    assert state.layer_runs > 7 * candidates
    assert not list_own(gpu.pageable)
    assert gpu.now[0] == before, "nothing is left behind"
    # A run of one batch takes less than the states that are kept beside it.
    assert (gpu.peak[0] - before > trial) == stays


def test_what_is_kept_lies_where_there_is_room(given: Given, on_cpu: SearchState) -> None:
    """Of a small device one batch's states take what is free beside a run."""
    with Pretend() as gpu:
        model, _, batches = load("cuda", *given)
        gpu.capacity = gpu.now[0] + 12 * MIB // 10
        way, room = find_room(model, find_layers(model), batches, SAMPLES)
        assert any(room.stays)
        assert not all(room.stays)
        assert room.host_bytes
        state = search(model, batches, way, room)
        assert gpu.peak[0] <= gpu.capacity
        assert not gpu.shortages
    assert asdict(state) == asdict(on_cpu)


def test_gradients_wait_twice_a_batch(given: Given, gpu: Pretend) -> None:
    """Once to see that the loss is a number, once to read the estimates; and once at the end."""
    model, _, batches = load("cuda", *given, is_moved=True)
    gpu.waits.clear()
    measure_taylor(model, find_layers(model), batches, lambda *_: None)
    own = list_own(gpu.waits)
    # The backward pass of what the model indexes by a mask waits, in our line that asks for it.
    assert sum(count for place, count in own.items() if "index by mask" not in place) == 2 * len(batches) + 1


def test_similarity_waits_twice_a_batch(given: Given, gpu: Pretend) -> None:
    model, batcher, _ = load("cuda", *given)
    samples = load_split(given[1], "calibration")[:SAMPLES]
    gpu.waits.clear()
    layers = find_layers(model)
    measure_rows(model, layers, "language", batcher, samples, BATCH, "prompt", lambda *_: None, print)
    places = {
        place: count for place, count in list_own(gpu.waits).items() if "rows.py" in place or "similarity.py" in place
    }
    assert set(places.values()) == {2}, "each once a batch"
    assert len(places) == 2


def test_a_compensation_waits_a_few_times_a_gap(given: Given, gpu: Pretend) -> None:
    model, _, batches = load("cuda", *given, is_moved=True)
    gpu.waits.clear()
    compensate(model, find_layers(model), [3, 5], batches, lambda *_: None, Way.DIRECT)
    own = list_own(gpu.waits)
    # A batch's rows; of each gap its map, three sums that must be numbers, and all losses at once.
    assert sum(own.values()) <= len(batches) + 2 * 5
    assert sum(own.values()) < 2 * len(RIDGES) * len(batches)


def test_wanda_waits_once_a_batch(given: Given, gpu: Pretend) -> None:
    model, _, batches = load("cuda", *given, is_moved=True)
    inputs = [{name: batch[name] for name in batch if name not in ("labels", "logits_to_keep")} for batch in batches]
    gpu.waits.clear()
    prune_by_wanda(model, find_layers(model), inputs, Pattern.parse("2:4"), lambda *_: None, Way.DIRECT)
    assert sum(list_own(gpu.waits).values()) == len(batches)
    assert not list_own(gpu.pageable)
