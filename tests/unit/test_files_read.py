"""A dataset knows the local files it was made from, and sees when they are not the same any more."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finevision import make_image

from interlace_cli.data.files_read import (
    describe_source_changes,
    find_source_inputs,
    hash_files_read,
    load_files_read,
    save_files_read,
)
from interlace_cli.data.source import Selection
from interlace_cli.data.sources import SourceLocation, open_source
from interlace_cli.data.staging import TABLE, Staged, Staging, gather_units, stage_units
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import DatasetError
from interlace_cli.io import file_records
from interlace_cli.io.file_records import FileRead, FileRecorder, has_changed, look_again
from interlace_cli.io.integrity import digest_files
from interlace_cli.io.sample_tables import SampleWriter

TALK = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]


def stage(source: Path | str, out: Path, location: SourceLocation = SourceLocation(), **options: Any) -> Staged:  # noqa: B008
    """As `prepare` reads a source; the list of files goes to `out`, and the staging folder stays."""
    opened, selection = open_source(str(source), location), Selection(**options)
    draw, staging = opened.draw(selection), Staging(out, "key")
    staged = gather_units(opened, draw, staging, stage_units(opened, draw, selection, staging, Silent(), 2), 2)
    assert staged is not None
    out.mkdir(exist_ok=True)
    save_files_read(out, staged.files_read)
    return staged


def prepare(source: Path | str, out: Path, location: SourceLocation = SourceLocation(), **options: Any) -> str:  # noqa: B008
    """The hash of what was read; asking again gives the same."""
    staged = stage(source, out, location, **options)
    Staging(out, "key").clear()
    assert load_files_read(out) == staged.files_read
    made = {"source": hash_files_read(staged.files_read)}
    assert find_source_inputs(str(source), location, out) == made
    assert describe_source_changes(str(source), location, out) == []
    return made["source"]


def ask(source: Path | str, out: Path, location: SourceLocation = SourceLocation()) -> tuple[str, list[str]]:  # noqa: B008
    """The hash that the dataset would have now, and what is said of the differences."""
    found = find_source_inputs(str(source), location, out)
    return found.get("source", ""), describe_source_changes(str(source), location, out)


def write_records(folder: Path, count: int = 4, seed: int = 0, images: str = "images") -> Path:
    """A JSON list and its images."""
    (folder / images).mkdir(parents=True)
    for i in range(count):
        (folder / images / f"{i}.png").write_bytes(make_image(seed + i))
    records = [{"id": str(i), "image": f"{images}/{i}.png", "conversations": TALK} for i in range(count)]
    (folder / "labels.json").write_text(json.dumps(records))
    return folder / "labels.json"


def write_pairs(folder: Path, count: int = 4) -> Path:
    """Images, each with a caption beside it."""
    (folder / "in").mkdir(parents=True)
    for i in range(count):
        (folder / f"in/{i}.png").write_bytes(make_image(i))
        (folder / f"in/{i}.txt").write_text(f"Picture {i}.")
    return folder


def write_table(path: Path, count: int = 4, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"conversations": TALK, "image": {"bytes": make_image(seed + i), "path": None}} for i in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_tar(path: Path, seed: int = 0, caption: str = "A dog.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in {"0.png": make_image(seed), "0.txt": caption.encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_image(path: Path, seed: int, size: int | None = None) -> None:
    """Another image in place: in the same inode, of the same size if one is given."""
    data = make_image(seed)
    path.write_bytes(data if size is None else data.ljust(size, b"\0")[:size])


def test_every_image_is_known_by_its_content(tmp_path: Path) -> None:
    source = write_records(tmp_path / "in")
    staged = stage(source, tmp_path / "out")
    names = ["image:images/0.png", "image:images/1.png", "image:images/2.png", "image:images/3.png"]
    assert [file.name for file in staged.files_read] == [*names, "source:labels.json"]
    paths = [tmp_path / "in" / file.path for file in staged.files_read]
    assert [file.digest for file in staged.files_read] == list(digest_files(paths).values())
    assert [file.size for file in staged.files_read] == [path.stat().st_size for path in paths]


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 250])
def test_a_digest_is_that_of_an_artifacts_file(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over blocks, which are of 100 bytes here."""
    for module in ("file_records", "integrity"):
        monkeypatch.setattr(f"interlace_cli.io.{module}.BLOCK", 100)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        assert file_records.digest_content(file) == digest_files([path])[path]


