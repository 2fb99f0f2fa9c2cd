"""The files beside artifacts: the list of samples that a checkpoint has seen, and what a dataset says of its source."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcome import call, refuse
from PIL import Image

SAMPLES, FILES, ORIGIN = "interlace-samples.npz", "files.jsonl", "source.json"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty conversations, each about an image of its own, in a file."""
    folder = tmp_path_factory.mktemp("source")
    records = []
    for number in range(40):
        Image.new("RGB", (28, 28), (number * 6, 200 - number, 90)).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": f"{number}."}]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with everything up to a pruned checkpoint, from files of one's own."""
    space = tmp_path_factory.mktemp("finished")
    for words in (
        ("prepare", source, "--calibration", "0.4", "--holdout", "0.3"),
        ("analyze", "demo"),
        ("plan", "--ratio", "0.25"),
        ("prune",),
    ):
        found = call(*words, "-w", space, "-q")
        assert found.code == 0, found.err
    return space


@pytest.fixture
def space(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "space"))


class Boom:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("pickled-code-ran",)


def pack(compressed: bool = True, **arrays: Any) -> bytes:
    data = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(data, **arrays)
    return data.getvalue()


def pack_bytes(**members: bytes) -> bytes:
    """Of members that are no arrays, or say that they are others."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return data.getvalue()


def claim(shape: str, dtype: str = "<u8", data: bytes = b"") -> bytes:
    """An .npy whose header says what it likes."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


