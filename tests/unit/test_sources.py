"""Sources that are Parquet files, tar files and folders: what is read, drawn, filtered and refused."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finevision import make_card, make_image, make_row, write_card, write_subset
from making import make_dataset
from PIL import Image

from interlace_cli.core.prepare import draw_source
from interlace_cli.data.columns import NO_TALK
from interlace_cli.domain.dataset import SPLITS, Sample, SourceDraw
from interlace_cli.errors import DatasetError, InterlaceError, MissingInputError, UsageError
from interlace_cli.io.datasets import load_images, load_manifest, load_split
from interlace_cli.io.images import MOST_BYTES, inspect_image
from interlace_cli.io.repositories import Repository, find_tables
from interlace_cli.options import PrepareOptions

NAMES = ["CoSyn_400k_chart", "cambrian(filtered)_processed", "text_openorca", "yesbut", "zz_added_later"]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A copy of FineVision with five subsets of 60 rows, in two files of three row groups each; the second subset's
    columns are in another order, the third has no images."""
    root = tmp_path / "mirror"
    for place, name in enumerate(NAMES):
        images = 0 if name.startswith("text") else 1
        rows = [make_row(100 * place + i, images=images, rating=1 + i % 5) for i in range(60)]
        write_subset(root, name, rows, reverse=place == 1)
    write_card(root, make_card(NAMES))
    return root


def look(mirror: Path, **options: Any) -> SourceDraw:
    """What would be read of the copy."""
    return draw_source(PrepareOptions(source="finevision", mirror=mirror, **options))


def every_sample(folder: Path) -> list[Sample]:
    manifest = load_manifest(folder)
    found = [load_split(folder, split) for split in SPLITS if manifest.splits[split].samples]
    return [sample for split in found for sample in split]


def numbers(folder: Path) -> list[int]:
    """The rows that the samples are from, as their questions say."""
    return sorted(int(s.question.removeprefix("Question ").split(".")[0]) for s in every_sample(folder))


def test_a_tenth_of_every_subset_up_to_yesbut(mirror: Path, tmp_path: Path) -> None:
    manifest = make_dataset("finevision", tmp_path / "out", mirror=mirror, portion=0.1)
    assert (manifest.source, manifest.location) == ("finevision", "HuggingFaceM4/FineVision")
    assert manifest.selection == "clusters"
    assert [(draw.part, draw.available, draw.taken) for draw in manifest.draws] == [(name, 60, 6) for name in NAMES[:4]]
    assert manifest.kinds == dict.fromkeys(NAMES[:4], 6)
    found = every_sample(tmp_path / "out")
    assert {sample.source for sample in found} == set(NAMES[:4])
    for sample in found:
        number = int(sample.question.removeprefix("Question ").split(".")[0])
        assert (sample.question, sample.answer) == (f"Question {number}.0?", f"Answer {number}.0.")
        if not sample.source.startswith("text"):
            (image,) = load_images(tmp_path / "out", sample)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            assert buffer.getvalue() == make_image(1000 * number)


def test_the_default_is_a_percent_and_at_least_one_of_each(mirror: Path, tmp_path: Path) -> None:
    manifest = make_dataset("finevision", tmp_path / "out", mirror=mirror)
    assert [draw.taken for draw in manifest.draws] == [1, 1, 1, 1]


