"""Forms of datasets on disk: each is read as a whole, or what is left of it is said."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finevision import make_image
from making import make_dataset
from PIL import Image
from test_files_read import ask, prepare, stage

from interlace_cli.data.columns import NO_TALK
from interlace_cli.data.sources import SourceLocation, open_source
from interlace_cli.domain.dataset import SPLITS, Manifest, Sample
from interlace_cli.errors import DatasetError, MissingInputError, UsageError
from interlace_cli.io.datasets import load_images, load_split
from interlace_cli.io.paths import looks_like_path

datasets.disable_progress_bars()
WHOLE = {"holdout": 0.0, "calibration": 0.0}


def read(source: Path | str, out: Path, **options: Any) -> tuple[Manifest, dict[str, Sample]]:
    """The manifest, and the samples by their answers."""
    manifest = make_dataset(source, out, **{**WHOLE, **options})
    found = [s for split in SPLITS if manifest.splits[split].samples for s in load_split(out, split)]
    assert len(found) == len({sample.answer for sample in found})
    return manifest, {sample.answer: sample for sample in found}


def talk(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": answer}]


def make_rows(start: int, count: int) -> dict[str, list[Any]]:
    numbers = range(start, start + count)
    return {
        "images": [[Image.new("RGB", (24, 16), (i, 9, 9))] for i in numbers],
        "messages": [talk(f"A{i}") for i in numbers],
    }


def write_images(folder: Path, *numbers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        (folder / f"{i}.png").write_bytes(make_image(i))


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict(make_rows(0, 6))
    made.save_to_disk(str(tmp_path / "disk"), num_shards=2)
    # A cache of `datasets`, which is no part of the dataset.
    shutil.copy(next((tmp_path / "disk").glob("data-00000*")), tmp_path / "disk/cache-0123.arrow")
    manifest, found = read(tmp_path / "disk", tmp_path / "out")
    assert sorted(found) == [f"A{i}" for i in range(6)]
    assert (manifest.skipped, manifest.notes) == ({}, [])
    for row in datasets.load_from_disk(str(tmp_path / "disk")):
        (image,) = load_images(tmp_path / "out", found[row["messages"][1]["content"]])
        assert image.tobytes() == row["images"][0].convert("RGB").tobytes()


def test_a_dictionary_of_datasets_is_read_by_its_splits(tmp_path: Path) -> None:
    splits = {"train": make_rows(0, 4), "test": make_rows(10, 3), "hard_cases": make_rows(20, 2)}
    made = datasets.DatasetDict({name: datasets.Dataset.from_dict(rows) for name, rows in splits.items()})
    made.save_to_disk(str(tmp_path / "disk"))
    manifest, found = read(tmp_path / "disk", tmp_path / "out")
    assert sorted(found) == ["A0", "A1", "A2", "A3"]
    assert manifest.notes == ["The split train is read, and not hard_cases, test (--split)."]
    manifest, found = read(tmp_path / "disk", tmp_path / "hard", split="hard_cases")
    assert (sorted(found), manifest.notes) == (["A20", "A21"], [])
    with pytest.raises(DatasetError, match="of the split other; it has hard_cases, test, train"):
        read(tmp_path / "disk", tmp_path / "other", split="other")


def test_a_saved_split_is_read_whatever_it_was_called(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict(make_rows(0, 2), split=datasets.Split.TEST)
    made.save_to_disk(str(tmp_path / "disk"))
    for name, split in (("out", None), ("named", "test")):
        assert sorted(read(tmp_path / "disk", tmp_path / name, split=split)[1]) == ["A0", "A1"]


def test_a_saved_folder_that_is_not_whole_is_said(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(make_rows(0, 4)).save_to_disk(str(tmp_path / "disk"), num_shards=2)
    file = next((tmp_path / "disk").glob("data-00001*"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"data-00001-of-00002\.arrow"):
        read(tmp_path / "disk", tmp_path / "out")
    file.unlink()
    with pytest.raises(DatasetError, match=r"is a folder of save_to_disk, and lacks data-00001-of-00002\.arrow"):
        read(tmp_path / "disk", tmp_path / "out")
    (tmp_path / "disk/state.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"state\.json is not a JSON object"):
        read(tmp_path / "disk", tmp_path / "out")


def test_a_change_in_a_saved_folder_is_seen(tmp_path: Path) -> None:
    for name, start in (("disk", 0), ("other", 50)):
        datasets.Dataset.from_dict(make_rows(start, 4)).save_to_disk(str(tmp_path / name))
    before = prepare(tmp_path / "disk", tmp_path / "out")
    (file,) = (tmp_path / "disk").glob("*.arrow")
    shutil.copy(next((tmp_path / "other").glob("*.arrow")), file)
    now, said = ask(tmp_path / "disk", tmp_path / "out")
    assert (now != before, said) == (True, [f"{file.name} has other content"])


def write_lines(path: Path, *numbers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"image": f"images/{i}.png", "messages": talk(f"A{i}")}) for i in numbers]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(list(map(json.loads, lines))))


def test_a_folder_of_records(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_images(folder / "images", *range(6))
    write_lines(folder / "data.json", 0, 1)
    write_lines(folder / "more/extra.jsonl", 2, 3)
    (folder / "dataset_info.json").write_text('{"about": "a file that describes"}')
    (folder / "notes.txt").write_text("nobody reads this")
    manifest, found = read(folder, tmp_path / "out")
    assert (sorted(found), manifest.skipped, manifest.notes) == (["A0", "A1", "A2", "A3"], {}, [])
    before = prepare(folder, tmp_path / "seen", SourceLocation())
    write_lines(folder / "last.json", 4)
    now, said = ask(folder, tmp_path / "seen")
    assert (now != before, said) == (True, ["last.json was added"])


def test_a_folder_of_records_in_splits(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_images(folder / "images", *range(6))
    for name, number in (("train.jsonl", 0), ("val.jsonl", 1), ("test/part.json", 2)):
        write_lines(folder / name, number)
    manifest, found = read(folder, tmp_path / "out")
    assert (sorted(found), manifest.notes) == (["A0"], ["The split train is read, and not test, val (--split)."])
    for split, answer in (("val", "A1"), ("validation", "A1"), ("test", "A2")):
        manifest, found = read(folder, tmp_path / split, split=split)
        assert (sorted(found), manifest.notes) == ([answer], [])
    (folder / "train.jsonl").unlink()
    with pytest.raises(DatasetError, match="has no split train; it has test, val"):
        read(folder, tmp_path / "other")


def test_a_file_that_is_named_after_a_split_is_read(tmp_path: Path) -> None:
    rows = [{"images": [{"bytes": make_image(i), "path": None}], "messages": talk(f"A{i}")} for i in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    assert sorted(read(tmp_path / "test-00000-of-00001.parquet", tmp_path / "out")[1]) == ["A0", "A1"]
    with pytest.raises(UsageError, match="--split says which files of a folder to read"):
        read(tmp_path / "test-00000-of-00001.parquet", tmp_path / "other", split="test")


def test_a_table_of_questions(tmp_path: Path) -> None:
    write_images(tmp_path / "in/images", 0, 1)
    for separator, name in ((",", "a.csv"), (";", "b.csv"), ("\t", "c.tsv")):
        rows = [("image", "question", "answer"), ("images/0.png", "Who?", "Me."), ("images/1.png", "And?", "You.")]
        (tmp_path / f"in/{name}").write_bytes("".join(separator.join(row) + "\r\n" for row in rows).encode("utf-8-sig"))
        manifest, found = read(tmp_path / f"in/{name}", tmp_path / f"out {name}")
        assert (manifest.skipped, sorted(found)) == ({}, ["Me.", "You."])
        assert all(len(sample.image) == 1 for sample in found.values())


METADATA = {
    "metadata.jsonl": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "metadata.csv": lambda rows: "\n".join(",".join(r.values()) for r in [{k: k for k in rows[0]}, *rows]).encode(),
    "metadata.parquet": lambda rows: write_parquet(rows),
}


def write_parquet(rows: list[dict[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("level", ["in each split", "above them"])
def test_images_in_splits(name: str, level: str, tmp_path: Path) -> None:
    folder, members = tmp_path / "in", {"train": (0, 1), "test": (2,)}
    rows: dict[str, list[dict[str, str]]] = {}
    for split, numbers in members.items():
        write_images(folder / split, *numbers)
        place, prefix = (split, "") if level == "in each split" else (".", f"{split}/")
        rows.setdefault(place, []).extend({"file_name": f"{prefix}{i}.png", "text": f"A{i}"} for i in numbers)
    for place, own in rows.items():
        (folder / place / name).write_bytes(METADATA[name](own))
    manifest, found = read(folder, tmp_path / "out")
    assert (sorted(found), manifest.skipped) == (["A0", "A1"], {})
    assert manifest.notes == ["The split train is read, and not test (--split)."]
    assert sorted(read(folder, tmp_path / "test", split="test")[1]) == ["A2"]
    with pytest.raises(DatasetError, match="has no split validation; it has test, train"):
        read(folder, tmp_path / "none", split="val")
    if level == "in each split":
        # With metadata above the splits `datasets` leaves the texts away.
        own = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
        assert sorted(own["train"]["text"]) == ["A0", "A1"]


def test_pictures_that_nothing_is_said_of_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_images(folder, *range(5))
    (folder / "0.txt").write_text("A0")
    (folder / "1.TXT").write_text("A1")
    (folder / "2.caption").write_text("A2")
    (folder / "9.txt").write_text("of no picture")
    manifest, found = read(folder, tmp_path / "out")
    assert sorted(found) == ["A0", "A1", "A2"]
    assert manifest.notes == ["Not read: 2 pictures without a text file of that name."]
    (folder / "metadata.csv").write_text("file_name,text\n3.png,A3\n")
    manifest, found = read(folder, tmp_path / "again")
    assert (sorted(found), manifest.notes) == (["A3"], ["Not read: 4 pictures that no metadata names."])


def test_what_lies_beside_what_is_read_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_images(folder, 0)
    rows = [{"images": [{"bytes": make_image(1), "path": None}], "messages": talk("A1")}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    write_lines(folder / "rows.jsonl", 5)
    (folder / "metadata.csv").write_text("file_name,text\n0.png,A0\n")
    manifest, found = read(folder, tmp_path / "out")
    assert sorted(found) == ["A1"]
    assert manifest.notes == ["Not read: metadata.csv, rows.jsonl. Give a file or folder by itself to read it."]


def write_tar(path: Path, members: Mapping[str, bytes], again: Mapping[str, bytes] = {}) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in [*members.items(), *again.items()]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_members_that_no_sample_uses(tmp_path: Path) -> None:
    members = {f"{i}.png": make_image(i) for i in range(6)} | {f"{i}.txt": f"A{i}".encode() for i in range(6)}
    members |= {"1.cls": b"7", "2.cls": b"8", "3.mp4": b"film", "4.json": b'{"width": 24}', "5.txt": b"\xe9"}
    path = write_tar(tmp_path / "a.tar", members, {"2.png": make_image(9)})
    manifest, found = read(path, tmp_path / "out")
    assert sorted(found) == ["A0", "A1", "A4"], "the words of 4.txt are the caption where the JSON has none"
    assert manifest.skipped == {
        "two members have one name": 1,
        "a member ends in .mp4, which is not read": 1,
        "text is not UTF-8": 1,
    }
    assert {item.record for item in manifest.skipped_records} == {"a.tar:2", "a.tar:3", "a.tar:5, byte 0"}
    assert manifest.notes == ["Not read: members of tar files that end in .cls (2)."]


@pytest.mark.parametrize("form", ["webdataset", "files"])
def test_what_img2dataset_writes(form: str, tmp_path: Path) -> None:
    """A table and figures lie beside each shard, or beside each folder of pictures; they hold no picture."""
    folder = tmp_path / "in"
    folder.mkdir()
    members = {f"{i:04}.jpg": make_image(i) for i in range(2)} | {f"{i:04}.txt": f"A{i}".encode() for i in range(2)}
    members |= {f"{i:04}.json": b'{"url": "x", "width": 24}' for i in range(2)}
    if form == "webdataset":
        write_tar(folder / "00000.tar", members)
    for name, data in members.items() if form == "files" else ():
        (folder / "00000").mkdir(exist_ok=True)
        (folder / "00000" / name).write_bytes(data)
    pq.write_table(pa.Table.from_pylist([{"url": "x", "caption": "A0"}]), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text('{"count": 2}')
    manifest, found = read(folder, tmp_path / "out")
    assert (sorted(found), manifest.skipped) == (["A0", "A1"], {})
    assert manifest.notes == ["Not read: 00000.parquet, 00000_stats.json. Give a file or folder by itself to read it."]


def test_shards_in_splits(tmp_path: Path) -> None:
    for i, name in enumerate(("train-000.tar", "train-001.tar", "test-000.tar")):
        write_tar(tmp_path / "in" / name, {"0.png": make_image(i), "0.txt": f"A{i}".encode()})
    manifest, found = read(tmp_path / "in", tmp_path / "out")
    assert (sorted(found), manifest.notes) == (["A0", "A1"], ["The split train is read, and not test (--split)."])


def test_an_image_root_that_nothing_would_be_looked_for_in_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 0)
    (tmp_path / "in/0.txt").write_text("A0")
    with pytest.raises(UsageError, match="--image-root is for records that name images"):
        read(tmp_path / "in", tmp_path / "out", image_root=tmp_path)


def test_a_copy_of_a_repository_without_tables_is_told_what_to_do(tmp_path: Path) -> None:
    write_lines(tmp_path / "in/train.jsonl", 0)
    with pytest.raises(DatasetError, match=r"owner/name has no Parquet file\. Files of records, and images, are read"):
        read("owner/name", tmp_path / "out", mirror=tmp_path / "in")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl", "a.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DatasetError, match="has no record that can be used; it is empty"):
            read(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "is_path"),
    [
        ("owner/name", False),
        ("owner/name-v1.5", False),
        ("Owner.x/na_me", False),
        ("demos", False),
        ("shapes/trian.jsonl", True),
        ("trian.jsonl", True),
        ("a/b/c", True),
        ("./name", True),
        ("/name", True),
        ("~/name", True),
        ("owner\\name", True),
        ("owner/", True),
        ("here/name", True),
    ],
)
def test_what_looks_like_a_path(name: str, is_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert looks_like_path(name, [".jsonl"]) is is_path


def test_a_path_that_is_not_there_is_never_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "shapes/train.jsonl", 0)
    asked: list[str] = []
    monkeypatch.setattr("interlace_cli.data.sources.open_repository", lambda name, *_: asked.append(name))
    for name, fix in {
        "shapes/trian.jsonl": "Did you mean shapes/train.jsonl?",
        str(tmp_path / "shapes/tran.jsonl"): f"Did you mean {tmp_path}/shapes/train.jsonl?",
        "shaps/train.jsonl": "Did you mean shapes?",
        "shapes/other": "Check the path; for a name of the Hub, add --revision main.",
        "elsewhere/a.parquet": "Check the path",
    }.items():
        with pytest.raises(MissingInputError) as raised:
            open_source(name)
        assert raised.value.what == f"there is no file or folder {name}."
        assert raised.value.fix.startswith(fix)
    assert asked == []
    open_source("owner/name")
    open_source("shapes/other", SourceLocation(revision="main"))
    assert asked == ["owner/name", "shapes/other"]
    with pytest.raises(MissingInputError, match=r"there is no source finevison\. Did you mean finevision\?"):
        open_source("finevison")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_a_hub_that_is_switched_off_is_said_as_such(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    with pytest.raises(
        MissingInputError, match=f"is not asked because of {name}=1. Unset {name}, or name a local copy"
    ):
        open_source("owner/name")


def test_the_files_of_every_form_are_recorded(tmp_path: Path) -> None:
    """What is read is in the list, so that a change is seen."""
    datasets.Dataset.from_dict(make_rows(0, 2)).save_to_disk(str(tmp_path / "disk"))
    write_images(tmp_path / "pictures/train", 0)
    (tmp_path / "pictures/train/metadata.csv").write_text("file_name,text\n0.png,A0\n")
    for name, files in {
        "disk": ["data-00000-of-00001.arrow", "state.json"],
        "pictures": ["train/0.png", "train/metadata.csv"],
    }.items():
        staged = stage(tmp_path / name, tmp_path / f"out {name}")
        assert [file.path for file in staged.files_read] == files
        assert all(file.digest for file in staged.files_read)


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_images_are_looked_for_beside_the_file_that_names_them(form: str, tmp_path: Path) -> None:
    """In folders of data sets, each with its own images; then in the folder that is the source, as before."""
    folder = tmp_path / "in"
    for number, part in enumerate(("a", "b")):
        (folder / part / "images").mkdir(parents=True)
        (folder / part / "images/0.png").write_bytes(make_image(number))
    (folder / "shared.png").write_bytes(make_image(2))
    for part in ("a", "b"):
        names = ("images/0.png", "shared.png", "a/images/0.png", f"../{part}/images/0.png", "../../secret.png")
        rows = [{"image": name, "question": "Who?", "answer": f"{part}{i}"} for i, name in enumerate(names)]
        if form == "json":
            (folder / part / "data.json").write_text(json.dumps(rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), folder / part / "data.parquet")
    (tmp_path / "secret.png").write_bytes(make_image(3))
    manifest = make_dataset(folder, tmp_path / "out", calibration=0.0, holdout=0.0)
    assert manifest.skipped == {"image path leads out of the folder": 2}
    shown = {sample.answer: sample.image for sample in load_split(tmp_path / "out", "train")}
    a, b, both = shown["a0"], shown["b0"], shown["a1"]
    assert len({*a, *b, *both}) == 3
    assert shown == {**{f"a{i}": a for i in (0, 2, 3)}, "b0": b, "b3": b, "b2": a, "a1": both, "b1": both}


def test_a_class_of_datasets_is_its_name(tmp_path: Path) -> None:
    """It is stored as a number, which would be an answer of its own."""
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["no", "yes"]),
            "image": datasets.Image(),
        }
    )
    images = [{"bytes": make_image(number), "path": None} for number in range(4)]
    rows = {"question": [f"Is it {i}?" for i in range(4)], "answer": [0, 1, 1, 0], "image": images}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(tmp_path / "disk"))
    made.to_parquet(str(tmp_path / "in.parquet"))
    for source in ("disk", "in.parquet"):
        make_dataset(tmp_path / source, tmp_path / f"{source}-out", calibration=0.0, holdout=0.0)
        found = {s.question: s.answer for s in load_split(tmp_path / f"{source}-out", "train")}
        assert found == {"Is it 0?": "no", "Is it 1?": "yes", "Is it 2?": "yes", "Is it 3?": "no"}


def test_a_picture_of_which_nothing_is_said_is_left_out_for_that(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"caption": "A dog."}, {"label": "dog"}, {"caption": ""}, {"file_names": ["0.png"]}]
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.png").write_bytes(make_image(number))
        row.setdefault("file_names" if "file_names" in row else "file_name", f"{number}.png")
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = make_dataset(tmp_path, tmp_path / "out", calibration=0.0, holdout=0.0)
    assert (manifest.splits["train"].samples, manifest.skipped) == (1, {NO_TALK: 3})
