"""Data in: what is read, what is refused and how it is said, and that splits share no image."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import make_dataset
from old_datasets import write_old_dataset
from PIL import Image
from split_samples import Shown, split_samples

from interlace_cli.core.prepare import ORIGIN
from interlace_cli.data.columns import NO_TALK
from interlace_cli.data.files_read import FILES_READ
from interlace_cli.data.source import Selection
from interlace_cli.data.splitting import LEAST_SPLIT, describe_small
from interlace_cli.demo.questions import KINDS
from interlace_cli.demo.world import CELL, COLORS, MAX_VALUE, SIZE, Bar, Chart, Digit, Number, draw, is_heldout
from interlace_cli.domain.dataset import SPLITS, Manifest, Sample
from interlace_cli.errors import DatasetError, ExistsError
from interlace_cli.io.datasets import _open_reader, find_files, load_images, load_manifest, load_split
from interlace_cli.io.files import hash_bytes
from interlace_cli.io.sample_index import INDEX

TALK = [{"from": "human", "value": "<image>\nWhat color?"}, {"from": "gpt", "value": "red"}]
PLAIN = [{"from": "human", "value": "What color?"}, {"from": "gpt", "value": "red"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures, one that breaks off, a way out of the folder, and a picture outside of it."""
    (tmp_path / "in").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"in/{i}.png")
    (tmp_path / "in/broken.png").write_bytes((tmp_path / "in/0.png").read_bytes()[:40])
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (tmp_path / "in/link.png").symlink_to(tmp_path / "outside.png")
    return tmp_path / "in"


def prepare(folder: Path, records: Any, out: str = "out", name: str = "data.json", **options: Any) -> Manifest:
    (folder / name).write_text(records if isinstance(records, str) else json.dumps(records))
    return make_dataset(folder / name, folder / out, **options)


def samples(folder: Path) -> dict[str, list[Sample]]:
    """Of each split that has any."""
    manifest = load_manifest(folder)
    return {split: load_split(folder, split) for split in SPLITS if manifest.splits[split].samples}