def test_the_released_selection_to_the_letter(mirror: Path, tmp_path: Path) -> None:
    """The first rows of each subset; then those with more than three images fall away, and turns after the fifth; all
    images come first, wherever their marks are."""
    rows = [make_row(i, images=i % 5, turns=1 + i % 6) for i in range(40)]
    for number, row in enumerate(rows):
        row["texts"] = [{**t, "user": f"<image>Question {number}.{i}?"} for i, t in enumerate(row["texts"])]
    write_subset(mirror, NAMES[0], rows)
    manifest = make_dataset("finevision", tmp_path / "out", mirror=mirror, portion=0.26, selection="head")
    assert [draw.taken for draw in manifest.draws] == [10, 15, 15, 15]
    assert manifest.skipped == {"more than 3 images": 2}
    found = {s.question: s for s in every_sample(tmp_path / "out") if s.source == NAMES[0]}
    assert sorted(found) == sorted(f"Question {i}.0?" for i in range(10) if i % 5 != 4)
    for question, sample in found.items():
        number = int(question.removeprefix("Question ").split(".")[0])
        wanted = min(2 * (1 + number % 6), 6)
        assert len(sample.conversations) == wanted
        assert len(sample.image) == number % 5
        assert not any("<image>" in turn.value for turn in sample.conversations)


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(mirror: Path, tmp_path: Path) -> None:
    def made(name: str, threads: int, seed: int = 0) -> dict[str, bytes]:
        make_dataset("finevision", tmp_path / name, mirror=mirror, portion=0.2, seed=seed, threads=threads)
        files = (tmp_path / name).rglob("*.*")
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files if path.is_file()}

    first = made("a", 1)
    assert made("b", 7) == first
    assert made("c", 7, seed=1) != first


def test_subsets_and_ratings_choose(mirror: Path, tmp_path: Path) -> None:
    chosen = make_dataset("finevision", tmp_path / "a", mirror=mirror, portion=1.0, subset=("yesbut", NAMES[0]))
    assert chosen.kinds == {NAMES[0]: 60, "yesbut": 60}
    left = make_dataset("finevision", tmp_path / "b", mirror=mirror, portion=1.0, exclude=tuple(NAMES[:2]))
    assert left.kinds == {"text_openorca": 60, "yesbut": 60}
    ratings = {"min_relevance": 3, "min_formatting": 4}
    good = make_dataset("finevision", tmp_path / "c", mirror=mirror, portion=1.0, subset=("yesbut",), **ratings)
    assert good.kinds == {"yesbut": 24}
    assert good.skipped == {"relevance below 3": 24, "formatting below 4": 12}
    assert numbers(tmp_path / "c") == [300 + i for i in range(60) if 1 + i % 5 >= 4]
    with pytest.raises(UsageError, match=r"has no subset chartqa\. It has CoSyn"):
        make_dataset("finevision", tmp_path / "d", mirror=mirror, subset=("chartqa",))


def test_broken_rows_are_counted_and_the_others_taken(mirror: Path, tmp_path: Path) -> None:
    bad = [
        make_row(0, images=4),
        make_row(1, texts=None),
        make_row(2, texts=[]),
        make_row(3, texts=[{"user": "?", "assistant": None}]),
        make_row(4, texts=[{"user": " ", "assistant": "x"}]),
        make_row(6) | {"images": [{"bytes": b"no image", "path": None}]},
        make_row(7) | {"images": [{"bytes": make_image(7)[:90], "path": None}]},
        make_row(8) | {"images": [{"bytes": None, "path": "../../etc/passwd"}]},
        make_row(9) | {"images": [{"bytes": None, "path": None}]},
        make_row(10, images=0) | {"images": None},
        make_row(11),
    ]
    write_subset(mirror, "yesbut", bad)
    manifest = make_dataset("finevision", tmp_path / "out", mirror=mirror, portion=1.0, subset=("yesbut",))
    assert manifest.skipped == {
        "more than 3 images": 1,
        NO_TALK: 1,
        "field texts is missing or empty": 1,
        "turns do not alternate, human first": 1,
        "a turn has no text": 1,
        "image does not open": 2,
        "an image is a path and not bytes": 1,
        "an image is neither bytes nor a path": 1,
    }
    assert numbers(tmp_path / "out") == [10, 11]
    assert manifest.skipped_records[0].record.startswith("yesbut/train-00000-of-00002.parquet:0:")


def test_a_broken_row_group_is_skipped_and_a_broken_file_is_named(mirror: Path, tmp_path: Path) -> None:
    path = mirror / "yesbut/train-00000-of-00002.parquet"
    data = bytearray(path.read_bytes())
    begin = pq.read_metadata(path).row_group(1).column(0).dictionary_page_offset or 0
    data[begin + 10 : begin + 3000] = bytes(2990)
    path.write_bytes(bytes(data))
    manifest = make_dataset("finevision", tmp_path / "out", mirror=mirror, portion=1.0, subset=("yesbut",))
    assert manifest.skipped == {"row group cannot be read": 10}
    assert manifest.kinds == {"yesbut": 50}
    path.write_bytes(bytes(data[:-20]))
    with pytest.raises(DatasetError, match=r"yesbut/train-00000-of-00002\.parquet of mirror is not a Parquet file"):
        make_dataset("finevision", tmp_path / "other", mirror=mirror, subset=("yesbut",))