def test_an_image_that_was_changed_in_place_is_seen(tmp_path: Path) -> None:
    source = write_records(tmp_path / "in")
    before = prepare(source, tmp_path / "out")
    image = tmp_path / "in/images/3.png"
    facts = image.stat()
    write_image(image, 77, facts.st_size)
    assert image.stat().st_size == facts.st_size
    now, said = ask(source, tmp_path / "out")
    assert said == ["images/3.png has other content"]
    assert now != before
    assert prepare(source, tmp_path / "again") == now


def test_an_image_that_was_changed_and_given_its_old_times_is_seen(tmp_path: Path) -> None:
    """By the time of the inode's change, which no program can set; the same size, inode and time of modification. On a
    system that has no such time (Windows) this change is not seen."""
    source = write_records(tmp_path / "in")
    before = prepare(source, tmp_path / "out")
    image = tmp_path / "in/images/3.png"
    facts = image.stat()
    write_image(image, 77, facts.st_size)
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (image.stat().st_mtime_ns, image.stat().st_ino) == (facts.st_mtime_ns, facts.st_ino)
    assert ask(source, tmp_path / "out")[0] != before


def test_files_that_were_touched_are_the_same(tmp_path: Path) -> None:
    for source in (
        write_records(tmp_path / "in"),
        write_pairs(tmp_path / "pairs"),
        write_table(tmp_path / "t/a.parquet"),
    ):
        before = prepare(source, tmp_path / "out")
        for path in (source if source.is_dir() else source.parent).rglob("*.*"):
            os.utime(path, (1, 1))
        assert ask(source, tmp_path / "out") == (before, [])


def test_the_same_names_in_another_folder_are_told_apart_by_content(tmp_path: Path) -> None:
    """`--data alice/vqa`, then `--data bob/vqa`: names, sizes and the list of records are the same."""
    alice, bob, carol = (
        write_records(tmp_path / name / "vqa", seed=seed) for name, seed in [("a", 0), ("b", 9), ("c", 0)]
    )
    size = max(path.stat().st_size for path in tmp_path.rglob("*.png"))
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    before = prepare(alice, tmp_path / "out")
    now, said = ask(bob, tmp_path / "out")
    assert now == prepare(bob, tmp_path / "other") != before
    assert said == ["images/0.png, images/1.png, images/2.png and 1 more have other content"]
    assert ask(carol, tmp_path / "out") == (before, [])
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert ask(tmp_path / "copy/vqa/labels.json", tmp_path / "out") == (before, [])
    assert prepare(tmp_path / "copy/vqa/labels.json", tmp_path / "copied") == before


def test_folders_of_tables_and_tar_files_are_told_apart_by_content(tmp_path: Path) -> None:
    for write, name in ((write_table, "a.parquet"), (write_tar, "a.tar")):
        one, two = write(tmp_path / "one" / name, seed=0).parent, write(tmp_path / "two" / name, seed=9).parent
        before = prepare(one, tmp_path / "out")
        now, said = ask(two, tmp_path / "out")
        assert now == prepare(two, tmp_path / "out2") != before
        assert said == [f"{name} has other content"]
        assert ask(one / name, tmp_path / "out") == (before, []), "a folder is the files in it"
        shutil.rmtree(one)
        shutil.rmtree(two)


def test_another_image_root_is_another_input(tmp_path: Path) -> None:
    source = write_records(tmp_path / "in")
    for name, seed in (("one", 0), ("two", 9)):
        write_records(tmp_path / name, seed=seed)
    before = prepare(source, tmp_path / "out", SourceLocation(tmp_path / "one"))
    assert ask(source, tmp_path / "out") == (before, []), "the images beside the file are the same as those in one"
    now, said = ask(source, tmp_path / "out", SourceLocation(tmp_path / "two"))
    assert now != before
    assert said == ["images/0.png, images/1.png, images/2.png and 1 more have other content"]
    assert ask(source, tmp_path / "out", SourceLocation(tmp_path / "none"))[1] == [
        "images/0.png, images/1.png, images/2.png and 1 more are gone, or cannot be read"
    ]