KEYS = np.arange(40, dtype=np.uint64)
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "text": b"not an archive",
    "a zip's first bytes": b"PK\x03\x04" + b"\0" * 60,
    "cut off": pack(trained=KEYS)[:-40],
    "cut in half": pack(trained=KEYS)[:150],
    "a bit flipped in the data": pack(trained=KEYS).replace(KEYS.tobytes()[8:9], b"\x7f", 1)[:200],
    "a pickle": pickle.dumps(Boom()),
    "pickled objects": pack(trained=np.array([Boom(), Boom()], dtype=object)),
    "a pickle for a member": pack_bytes(trained=pickle.dumps(Boom())),
    "an array and no archive": claim("(3,)", data=KEYS[:3].tobytes()),
    "floats": pack(trained=np.ones(3)),
    "texts": pack(trained=np.array(["a", "b"])),
    "signed numbers": pack(trained=np.arange(3)),
    "numbers of 32 bits": pack(calibrated=np.arange(3, dtype=np.uint32)),
    "the other byte order": pack(trained=np.arange(3, dtype=">u8")),
    "a table": pack(trained=KEYS.reshape(8, 5)),
    "one number": pack(trained=np.uint64(3)),
    "records": pack(trained=np.zeros(3, dtype=[("a", "u8"), ("b", "u8")])),
    "a member that is none": pack_bytes(trained=b"x" * 500),
    "an empty member": pack_bytes(trained=b""),
    "fewer keys than it says": pack_bytes(trained=claim("(1000,)", data=KEYS.tobytes())),
    "more than there is memory": pack_bytes(trained=claim("(1000000000000000,)")),
    "a shape beyond 64 bits": pack_bytes(trained=claim(f"({10**30},)")),
    "a negative shape": pack_bytes(trained=claim("(-3,)")),
    "a shape that is a text": pack_bytes(trained=claim("'abc'")),
    "a header that is code": pack_bytes(trained=claim("__import__('os').mkdir('pickled-code-ran')")),
    "a header that is deep": pack_bytes(trained=claim("(" * 500 + ")" * 500)),
    "a bomb": pack(trained=np.zeros(100_000_000, dtype=np.uint64)),
}
HARMLESS: dict[str, bytes] = {
    "no arrays": pack(),
    "an empty zip": b"PK\x05\x06" + b"\0" * 18,
    "other names": pack(seen=KEYS, bomb=np.array([None, 1], dtype=object)),
    "no keys": pack(trained=KEYS[:0]),
    "not packed": pack(compressed=False, trained=KEYS),
    "twice and not in order": pack(trained=np.array([9, 1, 9], dtype=np.uint64)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_list_of_samples_that_is_broken(name: str, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who builds on the checkpoint refuses it; who has made it makes the list again."""
    monkeypatch.chdir(space.parent)
    path = space / "pruned" / SAMPLES
    whole = path.read_bytes()
    path.write_bytes(BROKEN[name])
    for words in (["eval", "demo", space / "pruned", "--no-speed"], ["finetune", "--epochs", "0.1"]):
        refuse(*words, "-w", space, "-q", names=str(path))
    assert not (space / "healed").exists()
    assert not (space / "eval.json").exists()
    found = call("status", "-w", space, "--json")
    states = {one["step"]: one["condition"] for one in json.loads(found.out)["holdings"]}
    assert states["prune"] == "incomplete"
    found = call("prune", "-w", space, "-q")
    assert found.code == 0, found.err
    assert path.read_bytes() == whole
    assert not (space.parent / "pickled-code-ran").exists()


@pytest.mark.parametrize("name", HARMLESS)
def test_a_list_of_samples_that_only_looks_broken(name: str, space: Path) -> None:
    (space / "pruned" / SAMPLES).write_bytes(HARMLESS[name])
    found = call("eval", "demo", space / "pruned", "--no-speed", "-w", space, "-q")
    assert found.code == 0, found.err


def test_every_bit_of_the_list_of_samples(space: Path) -> None:
    """Found, or without a meaning: what is read is what was written."""
    from interlace_cli.errors import CheckpointError
    from interlace_cli.io.sample_keys import load_keys

    path, rng = space / "pruned" / SAMPLES, np.random.default_rng(0)
    whole, keys = path.read_bytes(), load_keys(space / "pruned")
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = load_keys(space / "pruned")
        except CheckpointError:
            refused += 1
            continue
        assert all(np.array_equal(found[name], keys[name]) for name in found)
    assert refused > 100


def test_a_folder_or_a_link_in_place_of_the_list(space: Path) -> None:
    path = space / "pruned" / SAMPLES
    for make in (path.mkdir, lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to(path.name)):
        path.unlink()
        make()
        call("eval", "demo", space / "pruned", "--no-speed", "-w", space, "-q", "--force")
        call("status", "-w", space)
        if path.is_dir():
            path.rmdir()
            path.touch()


def test_a_list_beside_a_strangers_model(space: Path, tmp_path: Path) -> None:
    """It is read before anything is cut."""
    from interlace_cli.demo import CHECKPOINT

    model = Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))
    (model / SAMPLES).write_bytes(BROKEN["pickled objects"])
    refuse("prune", model, "--drop-layers", "3", "--out", tmp_path / "out", "-q", names=str(model / SAMPLES))
    assert not (tmp_path / "out").exists()


LINE = {"name": "source:data.json", "digest": None, "size": 3, "mtime_ns": 1, "ctime_ns": 1, "inode": 1}


def to_line(**changes: Any) -> bytes:
    return json.dumps({**LINE, **changes}).encode() + b"\n"


def to_named_line(name: str) -> bytes:
    """Of a file whose name is no text: its bytes, in hexadecimal."""
    return (
        json.dumps({"name_bytes": name, **{field: LINE[field] for field in LINE if field != "name"}}).encode() + b"\n"
    )


LISTS: dict[str, bytes] = {
    "text": b"x",
    "a list": b"[]\n",
    "null": b"null\n",
    "a number": b"3\n",
    "cut off": to_line()[:40],
    "no UTF-8": b'{"name": "\xff"}\n',
    "zeros": b"\0" * 4096,
    "deep": b'{"name":' * 5000,
    "an empty object": b"{}\n",
    "another field": to_line(more=1),
    "no digest": json.dumps({name: value for name, value in LINE.items() if name != "digest"}).encode(),
    "a name that is a number": to_line(name=3),
    "a name of null": to_line(name=None),
    "a size that is a text": to_line(size="3"),
    "a size that is a fraction": to_line(size=3.5),
    "a digest that is a list": to_line(digest=["a"]),
    "times of texts": to_line(mtime_ns="now"),
    "bytes that are none": to_named_line("xyz"),
}
CHANGED: dict[str, bytes] = {
    "nothing": b"",
    "empty lines": b"\n\n\n",
    "no root": to_line(name="data.json"),
    "another root": to_line(name="home:data.json"),
    "an empty name": to_line(name=""),
    "up and out": to_line(name="source:../../../../etc/passwd", digest="0" * 32),
    "absolute": to_line(name="source:/etc/passwd", digest="0" * 32),
    "a device": to_line(name="source:/dev/zero", digest="0" * 32),
    "what was not there, up and out": to_line(name="image:../../../../etc/passwd", size=None),
    "a folder": to_line(name="source:.", digest="0" * 32),
    "a zero byte": to_line(name="source:a\0b", digest="0" * 32),
    "a name of 5000 letters": to_line(name=f"source:{'n' * 5000}", digest="0" * 32),
    "a lone surrogate": to_named_line("736f757263653aff"),
    "a negative size": to_line(size=-1),
    "true for a size": to_line(size=True),
    "a digest that is none": to_line(digest=""),
    "the same twice": to_line() * 2,
    "control characters": to_line(name="source:\x1b[31m\n\x07"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_files_that_is_broken(name: str, space: Path, source: Path) -> None:
    path = space / "dataset" / FILES
    whole, manifest = path.read_bytes(), (space / "dataset/manifest.json").read_bytes()
    path.write_bytes(LISTS[name])
    words = ("prepare", source, "--calibration", "0.4", "--holdout", "0.3", "-w", space, "-q")
    refuse(*words, names=str(path))
    assert path.read_bytes() == LISTS[name]
    found = call("status", "-w", space, "--json")
    states = {one["step"]: (one["condition"], one["reasons"]) for one in json.loads(found.out)["holdings"]}
    assert states["prepare"][0] == "stale"
    assert FILES in states["prepare"][1][0]
    found = call(*words, "--force")
    assert found.code == 0, found.err
    assert path.read_bytes() == whole
    assert (space / "dataset/manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("name", CHANGED)
def test_a_list_of_other_files(name: str, space: Path, source: Path) -> None:
    """It says of what the dataset was made: another list is another source."""
    path = space / "dataset" / FILES
    path.write_bytes(CHANGED[name])
    words = ("prepare", source, "--calibration", "0.4", "--holdout", "0.3", "-w", space)
    found = refuse(*words, names="dataset exists already")
    assert "--force" in found.sentence
    assert "root:" not in found.err
    assert found.sentence.isprintable()
    assert path.read_bytes() == CHANGED[name]
    assert call("status", "-w", space).code == 0


ORIGINS: dict[str, bytes] = {
    "nothing": b"",
    "text": b"x",
    "a list": b"[]",
    "null": b"null",
    "cut off": b'{"source": "/',
    "no UTF-8": b'{"source": "\xff"}',
    "an empty object": b"{}",
    "no source": b'{"image_root": "/"}',
    "a source that is a number": b'{"source": 3}',
    "a source of null": b'{"source": null}',
    "a source that is a list": b'{"source": ["a"]}',
    "another field": b'{"source": "data.json", "more": 1}',
    "an option of another kind": b'{"source": "demo", "force": true, "out": "/tmp/elsewhere"}',
    "a wrong option": b'{"source": "demo", "portion": 7}',
    "a workspace": b'{"source": "demo", "workspace": "/tmp/elsewhere"}',
    "a source that is not there": b'{"source": "/ghost/data.json"}',
    "a zero byte": b'{"source": "a\\u0000b"}',
    "a source of 5000 letters": json.dumps({"source": "n" * 5000}).encode(),
    "a home of nobody": b'{"source": "~no-such-user/data.json"}',
    "a device": b'{"source": "/dev/zero"}',
    "a link's text": b"/etc/passwd",
    "deep": b'{"source":' * 5000,
    "the Hub": b'{"source": "owner/name", "mirror": "/ghost"}',
}


@pytest.mark.parametrize("name", ORIGINS)
def test_what_a_dataset_says_of_its_source(name: str, space: Path, source: Path) -> None:
    """Only `status` asks it; nobody builds on it."""
    path = space / "dataset" / ORIGIN
    path.write_bytes(ORIGINS[name])
    found = call("status", "-w", space, "--json")
    assert found.code == 0, found.err
    assert "root:" not in found.out
    states = {one["step"]: one["condition"] for one in json.loads(found.out)["holdings"]}
    assert states["prepare"] in ("up to date", "stale")
    assert states["prune"] == "up to date"
    assert path.read_bytes() == ORIGINS[name]
    found = call("analyze", "demo", "-w", space, "-q")
    assert found.code == 0, found.err
    found = refuse("prepare", source, "--calibration", "0.4", "--holdout", "0.3", "-w", space, names="up to date")


def test_a_folder_in_place_of_what_a_dataset_says(space: Path, source: Path) -> None:
    for name in (FILES, ORIGIN):
        path = space / "dataset" / name
        path.unlink()
        path.mkdir()
        assert call("status", "-w", space).code == 0
        call("prepare", source, "-w", space, "-q")
        path.rmdir()
    assert call("analyze", "demo", "-w", space, "-q").code == 0