def test_an_incomplete_copy_is_said(mirror: Path) -> None:
    write_card(mirror, make_card(NAMES, {"yesbut": 61, NAMES[0]: 60, NAMES[1]: 60, NAMES[2]: 60}))
    drawn = look(mirror)
    assert "1 of 4 subsets are incomplete here: yesbut has 60 of 61 records" in drawn.description
    write_card(mirror, make_card(NAMES))
    assert "yesbut has" not in look(mirror).description
    known = look(mirror).description
    assert "4 of 4 subsets are incomplete here: CoSyn_400k_chart has 60 of 116,814 records" in known


def test_what_will_be_read_is_said_before(mirror: Path) -> None:
    drawn = look(mirror, portion=0.1)
    groups = sum(part.groups for part in drawn.draws)
    assert f"24 of 240 records, from {groups} row groups" in drawn.description
    assert "This is a cluster sample" in drawn.description
    for part in drawn.draws:
        files = sorted((mirror / part.part).glob("*.parquet"))
        metadata = [pq.read_metadata(path) for path in files]
        sizes = [m.row_group(g).total_byte_size for m in metadata for g in range(m.num_row_groups)]
        assert part.groups * min(sizes) * 0.5 < part.bytes <= sum(sizes)
    uniform = look(mirror, portion=0.1, selection="uniform")
    assert sum(part.bytes for part in uniform.draws) > sum(part.bytes for part in drawn.draws)
    assert "cluster" not in uniform.description


SPLIT_WORDS = ("train", "val", "validation", "test")
TALK = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}
PARTS = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Who?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Me."}]},
]


@pytest.mark.parametrize(
    "row",
    [
        {**TALK, "images": [{"bytes": make_image(1), "path": None}]},
        {"messages": PARTS, "images": [make_image(1)]},
        {"texts": [{"assistant": "Me.", "user": "Who?"}], "images": [{"bytes": make_image(1), "path": None}]},
        {
            "conversations": [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}],
            "image": {"bytes": make_image(1), "path": "x.png"},
        },
        {**TALK, "image": "pictures/1.png"},
    ],
    ids=["messages", "parts", "texts", "conversations", "path"],
)
def test_parquet_in_each_layout_gives_the_same_sample(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in/pictures").mkdir(parents=True)
    (tmp_path / "in/pictures/1.png").write_bytes(make_image(1))
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in/rows.parquet")
    for source in ("in/rows.parquet", "in"):
        make_dataset(tmp_path / source, tmp_path / source.replace("/", "-") / "out")
        (sample,) = every_sample(tmp_path / source.replace("/", "-") / "out")
        assert (sample.question, sample.answer) == ("Who?", "Me.")
        assert len(load_images(tmp_path / source.replace("/", "-") / "out", sample)) == 1


def test_paths_in_a_table_stay_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(make_image(1))
    (tmp_path / "in").mkdir()
    rows = [{**TALK, "image": name} for name in ("../secret.png", str(tmp_path / "secret.png"), "none.png")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in/rows.parquet")
    with pytest.raises(DatasetError, match="leads out of the folder"):
        make_dataset(tmp_path / "in/rows.parquet", tmp_path / "out")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_webdataset(tmp_path: Path) -> None:
    talk = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}], "kind": "who"}
    members: dict[str, bytes] = {}
    for i in range(5):
        members |= {f"a/{i}.jpg": make_image(i), f"a/{i}.json": json.dumps(talk).encode()}
    members |= {"a/5.0.png": make_image(50), "a/5.1.png": make_image(51), "a/5.json": json.dumps(talk).encode()}
    members |= {"6.png": make_image(6), "6.txt": b"A dog."}
    members |= {"7.png": make_image(7), "7.json": b"[", "8.png": make_image(8), "../9.png": make_image(9)}
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards/000.tar", members)
    write_tar(tmp_path / "shards/001.tar", {"0.png": make_image(60), "0.json": json.dumps(talk).encode()})
    manifest = make_dataset(tmp_path / "shards", tmp_path / "out")
    assert manifest.kinds == {"who": 7, "all": 1}
    assert manifest.skipped == {"the JSON is not an object": 1, NO_TALK: 2}
    found = {sample.id: sample for sample in every_sample(tmp_path / "out")}
    assert len(found["000.tar:a/5"].image) == 2
    caption = found["000.tar:6"]
    assert (caption.answer, caption.metric, caption.references) == ("A dog.", "cider", ["A dog."])
    one = make_dataset(tmp_path / "shards/001.tar", tmp_path / "one")
    assert one.kinds == {"who": 1}
    (tmp_path / "shards/001.tar").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="is not a tar file"):
        make_dataset(tmp_path / "shards", tmp_path / "other")


