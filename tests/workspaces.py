"""Workspaces of one's own: a source of conversations about pictures, the chain on it, and what a command changed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from interlace_cli.cli.app import app
from interlace_cli.data.demo import DemoSource
from interlace_cli.data.source import RawRecord, Selection, Unit
from interlace_cli.io.file_records import FileRecorder

LEFT_OUT = "left out"
STEPS = ("prepare", "analyze", "plan", "prune", "finetune", "eval", "export")
COUNT = 40
RECIPE = {"lr": "1e-3", "heal-batch-size": "8", "grad-accum": "1"}
CHOICE = {"ratio": "0.25", "triplet-selection": "optimal", "holdout": "0.3", "calibration": "0.25"}
"""Two of eight layers go; of forty samples 12 are held out, and 7 are to calibrate on."""


@dataclass(frozen=True)
class Called:
    """How a command ended. `sentence` is its error, or empty."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        return " ".join(self.err.partition("Error: ")[2].split())

    @property
    def said(self) -> str:
        """All that was said, in one line."""
        return " ".join(self.err.split())

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*words: object) -> Called:
    """`interlace WORDS` in this process; a bug of ours is none of its ends."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    found = Called(done.exit_code, done.stdout, done.stderr)
    assert "Traceback" not in found.err, found.err
    assert "bug of interlace" not in found.err, found.err
    return found


def succeed(*words: object) -> Called:
    """As `call`, of what has to succeed."""
    found = call(*words)
    assert found.code == 0, found.err
    return found


def refuse(*words: object, code: int = 1) -> str:
    """As `call`, of what has to be refused, in one sentence, which is returned."""
    found = call(*words)
    assert found.code == code, found.out + found.err
    assert found.err.count("Error: ") == 1, found.err
    assert not found.out
    return found.sentence


def to_words(options: Mapping[str, object]) -> list[str]:
    """`{"lr": 1}` -> `["--lr", "1"]`; a value of None is a flag without one, LEFT_OUT none at all."""
    words: list[str] = []
    for name, value in options.items():
        if value == LEFT_OUT:
            continue
        words += [f"--{name}"] if value is None else [f"--{name}", str(value)]
    return words


def build_run(model: Path, data: Path | str, space: Path, **more: object) -> list[str]:
    """The words of `run` on a source of one's own."""
    options = {
        **RECIPE,
        **CHOICE,
        "data": data,
        "workspace": space,
        **{k.replace("_", "-"): v for k, v in more.items()},
    }
    return ["run", str(model), *to_words(options), "--no-speed"]


@dataclass(frozen=True)
class Own:
    """The words of the run that made `space` from `model` and `data`."""

    model: Path
    data: Path
    space: Path
    words: list[str]

    def at(self, space: Path, **more: object) -> list[str]:
        """The same run in another workspace, with other options."""
        return build_run(self.model, str(more.pop("data", self.data)), space, **more)


def list_records(count: int, seed: int) -> list[RawRecord]:
    """Pictures and questions of the demo's world."""
    source = DemoSource()
    found = source.iter_records(Unit("demo", count), Selection(seed=seed), FileRecorder(source.roots))
    return [record for record in found if isinstance(record, RawRecord)]


def write_source(folder: Path, name: str = "vqa.json", count: int = COUNT, seed: int = 0, texts: int = 0) -> Path:
    """A JSON list of conversations, the images in `images/`; the last `texts` of them are without."""
    (folder / "images").mkdir(parents=True)
    records = []
    for index, record in enumerate(list_records(count, seed)):
        turns = [{"from": turn.speaker, "value": turn.value.replace("<image>\n", "")} for turn in record.conversations]
        one: dict[str, Any] = {"id": str(index), "conversations": turns}
        if index < count - texts:
            one["image"] = f"images/{index}.png"
            (folder / one["image"]).write_bytes(record.images[0])
        else:
            turns[0]["value"] += f" of the number {index}?"
        records.append(one)
    (folder / name).write_text(json.dumps(records))
    return folder / name


def list_files(space: Path) -> dict[str, str]:
    """Name -> digest of everything in the folder, hidden files too."""
    found = {path.relative_to(space).as_posix(): path for path in sorted(space.rglob("*")) if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


def list_times(space: Path) -> dict[str, int]:
    """Name -> time of modification of everything in the folder: what was written again with the same bytes has
    another one."""
    return {path.relative_to(space).as_posix(): path.stat().st_mtime_ns for path in space.rglob("*") if path.is_file()}


def copy(space: Path, to: Path) -> Path:
    """A finished workspace, to be worked on."""
    shutil.copytree(space, to)
    return to


def change(path: Path, **fields: Any) -> None:
    """Other fields in a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def look_ahead(words: list[str], *more: str) -> dict[str, tuple[str, str]]:
    """Step -> what `run --dry-run` would do, and why."""
    steps = succeed(*words, *more, "--dry-run", "--json").json["steps"]
    return {one["step"]: (one["action"], "; ".join(one["reasons"])) for one in steps}


def ask_status(space: Path) -> dict[str, tuple[str, str]]:
    """Step -> its condition, and why."""
    holdings = succeed("status", "-w", space, "--json").json["holdings"]
    return {one["step"]: (one["condition"], "; ".join(one["reasons"])) for one in holdings}


def draw_other_picture(seed: int = 0) -> bytes:
    """Bytes of a picture that no source here has."""
    return list_records(1, 1000 + random.Random(seed).randrange(1000))[0].images[0]


def put_in_cache(folder: Path, cache: Path, name: str, revision: str) -> None:
    """As the Hub's library has it: files are links to blobs, and the branch is a file with the commit."""
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    snapshot = root / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
        shutil.copyfile(file, root / f"blobs/{number:040d}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040d}")
    (root / "refs/main").write_text(revision)
