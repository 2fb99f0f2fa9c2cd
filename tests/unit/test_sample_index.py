"""The index of a dataset, against the files themselves read whole."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from generated_samples import build_samples

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.io.file_index import FileIndex, load_file_index
from interlace_cli.io.sample_index import Repeats, SampleIndex, sort_names, take_ranges, write_index
from interlace_cli.io.sample_lines import digest_line, list_keys, to_line
from interlace_cli.io.sample_tables import SampleWriter, read_file_index

ROWS = 90


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FileIndex], list[tuple[Sample, dict]]]:
    """Two files of several row groups."""
    folder, rows, indexes = tmp_path_factory.mktemp("data"), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interlace_cli.io.sample_tables.GROUP_BYTES", 20_000)
        for name in ("a", "b"):
            own = build_samples(ROWS, seed=len(rows))
            writer = SampleWriter(folder, name)
            for row in own:
                writer.add(*row)
            writer.close()
            rows, indexes = rows + own, indexes + writer.indexes
    assert all(pq.read_metadata(path).num_row_groups > 3 for path in folder.iterdir())
    return folder, indexes, rows


def write(folder: Path, written: tuple[Path, list[FileIndex], list], **others: object) -> SampleIndex:
    data, indexes, rows = written
    names = sorted(path.name for path in data.iterdir())
    splits = {"train": np.arange(len(rows) - 1, 9, -1), "calibration": np.arange(10), "heldout": np.zeros(0, np.int64)}
    write_index(folder / ".index", zip(names, indexes, strict=True), splits, **others)
    return SampleIndex(folder / ".index", data)


def test_what_the_writer_knows_is_what_the_files_say(written: tuple, tmp_path: Path) -> None:
    folder, indexes, _ = written
    for path, index in zip(sorted(folder.iterdir()), indexes, strict=True):
        read = read_file_index(path)
        index.save(tmp_path / "own.npz")
        for other in (read, load_file_index(tmp_path / "own.npz")):
            for name, value in vars(index).items():
                assert np.array_equal(getattr(other, name), value), name


def test_each_image_and_each_row_is_where_the_index_says(written: tuple, tmp_path: Path) -> None:
    index, (folder, _, rows) = write(tmp_path, written), written
    everything = [row for path in sorted(folder.iterdir()) for row in pq.read_table(path).to_pylist()]
    assert [(row["id"], row["conversations"]) for row in everything] == [
        (sample.id, sample.model_dump(by_alias=True)["conversations"]) for sample, _ in rows
    ]
    for number, (sample, images) in enumerate(rows):
        path, group, row = index.locate(number)
        table = pq.ParquetFile(path).read_row_group(group, columns=["id"])
        assert table["id"][row].as_py() == sample.id
        assert index.arrays["digests"][number] == digest_line(to_line(sample)).rstrip(b"\0")
        assert index.arrays["shown"][number] == len(sample.image)
        assert index.arrays["characters"][number] == sum(len(turn.value) for turn in sample.conversations)
        own = take_ranges(index.arrays["keys"], index.arrays["key_ends"], np.array([number]))
        assert own.tolist() == list_keys(sample)
        for name, data in images.items():
            place, offset, length = index.find_image(name)
            assert place.read_bytes()[offset : offset + length] == data
    assert len(index.arrays["names"]) == len({name for sample, _ in rows for name in sample.image})
    assert index.find_image("f" * 32 + ".png") is None
    assert index.find_image("no name") is None


def test_the_facts_of_a_split_are_those_of_its_samples(written: tuple, tmp_path: Path) -> None:
    index, rows = write(tmp_path, written), written[2]
    for split, samples in {"train": rows[:9:-1], "calibration": rows[:10], "heldout": []}.items():
        facts = index.facts.splits[split]
        images = {name for sample, _ in samples for name in sample.image}
        assert (facts.samples, facts.images) == (len(samples), len(images))
    repeats = Repeats(np.array([3, 12]), np.array([2, 5], np.uint32))
    other = write(tmp_path / "other", written, repeats=repeats)
    assert [other.find_repeat(row) for row in (2, 3, 4, 12, 179)] == [0, 2, 0, 5, 0]
    assert [index.find_repeat(row) for row in (3, 12)] == [0, 0]
    found = {split: facts.sha256 for split, facts in other.facts.splits.items()}
    before = {split: facts.sha256 for split, facts in index.facts.splits.items()}
    assert {split for split in found if found[split] != before[split]} == {"train", "calibration"}


def test_a_pickled_index_is_two_paths(written: tuple, tmp_path: Path) -> None:
    index = write(tmp_path, written)
    data = pickle.dumps(index)
    assert len(data) < 500
    assert pickle.loads(data).locate(100) == index.locate(100)


def test_changed_files_and_a_broken_index_are_seen(written: tuple, tmp_path: Path) -> None:
    index, folder = write(tmp_path, written), written[0]
    assert index.find_changed() is None
    (tmp_path / "data").mkdir()
    for path in folder.iterdir():
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    moved = SampleIndex(index.folder, tmp_path / "data")
    assert moved.find_changed() is None
    last = sorted(folder.iterdir())[-1].name
    with (tmp_path / "data" / last).open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"x")
    assert moved.find_changed() == last
    index.check_splits()
    rows = index.folder / "split-train.bin"
    whole = rows.read_bytes()
    rows.write_bytes(whole[8:] + whole[:8])
    with pytest.raises(DatasetError, match="is broken"):
        SampleIndex(index.folder, folder).check_splits()
    array = index.folder / "keys.bin"
    array.write_bytes(array.read_bytes()[:-8])
    with pytest.raises(DatasetError, match="is broken"):
        SampleIndex(index.folder, folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 2}'])
def test_an_index_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DatasetError, match="is broken"):
        SampleIndex(tmp_path, tmp_path)


def test_names_are_put_in_the_order_of_their_bytes() -> None:
    chance = random.Random(0)
    # Zeros at the end, halves that are equal, the highest bytes.
    parts = [b"\0" * 8, b"\xff" * 8, b"a" * 8, b"a" * 7 + b"\0", *(chance.randbytes(8) for _ in range(8))]
    names = [chance.choice(parts) + chance.choice(parts) for _ in range(300)]
    order = sort_names(np.frombuffer(b"".join(names), "S16"))
    assert order.tolist() == sorted(range(300), key=lambda index: (names[index], index))
