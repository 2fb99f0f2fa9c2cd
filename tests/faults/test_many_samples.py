"""Ten million samples: memory stays flat, and a sample takes as long to read as among a hundred thousand."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from generated_samples import build_samples

from interlace_cli.healing.recipe import Recipe
from interlace_cli.io.sample_index import INDEX, SampleIndex, write_index
from interlace_cli.io.sample_keys import build_keys
from interlace_cli.io.sample_reader import SampleReader
from interlace_cli.io.sample_tables import SampleWriter
from interlace_cli.io.samples import Samples, choose, find_pictured, measure_texts

ROWS = 2000
"""Rows of a file. All files are links to one."""
READ = 500
pytestmark = pytest.mark.soak


def read_memory() -> int:
    """Bytes that are this process's own: what is mapped from files is not among them."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) << 10


def make(folder: Path, count: int) -> Samples:
    """`count` samples in a shuffled order; in the index, each file has images of its own."""
    writer, chance = SampleWriter(folder, "one"), np.random.default_rng(0)
    for row in build_samples(ROWS):
        writer.add(*row)
    (path,), (index,) = writer.close(), writer.indexes
    (folder / "data").mkdir()

    def link(number: int) -> tuple[str, object]:
        name = f"part-{number:05d}.parquet"
        os.link(path, folder / "data" / name)
        own = np.frombuffer(chance.bytes(16 * len(index.stored_D)), "S16")
        return name, replace(index, stored_D=own if number else index.stored_D)

    files = (link(number) for number in range(count // ROWS))
    write_index(folder / INDEX, files, {"train": chance.permutation(count)})
    found = SampleIndex(folder / INDEX, folder / "data")
    return Samples(SampleReader(found), found.splits["train"])


@pytest.mark.parametrize("count", [100_000, 10_000_000])
def test_memory_and_time_for_each_sample(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.perf_counter()
    samples = make(tmp_path, count)
    made = time.perf_counter() - begun
    before, begun = read_memory(), time.perf_counter()
    assert SampleIndex(samples.reader.index.folder, samples.reader.index.data).find_changed() is None
    opened = time.perf_counter() - begun
    chance = random.Random(0)
    asked = [chance.randrange(count) for _ in range(READ)]
    begun = time.perf_counter()
    found = [samples[index] for index in asked]
    each = (time.perf_counter() - begun) / READ
    own = read_memory() - before
    rows = np.asarray(samples.rows[asked])
    assert [sample.id for sample in found] == [f"s{row % ROWS}" for row in rows.tolist()]
    # Of an image that several files have the first counts: the first file's can be read.
    name = next(name for sample in samples[:100] for name in sample.image)
    assert samples.reader.load_image(name)
    assert own < 100 << 20
    # What a rank keeps of a run of one epoch: the samples that were chosen, and an order of them.
    pictured = choose(samples, find_pictured(samples))
    plan = Recipe(seed=0, epochs=1.0, batch_size=32, grad_accum=1).plan_steps(len(pictured))
    assert len(plan[0]) == 32
    assert read_memory() - before < (100 << 20) + 40 * count
    assert len(measure_texts(pictured)) == len(pictured)
    assert len(build_keys(samples)) <= 3 * ROWS
    with capsys.disabled():
        print(
            f"\n{count:,} samples: index made in {made:.1f} s, opened and compared in {opened:.2f} s,"
            f" {each * 1e3:.2f} ms a sample in a shuffled order, {own >> 20} MiB more after {READ} of them"
        )
