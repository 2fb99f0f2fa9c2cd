"""Splits of very many samples are decided in arrays: memory is some bytes of each."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from interlace_cli.data.joining import join_units
from interlace_cli.data.source import Selection, divide
from interlace_cli.data.staging import INDEXED, OUTLINE, Staged, StagedUnit
from interlace_cli.domain.dataset import SPLITS

BYTES = 600
"""At the highest of a sample, of which its id is 12: 396 were measured, and NumPy's sorting takes what it likes. A
sample as an object takes thousands."""
UNITS = 20


def write_units(folder: Path, samples: int) -> Staged:
    """As staging leaves them, of rows that are made up: every fourth shares its image with the one before it, and one
    of a hundred has the id of another."""
    chance, units = np.random.default_rng(0), []
    per_unit = samples // UNITS
    for unit in range(UNITS):
        number = np.arange(unit * per_unit, (unit + 1) * per_unit, dtype=np.uint64)
        own = np.where(number % 100 == 99, number - 50, number)
        ids = np.char.zfill(own.astype("S12"), 12)
        keys = np.where(number % 4 == 3, number - 1, number) * np.uint64(0x9E3779B97F4A7C15)
        name = f"unit-{unit:06d}"
        np.savez(folder / f"{name}{INDEXED}", shown_R=np.ones(per_unit, np.uint32), keys_K=keys)
        np.savez(
            folder / f"{name}{OUTLINE}",
            ids=np.frombuffer(ids.tobytes(), np.uint8),
            lengths=np.full(per_unit, 12, np.uint32),
            hashes=own * np.uint64(0xD1B54A32D192ED03),
            splits=np.zeros(per_unit, np.uint8),
            asked=np.ones(per_unit, bool),
            kinds=chance.integers(0, 2, per_unit).astype(np.uint32),
        )
        files = {f"{name}{suffix}": "" for suffix in (INDEXED, OUTLINE)}
        units.append(
            StagedUnit(
                records=per_unit,
                samples=per_unit,
                files=files,
                files_read="",
                draw="",
                kinds=["a", "b"],
                skipped={},
                skipped_records=[],
            )
        )
    return Staged(folder, units, [])


def test_millions_of_records_are_no_more_units_than_files_can_be() -> None:
    for records, units in ((0, 0), (1, 1), (256, 1), (257, 2), (4096 * 256, 4096), (4096 * 256 + 1, 4081)):
        found = divide("records", range(records))
        assert len(found) == units
        assert [index for unit in found for index in unit.content] == list(range(records))


@pytest.mark.parametrize("samples", [100_000, pytest.param(10_000_000, marks=pytest.mark.soak)])
def test_memory_of_a_join_is_some_bytes_of_each_sample(samples: int, tmp_path: Path) -> None:
    staged = write_units(tmp_path, samples)
    tracemalloc.start()
    start = time.perf_counter()
    joined = join_units(staged, Selection())
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{samples:,} samples: {seconds:.0f} s, {peak / samples:.0f} bytes of each at the highest")
    assert peak < BYTES * samples
    rows = np.concatenate([joined.splits[split] for split in SPLITS])
    assert np.array_equal(np.sort(rows), np.arange(samples))
    assert len(joined.splits["heldout"]) == pytest.approx(samples / 10, rel=0.05)
    assert joined.repeats.rows.tolist() == list(range(99, samples, 100))
    assert set(joined.repeats.numbers.tolist()) == {2}
    assert sum(joined.kinds.values()) == samples
    split_of = np.empty(samples, np.uint8)
    for code, split in enumerate(SPLITS):
        split_of[joined.splits[split]] = code
    assert np.array_equal(split_of[2::4], split_of[3::4]), "an image is in two splits"