@pytest.mark.parametrize("form", ["jsonl", "csv", "text files"])
def test_a_folder_of_images(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "in").mkdir(parents=True)
    for i in range(4):
        (folder / f"in/{i}.png").write_bytes(make_image(i))
    (tmp_path / "secret.png").write_bytes(make_image(9))
    names = [*(f"in/{i}.png" for i in range(4)), "../secret.png"]
    if form == "jsonl":
        lines = [json.dumps({"file_name": name, "text": f"Picture {i}."}) for i, name in enumerate(names)]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    if form == "csv":
        rows = "\n".join(f"{name},Picture {i}." for i, name in enumerate(names))
        (folder / "metadata.csv").write_text(f"file_name,caption\n{rows}\n")
    if form == "text files":
        for i in range(4):
            (folder / f"in/{i}.txt").write_text(f"Picture {i}.\n")
    manifest = make_dataset(folder, tmp_path / "out")
    assert sum(manifest.kinds.values()) == 4
    assert manifest.skipped == ({} if form == "text files" else {"image path leads out of the folder": 1})
    assert sorted(sample.answer for sample in every_sample(tmp_path / "out")) == [f"Picture {i}." for i in range(4)]


def test_what_is_no_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"there is no source nothing\. Give one of demo, finevision"):
        make_dataset("nothing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="has no file of records, and no image with a text file"):
        make_dataset(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(InterlaceError, match="is not a Parquet file"):
        make_dataset(tmp_path / "bad.parquet", tmp_path / "out")


def write_questions(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data/train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), folder / "data/test-00000-of-00001.parquet")
    return folder


def test_textvqa_has_a_sample_for_each_distinct_answer_and_asks_once(tmp_path: Path) -> None:
    image = {"bytes": make_image(1), "path": None}
    answers = ["nokia", "nokia", "Nokia", "toshiba"] + ["nokia"] * 6
    rows = [{"question_id": 7, "question": "what brand?", "answers": answers, "image": image}]
    mirror = write_questions(tmp_path / "textvqa", rows)
    manifest = make_dataset("textvqa", tmp_path / "out", mirror=mirror, calibration=0.0, holdout=0.0)
    assert manifest.location == "lmms-lab/textvqa"
    found = load_split(tmp_path / "out", "train")
    assert [sample.answer for sample in found] == ["nokia", "Nokia", "toshiba"]
    assert {(sample.metric, tuple(sample.answers)) for sample in found} == {("vqa_accuracy", tuple(answers))}
    make_dataset("textvqa", tmp_path / "held", mirror=mirror, calibration=0.0, holdout=1.0)
    assert [sample.answer for sample in load_split(tmp_path / "held", "heldout")] == ["nokia"]


def test_chartqa_and_scienceqa(tmp_path: Path) -> None:
    image = {"bytes": make_image(1), "path": None}
    charts = [
        {"image": image, "query": "How many?", "label": ["12"], "human_or_machine": 0},
        {"image": image, "query": "", "label": ["12"], "human_or_machine": 1},
    ]
    manifest = make_dataset("chartqa", tmp_path / "a", mirror=write_questions(tmp_path / "chartqa", charts))
    assert (manifest.kinds, manifest.skipped) == ({"human": 1}, {"the question or its answer is missing": 1})
    lessons = [
        {"image": image, "question": "Which?", "choices": ["cat", "dog"], "answer": 1, "subject": "natural science"},
        {"image": None, "question": "Which?", "choices": ["cat", "dog"], "answer": 1, "subject": "x"},
        {"image": image, "question": "Which?", "choices": ["cat", "dog"], "answer": 2, "subject": "x"},
    ]
    manifest = make_dataset("scienceqa", tmp_path / "b", mirror=write_questions(tmp_path / "scienceqa", lessons))
    assert manifest.skipped == {
        "the question has no picture": 1,
        "field answer is not the index of a choice": 1,
    }
    (sample,) = every_sample(tmp_path / "b")
    assert (sample.question, sample.answer) == ("Which?\nA) cat\nB) dog", "B) dog")
    assert (sample.metric, sample.choices, sample.kind) == ("multiple_choice", ["cat", "dog"], "natural science")


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("test", 1)])
def test_split_names_the_files(split: str, count: int, tmp_path: Path) -> None:
    image = {"bytes": make_image(1), "path": None}
    rows = [{"image": image, "query": f"How many {i}?", "label": ["12"], "human_or_machine": 0} for i in range(3)]
    mirror = write_questions(tmp_path / "chartqa", rows)
    shares = {"holdout": 0.0, "calibration": 0.0}
    manifest = make_dataset("chartqa", tmp_path / "out", mirror=mirror, split=split, **shares)
    assert manifest.kinds == {"human": count}


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_images_are_bounded_before_they_are_decoded() -> None:
    for side in (9_000, 30_000, 1 << 30):
        bomb = bytearray(make_image(1))
        bomb[16:24] = side.to_bytes(4, "big") * 2
        bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
        assert inspect_image(bytes(bomb)) == (None, "image has more than 80 million pixels")
    assert inspect_image(bytes(MOST_BYTES + 1)) == (None, "image is larger than 64 MiB")
    frames = [Image.new("L", (2, 2), i) for i in range(70)]
    many = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert inspect_image(many) == (None, "image has more than 64 frames")
    few = encode(frames[0], "GIF", save_all=True, append_images=frames[1:5])
    assert inspect_image(few) == ("gif", "")
    assert inspect_image(encode(frames[0], "JPEG")) == ("jpeg", "")
    assert inspect_image(b"") == (None, "image does not open")


