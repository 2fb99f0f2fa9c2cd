"""Tar files, folders of images and results of other programs, from strangers."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from outcome import call, refuse
from test_strange_data import PNG

TALK = json.dumps(
    {"conversations": [{"from": "human", "value": "<image> what?"}, {"from": "gpt", "value": "it"}]}
).encode()


def pack(path: Path, members: list[tuple[str, bytes]], **links: str) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)


GOOD = [(f"{n}.{suffix}", data) for n in range(6) for suffix, data in (("png", PNG), ("json", TALK))]
WHOLE = ("--holdout", "0", "--calibration", "0")
"""They all have one picture, which cannot be in two splits."""
MEMBERS: dict[str, list[tuple[str, bytes]]] = {
    "up and out": [("../../evil.png", PNG), ("../../evil.json", TALK)],
    "absolute": [("/tmp/evil.png", PNG), ("/tmp/evil.json", TALK)],
    "no name": [("", PNG)],
    "no suffix": [("evil", PNG)],
    "an image alone": [("9.png", PNG)],
    "words alone": [("9.json", TALK)],
    "words that are no JSON": [("9.png", PNG), ("9.json", b"{")],
    "words that are a list": [("9.png", PNG), ("9.json", b"[1]")],
    "an image that is none": [("9.png", b"x"), ("9.json", TALK)],
    "the same member twice": [("9.png", PNG), ("9.png", PNG), ("9.json", TALK), ("9.json", TALK)],
    "a name that is no UTF-8": [("\udcff\udcfe.png", PNG), ("\udcff\udcfe.json", TALK)],
    "control characters": [("\x07\x1b[31m.png", PNG), ("\x07\x1b[31m.json", TALK)],
    "a name of 3000 letters": [("n" * 3000 + ".png", PNG), ("n" * 3000 + ".json", TALK)],
}


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_all_kinds(name: str, tmp_path: Path) -> None:
    pack(tmp_path / "data.tar", GOOD + MEMBERS[name])
    found = call("prepare", tmp_path / "data.tar", *WHOLE, "-w", tmp_path / "w", "--json")
    assert found.code == 0, found.err
    assert sum(split["samples"] for split in json.loads(found.out)["splits"].values()) >= 6
    assert not (tmp_path.parent.parent / "evil.png").exists()
    assert not Path("/tmp/evil.png").exists()


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    pack(tmp_path / "data.tar", GOOD, a_png="/etc/passwd", a_json="/etc/passwd")
    found = call("prepare", tmp_path / "data.tar", *WHOLE, "-w", tmp_path / "w", "--json")
    assert found.code == 0, found.err
    assert "root:" not in found.out


@pytest.mark.parametrize("data", [b"", b"not a tar", b"\0" * 20_000, b"\x1f\x8b\x08" + b"\0" * 50], ids=repr)
def test_what_is_no_archive(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.tar").write_bytes(data[:40_000])
    refuse("prepare", tmp_path / "data.tar", "-w", tmp_path / "w", names="data.tar")


@pytest.mark.parametrize("keep", [100, 512, 700, 1024, 3000])
def test_an_archive_that_is_cut_off(keep: int, tmp_path: Path) -> None:
    pack(tmp_path / "data.tar", GOOD)
    (tmp_path / "data.tar").write_bytes((tmp_path / "data.tar").read_bytes()[:keep])
    call("prepare", tmp_path / "data.tar", "-w", tmp_path / "w", "--json")


METADATA: dict[str, str] = {
    "nothing": "",
    "not JSON": "{",
    "a list": "[]",
    "no file name": '{"text": "x"}',
    "up and out": '{"file_name": "../../../etc/passwd", "text": "x"}',
    "absolute": '{"file_name": "/etc/passwd", "text": "x"}',
    "a number": '{"file_name": 3, "text": 4}',
    "null": '{"file_name": null, "text": null}',
    "a file that is not there": '{"file_name": "ghost.png", "text": "x"}',
    "not UTF-8": '{"file_name": "\udcff.png", "text": "x"}',
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv"])
def test_metadata_of_images(name: str, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(PNG)
    (folder / file).write_bytes(METADATA[name].encode(errors="surrogateescape"))
    found = call("prepare", folder, "-w", tmp_path / "w", "--json")
    assert "root:" not in found.out + found.err


def test_a_folder_of_links_that_go_round(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    os.symlink(folder, folder / "again")
    os.symlink("/etc/passwd", folder / "a.png")
    (folder / "a.txt").write_text("words")
    found = call("prepare", folder, "-w", tmp_path / "w", "--json")
    assert found.code == 1
    assert "root:" not in found.err


RESULTS: list[Any] = [
    None,
    [],
    {},
    3,
    "x",
    {"results": "high"},
    {"results": {"mmmu": {"acc": "high"}}},
]


@pytest.mark.parametrize("value", [*RESULTS, {"results": {"mmmu_val": {"mmmu_acc,none": 1e400}}}], ids=str)
def test_results_of_a_harness(value: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    refuse("eval", "--import", f"dense={tmp_path / 'a.json'}", "-w", tmp_path / "w", names="a.json")


def test_a_report_of_whatever_lies_there(tmp_path: Path) -> None:
    for name in ("analysis.json", "plan.json", "eval.json", "compare.json"):
        (tmp_path / name).write_text('{"kind": 3')
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned/interlace.json").write_bytes(b"\xff")
    call("report", "-w", tmp_path)