def test_a_file_that_was_missing_and_is_there_is_seen(tmp_path: Path) -> None:
    source = write_records(tmp_path / "in")
    (tmp_path / "in/images/2.png").unlink()
    before = prepare(source, tmp_path / "out")
    write_image(tmp_path / "in/images/2.png", 2)
    now, said = ask(source, tmp_path / "out")
    assert said == ["images/2.png was not there before"]
    assert now == prepare(source, tmp_path / "again") != before


def test_a_file_that_is_gone_is_seen(tmp_path: Path) -> None:
    source = write_records(tmp_path / "in")
    before = prepare(source, tmp_path / "out")
    (tmp_path / "in/images/2.png").unlink()
    now, said = ask(source, tmp_path / "out")
    assert said == ["images/2.png is gone, or cannot be read"]
    assert now == prepare(source, tmp_path / "again") != before
    source.unlink()
    assert ask(source, tmp_path / "out") == ("", [f"{source} is not a local file or folder now"])


def test_names_that_lead_out_of_the_folder_stay_unread(tmp_path: Path) -> None:
    """A link that leads out is no file, then and now; also a name that is none, and a folder."""
    source = write_records(tmp_path / "in")
    write_image(tmp_path / "outside.png", 5)
    (tmp_path / "in/link.png").symlink_to(tmp_path / "outside.png")
    names = ["../outside.png", "link.png", str(tmp_path / "outside.png"), "a\0b", "images", "x" * 9000]
    records = [{"image": name, "conversations": TALK} for name in [*names, "images/0.png"]]
    source.write_text(json.dumps(records))
    before = prepare(source, tmp_path / "out")
    recorded = {file.path: file for file in load_files_read(tmp_path / "out")}
    assert all(recorded[name] == FileRead(f"image:{name}") for name in names)
    (tmp_path / "in/link.png").unlink()
    write_image(tmp_path / "in/link.png", 5)
    now, said = ask(source, tmp_path / "out")
    assert (now != before, said) == (True, ["link.png was not there before"])


def test_a_record_that_cannot_be_used_counts_with_its_image(tmp_path: Path) -> None:
    source = write_records(tmp_path / "in")
    (tmp_path / "in/images/1.png").write_bytes(b"no image")
    before = prepare(source, tmp_path / "out")
    write_image(tmp_path / "in/images/1.png", 1)
    assert ask(source, tmp_path / "out")[0] != before


def test_images_that_nobody_asked_for_do_not_count(tmp_path: Path) -> None:
    source = write_records(tmp_path / "in")
    before = prepare(source, tmp_path / "out", max_samples=1)
    (file,) = (file for file in load_files_read(tmp_path / "out") if file.name.startswith("image:"))
    for path in (tmp_path / "in/images").iterdir():
        if path.name not in file.name:
            path.unlink()
    assert ask(source, tmp_path / "out") == (before, [])


def test_images_of_a_folder_that_nobody_asked_for_are_known_by_name_and_size(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "in")
    before = prepare(folder, tmp_path / "out", max_samples=1)
    images = [file for file in load_files_read(tmp_path / "out") if file.path.endswith("png")]
    assert sorted(file.digest is None for file in images) == [False, True, True, True]
    unread = next(file for file in images if file.digest is None)
    write_image(folder / unread.path, 50, unread.size)
    assert ask(folder, tmp_path / "out") == (before, [])
    (folder / unread.path).write_bytes(b"shorter")
    assert ask(folder, tmp_path / "out")[1] == [f"{unread.path} has other content"]


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_file_that_nothing_was_drawn_from_counts_too(kind: str, tmp_path: Path) -> None:
    """Its rows, or its members, were counted."""
    write = write_table if kind == "parquet" else write_tar
    for name in ("a", "b"):
        write(tmp_path / f"in/{name}.{kind}")
    (tmp_path / "in/notes.txt").write_text("nobody reads this")
    before = prepare(tmp_path / "in", tmp_path / "out", max_samples=1, method="head")
    assert [file.path for file in load_files_read(tmp_path / "out")] == [f"a.{kind}", f"b.{kind}"]
    for name in ("a", "b"):
        path = tmp_path / f"in/{name}.{kind}"
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"?")
        now, said = ask(tmp_path / "in", tmp_path / "out")
        assert (now != before, said) == (True, [f"{name}.{kind} has other content"])
        path.write_bytes(data)
    assert ask(tmp_path / "in", tmp_path / "out") == (before, [])