def test_a_split_is_a_word_of_a_name_and_not_a_part_of_one() -> None:
    names = [
        "latest/train-0.parquet",
        "device/x.parquet",
        "data/val-0.parquet",
        "a/validation/0.parquet",
        "contest.parquet",
    ]
    repository = Repository("r", None, None, dict.fromkeys(names, 1), {}, lambda _: io.BytesIO())
    found = {
        split: sorted(p for paths in find_tables(repository, split).values() for p in paths) for split in SPLIT_WORDS
    }
    assert found == {
        "train": ["contest.parquet", "device/x.parquet", "latest/train-0.parquet"],
        "val": ["data/val-0.parquet"],
        "validation": ["a/validation/0.parquet"],
        "test": [],
    }


def test_what_was_read_from_one_place_is_not_gone_on_from_in_another(tmp_path: Path) -> None:
    """The same file of records, the same call, other pictures."""
    talk = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "a.png", "conversations": talk}]))
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(make_image(seed))
    source, left = tmp_path / "rows.json", tmp_path / "left"
    make_dataset(source, tmp_path / "first", image_root=tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        # As if the call had been ended while it wrote the dataset.
        patch.setattr("interlace_cli.core.preparation.folder_being_made", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_dataset(source, left, image_root=tmp_path / "one")
    make_dataset(source, left, image_root=tmp_path / "two")
    images = [every_sample(folder)[0].image for folder in (tmp_path / "first", left)]
    assert images[0] != images[1]
