"""Samples that stay on disk: they are those of the files, and what is asked of many of them is what each says."""

from __future__ import annotations

import gc
import json
import pickle
import random
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from generated_samples import build_samples
from making import make_dataset
from old_datasets import write_old_dataset
from PIL import Image

from interlace_cli.data.batches import order_by_length
from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.healing.recipe import Recipe
from interlace_cli.healing.step_plan import StepPlan, share_steps
from interlace_cli.io import open_index, sample_reader
from interlace_cli.io.datasets import find_files, list_image_headers, load_images, load_split, open_reader
from interlace_cli.io.file_index import load_file_index
from interlace_cli.io.sample_index import DTYPES, INDEX, Repeats, SampleIndex, write_index
from interlace_cli.io.sample_keys import build_keys, find_seen
from interlace_cli.io.sample_reader import SampleReader
from interlace_cli.io.sample_tables import SampleWriter, read_file_index
from interlace_cli.io.samples import Samples, choose, find_pictured, measure_texts

ROWS = 120


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, list[Sample], dict[str, bytes]]:
    """Samples in an order of their own, of several row groups; the same as a list; and their images."""
    folder, rows = tmp_path_factory.mktemp("made"), build_samples(ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interlace_cli.io.sample_tables.GROUP_BYTES", 30_000)
        writer = SampleWriter(folder / "data", "part")
        for row in rows:
            writer.add(*row)
        paths = writer.close()
    order = np.array(random.Random(1).sample(range(ROWS), ROWS - 20))
    named = zip([path.name for path in paths], writer.indexes, strict=True)
    write_index(folder / INDEX, named, {"train": order}, Repeats(np.array([4, 7]), np.array([2, 3], np.uint32)))
    index = SampleIndex(folder / INDEX, folder / "data")
    again = {4: "s4#2", 7: "s7#3"}
    wanted = [rows[i][0].model_copy(update={"id": again.get(i, rows[i][0].id)}) for i in order.tolist()]
    images = {name: data for _, own in rows for name, data in own.items()}
    return Samples(SampleReader(index), index.splits["train"]), wanted, images


def test_they_are_a_sequence_of_the_samples(made: tuple) -> None:
    samples, wanted, _ = made
    assert len(samples) == len(wanted)
    assert list(samples) == wanted
    assert samples == wanted
    assert wanted == samples
    assert samples != wanted[:-1]
    assert samples != wanted[::-1]
    for cut in (slice(3, 40), slice(None, None, -7), slice(90, 5), slice(-3, None)):
        assert isinstance(samples[cut], Samples)
        assert list(samples[cut]) == wanted[cut]
    assert [samples[-1], samples[5:][2]] == [wanted[-1], wanted[7]]
    with pytest.raises(IndexError):
        samples[len(wanted)]


@pytest.mark.parametrize("form", ["on disk", "in memory"])
def test_what_is_asked_of_many_is_what_each_says(form: str, made: tuple) -> None:
    wanted = made[1]
    samples = made[0] if form == "on disk" else wanted
    assert find_pictured(samples).tolist() == [bool(sample.image) for sample in wanted]
    texts = [sum(len(turn.value) for turn in sample.conversations) for sample in wanted]
    assert measure_texts(samples).tolist() == texts
    assert order_by_length(samples) == sorted(range(len(wanted)), key=lambda index: -texts[index])
    assert build_keys(samples).tolist() == build_keys(wanted).tolist()
    assert list(choose(samples, np.array([5, 2, 9]))) == [wanted[5], wanted[2], wanted[9]]
    is_chosen = np.arange(len(wanted)) % 3 == 1
    assert list(choose(samples, is_chosen)) == wanted[1::3]
    keys = build_keys(wanted[10:13])
    shown = {name for sample in wanted[10:13] for name in sample.image}
    seen = [i for i, sample in enumerate(wanted) if i in (10, 11, 12) or shown & set(sample.image)]
    assert find_seen(keys, samples) == seen


def test_each_image_is_its_own_bytes_and_no_more_is_read(made: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _, images = made
    read, pread = [], sample_reader.os.pread
    monkeypatch.setattr(sample_reader.os, "pread", lambda handle, n, at: read.append(n) or pread(handle, n, at))
    for name, data in images.items():
        assert samples.reader.load_image(name) == data
    assert sum(read) == sum(map(len, images.values()))
    name, data = max(images.items(), key=lambda item: len(item[1]))
    with samples.reader.open_image(name) as file:
        assert file.read(5) == data[:5]
        assert (file.seek(-7, 2), file.read()) == (len(data) - 7, data[-7:])
        assert (file.seek(3), file.read(4), file.tell()) == (3, data[3:7], 7)
        assert (file.seek(len(data) + 5), file.read(1)) == (len(data) + 5, b"")
    with pytest.raises(DatasetError, match="has no image"):
        samples.reader.load_image("0" * 32 + ".png")


def test_threads_read_the_same(made: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, wanted, images = made
    monkeypatch.setattr(sample_reader, "GROUPS", 2)
    monkeypatch.setattr(sample_reader, "FILES", 1)
    reader = SampleReader(samples.reader.index)
    order = random.Random(2).choices(range(len(wanted)), k=400)

    def read(index: int) -> tuple[Sample, list[bytes]]:
        sample = reader.read(int(samples.rows[index]))
        return sample, [reader.load_image(name) for name in sample.image]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, order))
    assert found == [(wanted[index], [images[name] for name in wanted[index].image]) for index in order]


def test_pickled_they_are_a_place_and_rows(made: tuple) -> None:
    samples, wanted, _ = made
    data = pickle.dumps(samples[:10])
    assert len(data) < 1000
    assert pickle.loads(data) == wanted[:10]


def test_what_was_changed_is_noticed_when_it_is_read(made: tuple, tmp_path: Path) -> None:
    index = made[0].reader.index
    shutil.copytree(index.folder.parent, tmp_path / "copy")
    (path,) = (tmp_path / "copy/data").iterdir()
    data = bytearray(path.read_bytes())
    name, image = max(made[2].items(), key=lambda item: len(item[1]))
    data[bytes(data).index(image) + 9] ^= 1
    path.write_bytes(data)
    digests = bytearray((tmp_path / "copy" / INDEX / "digests.bin").read_bytes())
    digests[16 * 3 + 2] ^= 1
    (tmp_path / "copy" / INDEX / "digests.bin").write_bytes(digests)
    reader = SampleReader(SampleIndex(tmp_path / "copy" / INDEX, tmp_path / "copy/data"))
    assert reader.index.find_changed() is None
    with pytest.raises(DatasetError, match=f"image {name} in .* is not what it was"):
        reader.load_image(name)
    assert reader.read(2).id == "s2"
    with pytest.raises(DatasetError, match=r"sample s3 in .* is not what it was"):
        reader.read(3)
    path.unlink()
    with pytest.raises(DatasetError, match="is missing or broken"):
        SampleReader(reader.index).read(2)


def test_an_index_is_made_once_and_again_where_it_is_not_whole(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_old_dataset(small_dataset, tmp_path / "dataset")
    rows = [row for path in find_files(folder, "train") for row in pq.read_table(path).to_pylist()]
    made, read_file_index = [], open_index.read_file_index
    monkeypatch.setattr(
        open_index, "read_file_index", lambda path, see: made.append(path) or read_file_index(path, see)
    )

    def load() -> list[tuple[str, list[str]]]:
        made.clear()
        sample_reader_cache()
        return [(sample.id, [turn.value for turn in sample.conversations]) for sample in load_split(folder, "train")]

    wanted = [(row["id"], [turn["value"] for turn in row["conversations"]]) for row in rows]
    assert (load(), bool(made)) == (wanted, True)
    assert (load(), bool(made)) == (wanted, False)
    (folder / INDEX / "keys.bin").unlink()
    assert (load(), bool(made)) == (wanted, True)
    assert (load(), bool(made)) == (wanted, False)
    # The same samples, written by another program: another footer.
    (path,) = find_files(folder, "train")
    table = pq.ParquetFile(path, read_dictionary=["images.list.element.bytes"]).read()
    options = {"use_dictionary": ["images.list.element.bytes"], "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(table, path, compression="none", **options)
    assert (load(), bool(made)) == (wanted, True)
    assert not [path for path in folder.iterdir() if path.name.startswith(f".{INDEX}")]


def sample_reader_cache() -> None:
    """As another process would."""
    from interlace_cli.io.datasets import _open_reader

    _open_reader.cache_clear()


def test_a_folder_that_may_not_be_written_to_has_an_index_elsewhere(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_old_dataset(small_dataset, tmp_path / "dataset")
    monkeypatch.setattr(open_index, "name_scratch", lambda path: Path("/proc/no such folder"))
    assert load_split(folder, "train") == load_split(small_dataset, "train")
    assert not (folder / INDEX).exists()
    elsewhere = open_reader(folder).index.folder
    assert elsewhere.exists()
    sample_reader_cache()
    gc.collect()
    assert not elsewhere.exists()


def test_a_picture_is_asked_for_its_size_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)
    records = []
    for number in range(4):
        suffix = "jpg" if number == 3 else "png"
        Image.fromarray(noise ^ np.uint8(number)).save(tmp_path / f"{number}.{suffix}", quality=100)
        records.append({"image": f"{number}.{suffix}", "conversations": [{"from": "human", "value": "What?"}]})
        records[-1]["conversations"].append({"from": "gpt", "value": str(number)})
    (tmp_path / "records.json").write_text(json.dumps(records))
    make_dataset(str(tmp_path / "records.json"), tmp_path / "out", holdout=0.0, calibration=0.0)
    samples = load_split(tmp_path / "out", "train")
    read, pread = [], sample_reader.os.pread
    monkeypatch.setattr(sample_reader.os, "pread", lambda handle, n, at: read.append(n) or pread(handle, n, at))
    for sample in samples:
        ((_, width, height, _),) = list_image_headers(tmp_path / "out", sample)
        assert (width, height) == (500, 600)
    header = sum(read)
    for sample in samples:
        (picture,) = load_images(tmp_path / "out", sample)
        is_same = np.array_equal(np.asarray(picture), noise ^ np.uint8(int(sample.answer)))
        assert is_same == (sample.answer != "3")
    assert header < (sum(read) - header) / 8


def test_steps_are_those_of_a_list_shuffled_whole() -> None:
    recipe = Recipe(seed=5, epochs=2.5, batch_size=7, grad_accum=1)
    plain: list[list[int]] = []
    for epoch in range(3):
        order = list(range(40))
        random.Random(f"5/{epoch}").shuffle(order)
        plain += [order[start : start + 7] for start in range(0, 40, 7)]
    plan = recipe.plan_steps(40)
    plain = plain[: len(plan)]
    assert len(plan) == recipe.count_steps(40)
    assert list(plan) == plain
    assert plan == plain
    assert list(plan[4:9]) == plain[4:9]
    assert plan[-1] == plain[-1]
    assert [list(step) for step in share_steps(plan, 1, 3)] == [step[1::3] for step in plain]
    assert [list(step) for step in share_steps(plan[2:], 0, 2)] == [step[::2] for step in plain[2:]]
    assert share_steps(plain, 1, 3) == [step[1::3] for step in plain]
    first = recipe.plan_steps(40)[:3]
    assert isinstance(first, StepPlan)
    assert np.flatnonzero(first.find_samples()).tolist() == sorted({index for step in plain[:3] for index in step})


def test_a_split_of_many_samples_takes_few_bytes_of_each(made: tuple, tmp_path: Path) -> None:
    """Rows may stand in a split any number of times: so few rows make a large one."""
    count, before = 100_000, made[0].reader.index
    (path,) = before.data.iterdir()
    shutil.copytree(before.data, tmp_path / "data")
    read_file_index(path).save(tmp_path / "own.npz")
    order = np.random.default_rng(0).permutation(count) % ROWS
    write_index(tmp_path / INDEX, [(path.name, load_file_index(tmp_path / "own.npz"))], {"train": order})
    del order
    tracemalloc.start()
    index = SampleIndex(tmp_path / INDEX, tmp_path / "data")
    samples = Samples(SampleReader(index), index.splits["train"])
    held = tracemalloc.get_traced_memory()[0]
    pictured = choose(samples, find_pictured(samples))
    plan = Recipe(seed=0, epochs=1.0, batch_size=16, grad_accum=1).plan_steps(len(pictured))
    first = [pictured[index] for index in plan[0]]
    keys = build_keys(choose(pictured, plan.find_samples()))
    texts = measure_texts(pictured)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200_000
    assert len(first) == 16
    assert len(texts) > count / 2
    assert len(keys)
    # What is asked for, as arrays: rows that were chosen, an order, and lengths, of eight bytes each.
    assert now < 40 * count
    assert peak < 150 * count


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", sorted(DTYPES))
def test_a_broken_array_is_an_error_and_never_another_sample(name: str, seed: int, made: tuple, tmp_path: Path) -> None:
    samples, wanted, images = made
    index, chance = samples.reader.index, random.Random(seed)
    shutil.copytree(index.folder, tmp_path / INDEX)
    path = tmp_path / INDEX / f"{name}.bin"
    data = bytearray(path.read_bytes())
    for _ in range(20):
        data[chance.randrange(len(data))] = chance.choice([0, 1, 127, 255])
    path.write_bytes(data)
    reader = SampleReader(SampleIndex(tmp_path / INDEX, index.data))
    for row, sample in zip(samples.rows.tolist(), wanted, strict=True):
        with suppress(DatasetError):
            # The numbers that make ids unique are no part of what a file says.
            assert reader.read(row).conversations == sample.conversations
        for image in sample.image:
            with suppress(DatasetError):
                assert reader.load_image(image) == images[image]
            with suppress(DatasetError), reader.open_image(image) as file:
                file.read()