def test_a_file_that_is_a_link_to_elsewhere_is_read(tmp_path: Path) -> None:
    """As in the cache of the Hub, where files are links to their contents."""
    blob = write_table(tmp_path / "blobs/1234").rename(tmp_path / "blobs/5678")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.parquet").symlink_to(blob)
    before = prepare(tmp_path / "in", tmp_path / "out")
    os.utime(blob, (1, 1))
    assert ask(tmp_path / "in", tmp_path / "out") == (before, [])


def test_a_file_that_was_added_to_a_folder_of_images_is_seen(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "in")
    before = prepare(folder, tmp_path / "out")
    write_image(folder / "in/9.png", 9)
    assert ask(folder, tmp_path / "out") == (before, []), "an image without a caption is no record"
    (folder / "in/9.txt").write_text("Picture 9.")
    now, said = ask(folder, tmp_path / "out")
    assert said == ["in/9.png and in/9.txt were added"]
    assert now != before
    assert prepare(folder, tmp_path / "again") not in (before, "")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "in/0.png", "text": "Zero."}))
    assert ask(folder, tmp_path / "out")[1] == ["metadata.jsonl was added"]


def test_a_caption_that_was_changed_is_seen(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "in")
    before = prepare(folder, tmp_path / "out")
    (folder / "in/2.txt").write_text("Picture X.")
    now, said = ask(folder, tmp_path / "out")
    assert said == ["in/2.txt has other content"]
    assert now == prepare(folder, tmp_path / "again") != before


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_metadata_file_is_read_with_the_images_that_it_names(name: str, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "in")
    line = json.dumps({"file_name": "in/0.png", "text": "Zero."})
    (folder / name).write_text(line if name.endswith("l") else "file_name,text\nin/0.png,Zero.\n")
    before = prepare(folder, tmp_path / "out")
    assert [file.path for file in load_files_read(tmp_path / "out")] == ["in/0.png", name]
    (folder / name).write_text((folder / name).read_text().replace("Zero", "Nil."))
    now, said = ask(folder, tmp_path / "out")
    assert (now != before, said) == (True, [f"{name} has other content"])


def test_a_local_copy_of_a_repository_counts_with_its_card(tmp_path: Path) -> None:
    mirror = write_table(tmp_path / "mirror/data/train-0.parquet").parent.parent
    (mirror / "README.md").write_text("---\nlicense: mit\n---\n")
    write_table(mirror / "data/test-0.parquet", seed=50)
    (mirror / "notes.txt").write_text("nobody reads this")
    location = SourceLocation(mirror=mirror)
    before = prepare("alice/vqa", tmp_path / "out", location)
    assert [file.path for file in load_files_read(tmp_path / "out")] == [
        "README.md",
        "data/test-0.parquet",
        "data/train-0.parquet",
    ]
    (mirror / "notes.txt").write_text("nor this")
    assert ask("alice/vqa", tmp_path / "out", location) == (before, [])
    (mirror / "README.md").write_text("---\nlicense: bsd\n---\n")
    assert ask("alice/vqa", tmp_path / "out", location)[1] == ["README.md has other content"]
    write_table(mirror / "data/train-1.parquet")
    assert ask("alice/vqa", tmp_path / "out", location)[1][1:] == ["data/train-1.parquet was added"]
    assert ask("alice/vqa", tmp_path / "out") == ("", ["alice/vqa is not a local file or folder now"])