def every_sample(folder: Path) -> list[Sample]:
    return [sample for split in samples(folder).values() for sample in split]


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files but the two that hold times, inodes, and where the source lay on this machine: the same content
    read again has others; and without the index, which who reads the dataset makes."""
    own = (path for path in folder.rglob("*") if INDEX not in path.parts)
    files = (path for path in own if path.is_file() and path.name not in (FILES_READ, ORIGIN))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def twelve(**more: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "image": f"{i}.png", "conversations": TALK, **more} for i in range(12)]


@pytest.mark.parametrize(
    "form", ["json", "jsonl", "jsonl with gaps", "byte order mark", "lists of images", "other words"]
)
def test_every_form_gives_the_same_samples(form: str, folder: Path) -> None:
    records = twelve(kind="color")
    if form == "lists of images":
        records = [{**record, "image": [record["image"]]} for record in records]
    if form == "other words":
        talk = [{"from": "user", "value": TALK[0]["value"]}, {"from": "assistant", "value": "red"}]
        records = [{**record, "images": record.pop("image"), "conversations": talk} for record in records]
    gap = {"jsonl": "\n", "jsonl with gaps": "\r\n \n", "byte order mark": "\n"}.get(form)
    mark = "\ufeff" if form == "byte order mark" else ""
    manifest = prepare(folder, records if gap is None else mark + gap.join(map(json.dumps, records)))
    assert [manifest.splits[split].samples for split in SPLITS] == [10, 1, 1]
    assert [manifest.splits[split].images for split in SPLITS] == [10, 1, 1]
    assert (manifest.kinds, manifest.skipped, manifest.skipped_records) == ({"color": 12}, {}, [])
    found = every_sample(folder / "out")
    assert sorted(sample.id for sample in found) == sorted(f"r{i}" for i in range(12))
    for sample in found:
        assert (sample.question, sample.answer, sample.source) == ("What color?", "red", "data.json")
        assert load_images(folder / "out", sample)[0].getpixel((0, 0)) == (int(sample.id[1:]), 0, 0)


def test_system_turns_many_images_many_turns_and_no_image(folder: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    marked = [{"from": "human", "value": "<image><image>Left <image>or right?\n<image>"}, TALK[1]]
    records = [
        {"image": ["0.png", "1.png", "3.png", "4.png"], "conversations": [system, *marked]},
        {"image": None, "conversations": PLAIN},
        {"image": "2.png", "conversations": TALK + PLAIN * 2},
    ]
    prepare(folder, records)
    found = {len(sample.image): sample for sample in every_sample(folder / "out")}
    turns = [(turn.speaker, turn.value) for turn in found[4].conversations]
    asked = "<image>\n<image>\nLeft <image>or right?\n<image>"
    assert turns == [("system", "Be brief."), ("human", asked), ("gpt", "red")]
    assert [image.getpixel((0, 0))[0] for image in load_images(folder / "out", found[4])] == [0, 1, 3, 4]
    assert [turn.value for turn in found[1].conversations] == ["What color?", "red"] * 3
    assert [turn.speaker for turn in found[1].conversations] == ["human", "gpt"] * 3
    assert found[0].question == "What color?"


def said(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"image": "0.png", "conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


UNUSABLE = [
    ("not an object", "not an object"),
    ({"image": 3, "conversations": TALK}, "an image is neither bytes nor a path"),
    ({"image": ["0.png", 1], "conversations": PLAIN}, "an image is neither bytes nor a path"),
    ({"image": "none.png", "conversations": TALK}, "image file is missing"),
    ({"image": "", "conversations": TALK}, "<image> in the text of a record without images"),
    ({"image": "0\0.png", "conversations": TALK}, "image file cannot be read"),
    ({"image": "../outside.png", "conversations": TALK}, "image path leads out of the folder"),
    ({"image": "/etc/hostname", "conversations": TALK}, "image path leads out of the folder"),
    ({"image": "link.png", "conversations": TALK}, "image path leads out of the folder"),
    ({"image": "broken.png", "conversations": TALK}, "image does not open"),
    ({"image": ["0.png", "data.json"], "conversations": PLAIN}, "image does not open"),
    ({"image": ["0.png", "1.png"], "conversations": TALK}, "1 <image> mark, 2 images"),
    ({"image": "0.png", "conversations": TALK * 2}, "2 <image> marks, 1 image"),
    ({"conversations": TALK}, "<image> in the text of a record without images"),
    (said(("human", "x"), ("gpt", "<image>")), "<image> in a system turn or an answer"),
    ({"image": "0.png"}, NO_TALK),
    ({"image": "0.png", "conversations": []}, "field conversations is missing or empty"),
    ({"image": "0.png", "conversations": ["hello"]}, "a turn is not an object"),
    (said(("robot", "x"), ("gpt", "y")), "a turn is of robot, and not of user, assistant or system"),
    (said(("human", "x"), ("gpt", " \n")), "a turn has no text"),
    ({"conversations": [TALK[0], {"from": "gpt"}]}, "a turn has no text"),
    (said(("human", "x")), "turns do not alternate, human first"),
    (said(("system", "s"), ("gpt", "x"), ("human", "y")), "turns do not alternate, human first"),
    (said(("human", "x"), ("gpt", "y"), ("gpt", "z")), "turns do not alternate, human first"),
    (said(("human", "x"), ("gpt", "y"), ("system", "z")), "a system turn is not the first"),
    ({**said(("human", "x"), ("gpt", "y")), "kind": 3}, "field kind is not text"),
    (said(("human", " "), ("gpt", "y")), "a turn has no text"),
]


def test_a_record_of_no_use_is_listed_with_its_place_and_counted_by_its_reason(folder: Path) -> None:
    manifest = prepare(folder, [*(record for record, _ in UNUSABLE), {"image": "1.png", "conversations": TALK}])
    assert [(item.record, item.reason) for item in manifest.skipped_records] == [
        (f"record {place}", reason) for place, (_, reason) in enumerate(UNUSABLE)
    ]
    reasons = [reason for _, reason in UNUSABLE]
    assert manifest.skipped == {reason: reasons.count(reason) for reason in reasons}
    assert [sample.id for sample in every_sample(folder / "out")] == [f"record {len(UNUSABLE)}"]
    assert load_manifest(folder / "out") == manifest


def test_a_line_that_is_not_json_is_named_by_its_number(folder: Path) -> None:
    good = json.dumps({"image": "1.png", "conversations": TALK})
    manifest = prepare(folder, f"{good}\n\n{{broken\n{good}\n", name="data.jsonl")
    assert [(item.record, item.reason) for item in manifest.skipped_records] == [("line 3", "line is not JSON")]
    assert sorted(sample.id for sample in every_sample(folder / "out")) == ["line 1", "line 4"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no record that can be used; it is empty"),
        ("[]", "no record that can be used; it is empty"),
        ("[{}, {}, 1]", f"the most frequent reason is: {NO_TALK}"),
        ("{broken", "the most frequent reason is: line is not JSON"),
        ("[1, 2", "begins like a JSON list and is broken"),
    ],
)
def test_a_file_without_a_usable_record_leaves_nothing(text: str, sentence: str, folder: Path) -> None:
    before = set(folder.iterdir())
    with pytest.raises(DatasetError, match=sentence):
        prepare(folder, text)
    assert set(folder.iterdir()) - before == {folder / "data.json"}


def test_images_are_looked_for_under_image_root(folder: Path) -> None:
    (folder.parent / "data.json").write_text(json.dumps(twelve()))
    source = folder.parent / "data.json"
    assert make_dataset(source, folder / "out", image_root=folder).skipped == {}
    with pytest.raises(DatasetError, match="image file is missing"):
        make_dataset(source, folder / "none")


def test_one_id_used_twice_stays_two_samples(folder: Path) -> None:
    prepare(folder, [{**record, "id": name} for record, name in zip(twelve(), ["x", "x#2", "x", "x"], strict=False)])
    assert sorted(sample.id for sample in every_sample(folder / "out")) == ["x", "x#2", "x#3", "x#4"]


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_split(folder: Path) -> None:
    for out, seed in {"a": 0, "b": 0, "c": 1}.items():
        prepare(folder, twelve(), out=out, holdout=0.3, calibration=0.3, seed=seed)
    assert contents(folder / "a") == contents(folder / "b")
    assert {path.name for path in (folder / "a").iterdir()} == {"manifest.json", "data", INDEX, FILES_READ, ORIGIN}
    homes = [{s.id: split for split, found in samples(folder / out).items() for s in found} for out in "ac"]
    assert homes[0].keys() == homes[1].keys()
    assert homes[0] != homes[1]


@pytest.mark.parametrize(
    ("portion", "most", "count"),
    [(0.5, None, 6), (0.3, None, 4), (1.0, 5, 5), (1.0, 99, 12), (0.5, 2, 2), (0.1, 8, 1)],
)
def test_portion_and_max_samples_count_and_the_seed_chooses(
    portion: float, most: int | None, count: int, folder: Path
) -> None:
    chosen = []
    for seed in range(6):
        prepare(folder, twelve(), out=f"out{seed}", portion=portion, max_samples=most, seed=seed)
        chosen.append(tuple(sorted(sample.id for sample in every_sample(folder / f"out{seed}"))))
    assert {len(set(ids)) for ids in chosen} == {count}
    assert (len(set(chosen)) > 1) == (count < 12)


def make_samples(images: list[list[str]]) -> list[Shown]:
    return [(str(i), names) for i, names in enumerate(images)]


pictures = st.lists(st.lists(st.sampled_from("abcdefghijklmnop"), max_size=3, unique=True), min_size=1, max_size=25)
shares = st.sampled_from([0.0, 0.1, 0.3])


@settings(deadline=None, max_examples=300)
@given(images=pictures, seed=st.integers(0, 99), holdout=shares, calibration=shares)
def test_samples_that_share_an_image_even_through_others_share_a_split(
    images: list[list[str]], seed: int, holdout: float, calibration: float
) -> None:
    made, selection = make_samples(images), Selection(seed=seed, holdout=holdout, calibration=calibration)
    wanted = (holdout > 0) + (calibration > 0)
    if len(made) >= LEAST_SPLIT and count_groups(images) <= wanted:
        with pytest.raises(DatasetError, match="split would be empty"):
            split_samples(made, selection)
        return
    splits = split_samples(made, selection)
    assert sorted(splits) == sorted(name for name, _ in made)
    assert set(splits.values()) <= set(SPLITS)
    homes = {(image, splits[name]) for name, images in made for image in images}
    assert len(homes) == len({image for image, _ in homes}), "an image is in two splits"
    assert holdout or "heldout" not in splits.values()
    assert calibration or "calibration" not in splits.values()
    if len(made) >= LEAST_SPLIT:
        assert ("heldout" in splits.values(), "calibration" in splits.values()) == (holdout > 0, calibration > 0)
    assert split_samples(made[::-1], selection) == splits, "the order of the samples matters"


def count_groups(images: list[list[str]]) -> int:
    """Of samples that share images, directly or through others: by joining sets until none have anything in common."""
    groups = [{index, *names} for index, names in enumerate(images)]
    while pair := next(((a, b) for a, b in combinations(groups, 2) if a & b), None):
        groups = [group for group in groups if group not in pair] + [pair[0] | pair[1]]
    return len(groups)


def test_the_same_records_have_the_same_splits_whatever_their_images_are_stored_as() -> None:
    images = [[f"{i // 2}.png"] for i in range(80)]
    others = [[f"x{hash_bytes(name.encode())}.jpeg" for name in names] for names in images]
    for seed in range(5):
        selection = Selection(seed=seed)
        assert split_samples(make_samples(images), selection) == split_samples(make_samples(others), selection)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "the held-out split would be empty"),
        ({"holdout": 0.0}, "the calibration split would be empty"),
        ({"calibration": 0.0}, "the held-out split would be empty"),
    ],
    ids=["both", "calibration", "held-out"],
)
def test_records_that_all_have_one_picture_cannot_be_split(folder: Path, options: dict[str, float], names: str) -> None:
    records = [{"image": "1.png", "conversations": PLAIN} for _ in range(9)]
    with pytest.raises(DatasetError, match=f"{names}: .* the 9 samples are one group"):
        prepare(folder, records, **options)
    assert not (folder / "out").exists()
    assert prepare(folder, records, holdout=0.0, calibration=0.0).splits["train"].samples == 9
    assert prepare(folder, records, out="all", holdout=1.0).splits["heldout"].samples == 9


def test_splits_of_a_handful_are_said_once_and_stay_in_the_manifest(folder: Path) -> None:
    records = [{"image": f"{i % 10}.png", "conversations": PLAIN} for i in range(10)]
    manifest = prepare(folder, records, holdout=0.5, calibration=0.4)
    assert manifest.splits["heldout"].samples == 5
    heldout, calibration = manifest.notes
    # The half width of a 95 % interval of a share of 1/2 over five: 1.96 * sqrt(0.25 / 5).
    assert heldout.startswith("Only 5 held-out samples: a score over them is uncertain by up to 44 points.")
    assert calibration.startswith("Only 2 calibration samples")
    assert prepare(folder, records, out="none", holdout=0.0, calibration=0.0).notes == []
    assert describe_small({"heldout": 30, "calibration": 16}, Selection()) == []
    few = prepare(folder, records[:1], out="few")
    why = "there are too few records to split."
    assert few.notes == [f"No held-out samples: {why}", f"No calibration samples: {why}"]


@given(st.integers(3, 60), st.integers(0, 9))
def test_with_three_groups_no_split_is_empty(groups: int, seed: int) -> None:
    splits = split_samples(make_samples([[str(i)] for i in range(groups)]), Selection(seed=seed))
    counts = [list(splits.values()).count(split) for split in SPLITS]
    assert min(counts) >= 1
    assert counts[2] == max(round(groups * 0.1), 1)


def test_records_that_share_images_in_chains_are_split_apart_from_others_only(folder: Path) -> None:
    records = [{"image": [f"{i}.png", f"{i + 1}.png"], "conversations": PLAIN} for i in (0, 1, 2, 5, 6, 9)]
    manifest = prepare(folder, records, holdout=0.3, calibration=0.3)
    assert sorted(facts.samples for facts in manifest.splits.values()) == [1, 2, 3]
    seen = [{name for sample in found for name in sample.image} for found in samples(folder / "out").values()]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 9


def read_picture(image: Image.Image, family: str) -> Chart | Number:
    """The chart or number that was drawn, cell by cell."""
    if family == "chart":
        bars = {
            cut(draw(Chart((bar,))), 0): bar for bar in (Bar(c, v) for c in COLORS for v in range(1, MAX_VALUE + 1))
        }
        return Chart(tuple(bars[cut(image, x)] for x in range(0, SIZE, CELL)))
    digits = {cut(draw(Number((d,), 0)), 0, 0): d for d in (Digit(v, c) for c in COLORS for v in "0123456789")}
    rows = [[cut(image, x, y) for x in range(0, SIZE, CELL)] for y in range(0, SIZE, CELL)]
    (row,) = (row for row, cells in enumerate(rows) if cells[0] in digits)
    return Number(tuple(digits[cell] for cell in rows[row] if cell in digits), row)


def cut(image: Image.Image, x: int, y: int | None = None) -> bytes:
    """One cell, or a column of them."""
    return image.crop((x, 0, x + CELL, SIZE) if y is None else (x, y, x + CELL, y + CELL)).tobytes()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 samples of the demo."""
    folder = tmp_path_factory.mktemp("demo") / "dataset"
    make_dataset("demo", folder, max_samples=200, holdout=0.3, calibration=0.2)
    return folder


def test_the_demo_asks_every_kind_equally_often_and_its_splits_share_no_image(demo: Path) -> None:
    kinds = load_manifest(demo).kinds
    assert kinds.keys() == KINDS.keys()
    assert set(kinds.values()) == {200 // len(KINDS), 200 // len(KINDS) + 1}
    images = {split: {name for sample in found for name in sample.image} for split, found in samples(demo).items()}
    assert sum(map(len, images.values())) == len(set().union(*images.values())) == sum(kinds.values()) == 200
    assert 40 <= len(images["heldout"]) <= 80
    assert 14 <= len(images["calibration"]) <= 42


def test_held_out_pictures_of_the_demo_are_of_the_held_out_world_and_no_others(demo: Path) -> None:
    checked = {True: 0, False: 0}
    for split, found in samples(demo).items():
        for sample in found:
            family = KINDS[sample.kind].family
            # The shapes of a scene have an order, which its pixels do not show.
            if family != "shapes":
                picture = read_picture(load_images(demo, sample)[0], family)
                assert is_heldout(picture) == (split == "heldout")
                checked[is_heldout(picture)] += 1
    assert min(checked.values()) > 15


def test_the_demo_is_the_same_bytes_twice_and_others_with_another_seed(demo: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        make_dataset("demo", tmp_path / str(seed), max_samples=200, holdout=0.3, calibration=0.2, seed=seed)
    assert contents(tmp_path / "0") == contents(demo)
    other = contents(tmp_path / "1")
    assert not {data for name, data in other.items()} & set(contents(demo).values())


def test_a_split_that_was_changed_on_disk_is_noticed(folder: Path) -> None:
    prepare(folder, twelve())
    prepare(folder, twelve()[:5], out="other", name="other.json")
    (path,), (other,) = find_files(folder / "out"), find_files(folder / "other")
    whole = path.read_bytes()
    for data in (other.read_bytes(), whole[:-9]):
        path.write_bytes(data)
        with pytest.raises(
            DatasetError, match=r"is gone or has changed: .* are not those that manifest\.json speaks of"
        ):
            load_split(folder / "out", "train")
    path.write_bytes(whole)
    assert len(load_split(folder / "out", "train")) == 10
    (folder / "out" / INDEX / "split-train.bin").unlink()
    _open_reader.cache_clear()
    with pytest.raises(DatasetError, match=f"{INDEX} is missing or broken"):
        load_split(folder / "out", "train")
    # It is seen before anything is read, and mended without --force.
    assert make_dataset(folder / "data.json", folder / "out").splits["train"].samples == 10
    assert len(load_split(folder / "out", "train")) == 10


def test_the_splits_of_an_older_dataset_are_read_from_their_own_files(folder: Path) -> None:
    records = [{**record, "id": "r"} for record in twelve()]
    prepare(folder, records, holdout=0.3)
    old = write_old_dataset(folder / "out", folder / "old")
    assert sorted(path.name.partition("-")[0] for path in find_files(old)) == sorted(SPLITS)
    assert samples(old) == samples(folder / "out")
    with pytest.raises(ExistsError, match="it is up to date"):
        make_dataset(folder / "data.json", old, holdout=0.3)


def test_a_dataset_opens_with_datasets_as_it_is(folder: Path) -> None:
    prepare(folder, [{**record, "answers": ["red", "rot"]} for record in twelve()])
    opened = datasets.load_dataset(str(folder / "out"), cache_dir=str(folder / "cache"))
    assert {split: len(rows) for split, rows in opened.items()} == {"part": 12}
    for split, count in (("train", 10), ("calibration", 1), ("heldout", 1)):
        # As the README says.
        rows = opened["part"].select(np.fromfile(folder / "out" / INDEX / f"split-{split}.bin", "<i8"))
        assert [row["id"] for row in rows] == [sample.id for sample in load_split(folder / "out", split)]
        assert len(rows) == count
    rows = opened["part"].select(np.fromfile(folder / "out" / INDEX / "split-train.bin", "<i8"))
    for row, sample in zip(rows, load_split(folder / "out", "train"), strict=True):
        assert (row["id"], row["conversations"], row["answers"]) == (
            sample.id,
            [turn.model_dump(by_alias=True) for turn in sample.conversations],
            ["red", "rot"],
        )
        assert row["images"][0].convert("RGB").getpixel((0, 0)) == (int(sample.id[1:]), 0, 0)


def test_an_image_of_many_samples_is_stored_about_once(folder: Path) -> None:
    Image.effect_noise((200, 200), 90).save(folder / "large.png")
    prepare(folder, [{"image": "large.png", "conversations": TALK} for _ in range(250)], holdout=0.0, calibration=0.0)
    once = (folder / "large.png").stat().st_size
    stored = sum(path.stat().st_size for path in find_files(folder / "out"))
    assert once < stored < 2 * once
    assert len({name for sample in every_sample(folder / "out") for name in sample.image}) == 1


def test_turns_that_are_cut_take_their_images_along(folder: Path) -> None:
    """And marks are counted before: three marks for two images are no place for either, wherever the cut is."""
    images = ["0.png", "1.png"]
    records = [
        {"id": "both", "image": images, "conversations": TALK * 2},
        {"id": "first", "image": images, "conversations": PLAIN * 2},
        {"id": "odd", "image": images, "conversations": TALK * 3},
    ]
    manifest = prepare(folder, records, max_messages=2)
    found = {sample.id: sample for sample in every_sample(folder / "out")}
    assert {name: len(sample.image) for name, sample in found.items()} == {"both": 1, "first": 2}
    assert all(len(sample.conversations) == 2 for sample in found.values())
    assert manifest.skipped == {"3 <image> marks, 2 images": 1}