def test_a_large_file_is_known_by_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_records, "MOST_DIGESTED", 100)
    source = write_table(tmp_path / "in/rows.parquet")
    before = prepare(source, tmp_path / "out")
    (file,) = load_files_read(tmp_path / "out")
    assert file == FileRead("source:rows.parquet", None, *find_facts(source))
    source.chmod(0o600)
    assert ask(source, tmp_path / "out") == (before, []), "to set permissions changes no content"
    os.utime(source, (1, 1))
    now, said = ask(source, tmp_path / "out")
    assert (now != before, said) == (True, ["rows.parquet was written again, or replaced"])
    shutil.copy2(source, tmp_path / "copy")
    assert prepare(source, tmp_path / "again") == before, "content is all that counts, and the size stands for it"
    os.replace(tmp_path / "copy", source)
    assert ask(source, tmp_path / "again")[1] == ["rows.parquet was written again, or replaced"], "another inode"
    write_table(source, seed=9, count=9)
    assert ask(source, tmp_path / "again")[1] == ["rows.parquet has other content"]


def find_facts(path: Path) -> tuple[int, int, int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def test_the_demo_reads_no_file(tmp_path: Path) -> None:
    staged = stage("demo", tmp_path / "out", max_samples=3)
    assert staged.files_read == []
    assert not (tmp_path / "out/files.jsonl").exists()
    assert ask("demo", tmp_path / "out") == ("", [])
    source = write_records(tmp_path / "in")
    assert ask(source, tmp_path / "out")[0]


@pytest.mark.parametrize("change", ["nothing", "image", "touch", "root", "labels"])
def test_an_interrupted_call_goes_on_from_what_is_still_the_same(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two units of three are read, then it stops; what was read is that of a call that never stopped."""
    source = write_records(tmp_path / "in", count=600)
    write_records(tmp_path / "other", count=600, seed=5000)
    location = SourceLocation()
    with monkeypatch.context() as patch:
        patch.setattr("interlace_cli.data.staging.Staging.finish", stop_at_the_third(Staging.finish))
        with pytest.raises(KeyboardInterrupt):
            stage(source, tmp_path / "out", location)
    first = tmp_path / "in/images/0.png"
    if change == "image":
        write_image(first, 7000, first.stat().st_size)
    if change == "touch":
        os.utime(first, (1, 1))
    if change == "root":
        location = SourceLocation(tmp_path / "other")
    if change == "labels":
        source.write_text(source.read_text().replace("Who?", "How?"))
    read: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(SampleWriter, "__init__", count_calls(SampleWriter.__init__, read))
        resumed = stage(source, tmp_path / "out", location)
    whole = stage(source, tmp_path / "whole", location)
    assert resumed.files_read == whole.files_read
    assert len(resumed.files_read) == 601
    assert contents(resumed) == contents(whole)
    assert len(read) == {"nothing": 1, "touch": 1, "image": 2, "root": 3, "labels": 3}[change]


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize("change", ["nothing", "rows", "list"])
def test_an_interrupted_call_does_not_go_on_from_rows_of_another_file(
    change: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was read has other rows now, and is as large as it was; or the list of what was read is broken."""

    def write(path: Path, answer: str) -> None:
        if kind == "tar":
            write_tar(path, caption=answer)
            return
        talk = [TALK[0], {"from": "gpt", "value": answer}]
        pq.write_table(pa.Table.from_pylist([{"conversations": talk}]), path, compression="none")

    (tmp_path / "in").mkdir()
    for name in "abc":
        write(tmp_path / f"in/{name}.{kind}", "Me.")
    with monkeypatch.context() as patch:
        patch.setattr("interlace_cli.data.staging.Staging.finish", stop_at_the_third(Staging.finish))
        with pytest.raises(KeyboardInterrupt):
            stage(tmp_path / "in", tmp_path / "out")
    if change == "rows":
        first = tmp_path / f"in/a.{kind}"
        size = first.stat().st_size
        write(first, "Us.")
        assert first.stat().st_size == size
    if change == "list":
        path = next((tmp_path / ".out.preparing-key").glob("unit-000000.files.jsonl"))
        path.write_bytes(b"")
    read: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(SampleWriter, "__init__", count_calls(SampleWriter.__init__, read))
        resumed = stage(tmp_path / "in", tmp_path / "out")
    whole = stage(tmp_path / "in", tmp_path / "whole")
    assert (resumed.files_read, contents(resumed)) == (whole.files_read, contents(whole))
    assert len(read) == (1 if change == "nothing" else 2)


def test_a_file_that_changes_while_the_dataset_is_made_counts_as_changed(tmp_path: Path) -> None:
    """What was read of it first is what is recorded, whatever comes after."""
    write_image(tmp_path / "a.png", 1)
    write_table(tmp_path / "a.parquet")
    roots = {"source": tmp_path, "image": tmp_path}
    recorder, second = FileRecorder(roots), FileRecorder(roots)
    recorder.read("image", "a.png")
    recorder.note_opened(["a.parquet"])
    before = recorder.files
    write_image(tmp_path / "a.png", 2)
    write_table(tmp_path / "a.parquet", seed=9)
    second.read("image", "a.png")
    recorder.add(second.files)
    recorder.digest_small()
    assert recorder.files == before
    assert [has_changed(*pair) for pair in zip(before, look_again(before, roots), strict=True)] == [True, True]


def stop_at_the_third(finish: Any) -> Any:
    def stopped(staging: Staging, number: int, *rest: Any) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return finish(staging, number, *rest)

    return stopped


def count_calls(init: Any, calls: list[str]) -> Any:
    def counted(writer: SampleWriter, folder: Path, name: str) -> None:
        calls.append(name)
        init(writer, folder, name)

    return counted


def contents(staged: Staged) -> list[Any]:
    return [row for path in staged.find_files(TABLE) for row in pq.read_table(path).to_pylist()]


def test_the_list_opens_as_it_was_saved_and_a_broken_one_is_said(tmp_path: Path) -> None:
    files = [
        FileRead("image:\udcff\udcfe.png", "ab", 3, 4, 5, 6),
        FileRead("image:a\nb\u2028c.png", None, 3),
        FileRead("source:x:y.json", None, None),
    ]
    save_files_read(tmp_path, files[::-1])
    assert load_files_read(tmp_path) == sorted(files)
    assert hash_files_read(files) == hash_files_read(files[::-1])
    whole = (tmp_path / "files.jsonl").read_bytes()
    for broken in (whole[:-9], b"[]\n", b"{}\n", whole.replace(b'"ab"', b"7"), b'{"name_bytes":"zz"}\n', b"\xff\n"):
        (tmp_path / "files.jsonl").write_bytes(broken)
        with pytest.raises(DatasetError, match=r"files\.jsonl is broken"):
            load_files_read(tmp_path)


def test_a_name_that_is_no_text_is_found_again(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "in", count=1)
    name = os.fsdecode(b"\xff")
    (folder / f"{name}.png").write_bytes(make_image(7))
    (folder / f"{name}.txt").write_text("Seven.")
    before = prepare(folder, tmp_path / "out")
    (folder / f"{name}.txt").write_text("Eight.")
    assert ask(folder, tmp_path / "out")[0] != before


def test_hashes_depend_on_name_and_content_alone() -> None:
    one = FileRead("source:a", "ab", 1, 2, 3, 4)
    assert hash_files_read([one]) == hash_files_read([FileRead("source:a", "ab", 9, 9, 9, 9)])
    others = [
        FileRead("image:a", "ab", 1, 2, 3, 4),
        FileRead("source:a", "cd", 1, 2, 3, 4),
        FileRead("source:a", None, 1, 2, 3, 4),
        FileRead("source:a", None, 2, 2, 3, 4),
        FileRead("source:a"),
    ]
    assert len({hash_files_read([file]) for file in [one, *others]}) == 6


def test_datasets_opens_a_folder_with_the_list_in_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    staged = stage(write_records(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "out/manifest.json").write_text("{}")
    (tmp_path / "out/data").mkdir()
    for number, path in enumerate(tables := staged.find_files(TABLE)):
        shutil.copy(path, tmp_path / f"out/data/train-{number:05d}-of-{len(tables):05d}.parquet")
    opened = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in opened.items()} == {"train": 4}
