"""Artifacts that are broken, changed or made up: found before anything is built on them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcome import call, refuse

from interlace_cli.demo import CHECKPOINT
from interlace_cli.io.datasets import _open_reader, load_split, open_reader


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with everything up to a pruned checkpoint and its evaluation."""
    space = tmp_path_factory.mktemp("finished")
    for words in (
        ("prepare", "demo", "--max-samples", "80", "--calibration", "0.4", "--holdout", "0.3"),
        ("analyze", "demo"),
        ("plan", "--ratio", "0.25"),
        ("prune",),
        ("eval", "demo", space / "pruned", "--no-speed"),
    ):
        found = call(*words, "-w", space, "-q")
        assert found.code == 0, found.err
    return space


@pytest.fixture
def space(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "space"))


USERS: dict[str, list[str]] = {
    "analysis.json": ["plan", "--ratio", "0.2", "--force"],
    "plan.json": ["prune", "--force"],
    "dataset/manifest.json": ["analyze", "demo", "--force"],
    "pruned/interlace.json": ["finetune", "--epochs", "0.1"],
    "pruned/config.json": ["finetune", "--epochs", "0.1"],
    "pruned/model.safetensors": ["export"],
    "eval.json": ["export", "{pruned}"],
}
"""Each artifact, and a command that builds on it."""


def use(space: Path, name: str) -> list[str | Path]:
    return [space / "pruned" if word == "{pruned}" else word for word in USERS[name]] + ["-w", space, "-q"]


MAKERS: dict[str, list[str]] = {
    "dataset/manifest.json": ["prepare", "demo", "--max-samples", "80", "--calibration", "0.4", "--holdout", "0.3"],
    "analysis.json": ["analyze", "demo"],
    "plan.json": ["plan", "--ratio", "0.25"],
    "pruned/interlace.json": ["prune"],
    "eval.json": ["eval", "demo", "{pruned}", "--no-speed"],
}
"""Each artifact, and the command that has made it."""


@pytest.mark.parametrize("name", MAKERS)
def test_what_cannot_be_read_is_not_replaced_without_being_asked_to(name: str, space: Path) -> None:
    """It may be somebody's own, or of a newer version."""
    path, rng = space / name, random.Random(name)
    words = [space / "pruned" if word == "{pruned}" else word for word in MAKERS[name]]
    # An evaluation names checkpoints by their places, and the workspace has moved.
    assert call(*words, "-w", space, "-q", "--force").code == 0
    whole = path.read_bytes()
    for broken in (b"", b"{", whole[:-20], whole.replace(b'"schema": ', b'"schema": 99', 1), None):
        if broken is None:
            flip(path, rng)
        else:
            path.write_bytes(broken)
        found = path.read_bytes()
        refused = refuse(*words, "-w", space, "-q", names=path.name)
        assert "exists already" in refused.sentence
        assert "--force" in refused.sentence
        assert path.read_bytes() == found
        again = call(*words, "-w", space, "-q", "--force")
        assert again.code == 0, again.err
        assert path.read_bytes() == whole


def test_a_run_replaces_nothing_that_it_cannot_read(space: Path) -> None:
    """It says so before the first step."""
    (space / "plan.json").write_text("mine")
    (space / "eval.json").unlink()
    (space / "analysis.safetensors").unlink()
    words = ["run", "demo", "--ratio", "0.25", "--data", "demo", "--max-samples", "80", "--calibration", "0.4"]
    refused = refuse(*words, "--holdout", "0.3", "-w", space, "-q", names="plan.json")
    assert "--force" in refused.sentence
    assert (space / "plan.json").read_text() == "mine"
    assert not (space / "analysis.safetensors").exists()


def flip(path: Path, rng: random.Random, start: int = 0, length: int | None = None) -> None:
    """A bit, of the whole file or of `length` bytes from `start` on."""
    data = bytearray(path.read_bytes())
    data[start + rng.randrange(length or len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("name", USERS)
def test_any_flipped_bit_is_found(name: str, space: Path) -> None:
    rng, path = random.Random(name), space / name
    whole = path.read_bytes()
    words = use(space, name)
    if name == "pruned/model.safetensors":
        words = ["export", space / "pruned", "-w", space, "-q"]
    for _ in range(12):
        flip(path, rng)
        # The evaluation of the flipped passport speaks of another checkpoint, so export has to look at both.
        refuse(*words, names=Path(name).name if "config" not in name else "pruned")
        path.write_bytes(whole)


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.999])
def test_what_is_cut_off_is_found(name: str, keep: float, space: Path) -> None:
    path = space / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else 1])
    words = use(space, name)
    if name == "pruned/model.safetensors":
        words = ["export", space / "pruned", "-w", space, "-q"]
    refuse(*words, names=Path(name).name if "config" not in name else "pruned")


def test_a_flipped_bit_in_a_picture_or_a_sample(space: Path) -> None:
    rng = random.Random(0)
    (path,) = (space / "dataset/data").iterdir()
    whole, index = path.read_bytes(), open_reader(space / "dataset").index
    names = [name for sample in load_split(space / "dataset", "calibration") for name in sample.image]
    for number in range(24):
        # Half of them in a picture that is looked at, half anywhere.
        name = rng.choice(names) if number % 2 else None
        _, start, length = index.find_image(name) if name else (path, 0, len(whole))
        flip(path, rng, start, length)
        _open_reader.cache_clear()
        found = call("analyze", "demo", "-w", space, "--out", space / f"again-{number}.json", "-q")
        if found.code == 0:
            # A byte that nobody reads: padding, or a statistic.
            again = json.loads((space / f"again-{number}.json").read_text())
            assert again["similarity"] == json.loads((space / "analysis.json").read_text())["similarity"]
        assert found.code == 1 or name is None
        path.write_bytes(whole)


def test_arrays_of_another_analysis_are_not_taken(space: Path) -> None:
    """A call that was killed between the two files leaves such."""
    path = space / "analysis.safetensors"
    before = (space / "analysis.json").read_bytes()
    flip(path, random.Random(1))
    found = call("analyze", "demo", "-w", space)
    assert found.code == 0
    assert "analysis.safetensors does not belong to it: it is made again" in found.err
    assert (space / "analysis.json").read_bytes() == before


def test_who_leaves_out_the_seal_may_change_what_they_like(space: Path) -> None:
    path = space / "analysis.json"
    analysis = json.loads(path.read_text())
    analysis["similarity"]["s3"][5] = 0.999
    path.write_text(json.dumps(analysis))
    refuse("plan", "--ratio", "0.2", "--force", "-w", space, "-q", names="delete the field `sha256`")
    del analysis["sha256"]
    path.write_text(json.dumps(analysis))
    assert call("plan", "--ratio", "0.2", "--force", "-w", space, "-q").code == 0


def test_a_checkpoint_that_somebody_changed(space: Path) -> None:
    config = json.loads((space / "pruned/config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (space / "pruned/config.json").write_text(json.dumps(config))
    refuse("eval", "demo", space / "pruned", "-w", space, "--force", "-q", names="config.json is not what interlace")
    passport = json.loads((space / "pruned/interlace.json").read_text())
    del passport["files"], passport["sha256"]
    (space / "pruned/interlace.json").write_text(json.dumps(passport))
    assert call("eval", "demo", space / "pruned", "-w", space, "--force", "-q", "--no-speed").code == 0


def every_field(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path, *(found for key, item in inner for found in every_field(item, (*path, key)))]


ODD: list[Any] = [None, True, -1, 0, 10**30, 1.5, "", "x", [], {}, [None], {"a": 1}, "\u0000", [[]] * 3]


@pytest.mark.parametrize("name", ["analysis.json", "plan.json", "pruned/interlace.json", "eval.json"])
def test_a_field_of_any_other_value(name: str, space: Path) -> None:
    """Its seal taken off: as an edit, or another program's work."""
    path, rng = space / name, random.Random(name)
    whole = json.loads(path.read_text())
    del whole["sha256"]
    fields = [field for field in every_field(whole) if field]
    for field in rng.sample(fields, min(len(fields), 40)):
        changed = json.loads(json.dumps(whole))
        owner = changed
        for key in field[:-1]:
            owner = owner[key]
        owner[field[-1]] = rng.choice(ODD)
        path.write_text(json.dumps(changed))
        call(*(["prune", "--dry-run", "-w", space] if name == "plan.json" else use(space, name)))


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "cut off": b'{"kind": "interlace.plan"',
    "another kind": b'{"kind": "interlace.analysis", "schema": 1}',
    "no kind": b"{}",
    "a kind that is a list": b'{"kind": []}',
    "a schema of the future": b'{"kind": "interlace.plan", "schema": 999}',
    "a schema that is a text": b'{"kind": "interlace.plan", "schema": "1"}',
    "not UTF-8": b'{"kind": "\xff"}',
    "NaN": b'{"kind": "interlace.plan", "schema": NaN}',
    "deep": b'{"kind":' * 5000,
    "zeros": b"\0" * 4096,
    "a surrogate": b'{"kind": "\\ud800"}',
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["plan.json", "analysis.json"])
def test_what_is_no_artifact(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TEXTS[text])
    words = ["prune"] if name == "plan.json" else ["plan", "--ratio", "0.2"]
    refuse(*words, "-w", tmp_path, names=name)


SCORES: dict[str, Any] = {
    "a list": [],
    "no layers": {},
    "a number": 3,
    "names for layers": {"first": [0.5]},
    "a layer left out": {"0": [0.5], "2": [0.5]},
    "negative layers": {"-1": [0.5], "0": [0.5]},
    "a number of 5000 digits": {"9" * 5000: [0.5]},
    "a layer beyond counting": {"0": [0.5], "99999999999": [0.5]},
    "no samples": {str(i): [] for i in range(11)},
    "texts": {str(i): ["0.5"] for i in range(11)},
    "null": {str(i): None for i in range(11)},
    "numbers and no lists": {str(i): 0.5 for i in range(11)},
    "no cosine": {str(i): [7.5] for i in range(11)},
    "beyond floats": {str(i): [10**400] for i in range(11)},
    "lists in lists": {str(i): [[0.5]] for i in range(11)},
    "more samples in one": {str(i): [0.5] * (i + 1) for i in range(11)},
}


@pytest.mark.parametrize("name", SCORES)
def test_score_files_of_all_kinds(name: str, tmp_path: Path) -> None:
    files = []
    for p in (1, 2, 3):
        files.append(tmp_path / f"pack{p}.json")
        files[-1].write_text(json.dumps({str(i): [0.5, 0.6] for i in range(12 - p)}))
    files[0].write_text(json.dumps(SCORES[name]))
    refuse("plan", "--ratio", "0.25", "-w", tmp_path / "w", "--scores", *files, names="pack1.json")


FILES: dict[str, Callable[[Path], list[str | Path]]] = {
    "compare --config": lambda path: ["compare", "--config", path],
    "eval --tasks": lambda path: ["eval", "demo", "--tasks", path],
}
CONTENT = [
    "[",
    "a: [",
    "3",
    "- 1",
    "\0",
    "a: !!python/object/apply:os.mkdir ['ran']",
    "x: &x [*x]",
    "strategies: {a: 1}",
]


def test_a_file_without_options_is_as_none(tmp_path: Path) -> None:
    for number, text in enumerate(["", "# nothing yet\n", "{}", "ratio:\n", "ratio: null\n"]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        refuse("plan", "--ratio", "0.2", "--config", path, "-w", tmp_path / "w", names="there is no")
        refuse("eval", "demo", "--tasks", path, "-w", tmp_path / "w", names=path.name)


@pytest.mark.parametrize("text", [*CONTENT, "lr: abc", "epochs: [1]", "ratios: {}", "samples: 0", "tasks: [{}]"])
@pytest.mark.parametrize("name", FILES)
def test_files_of_options(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "options.yaml"
    path.write_text(text)
    refuse(*FILES[name](path), "-w", tmp_path / "w", names="options.yaml")
    assert not (tmp_path / "ran").exists()


TASKS: dict[str, Any] = {
    "no name": {"source": "demo"},
    "a name that leads out": {"name": "../../x", "source": "demo"},
    "no source": {"name": "a"},
    "a source that is not there": {"name": "a", "source": "ghost.json"},
    "a source of nobody": {"name": "a", "source": "~no-such-user/data.json"},
    "another field": {"name": "a", "source": "demo", "metrik": "cider"},
    "a metric that there is not": {"name": "a", "source": "demo", "metric": "taste"},
    "a seed below zero": {"name": "a", "source": "demo", "seed": -1},
    "a seed beyond 64 bits": {"name": "a", "source": "demo", "seed": 10**20},
    "no samples": {"name": "a", "source": "demo", "samples": 0},
    "samples of a text": {"name": "a", "source": "demo", "samples": "many"},
    "tokens of a list": {"name": "a", "source": "demo", "max_new_tokens": [1]},
    "a subset that is a number": {"name": "a", "source": "demo", "subset": 3},
}
MISSING_SOURCES = ("a source that is not there", "a source of nobody")


@pytest.mark.parametrize("name", TASKS)
def test_tasks_that_cannot_be(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([TASKS[name]]))
    words = ("eval", "demo", "--tasks", path, "--no-speed", "-w", tmp_path / "w", "-q")
    refuse(*words, names=TASKS[name]["source"] if name in MISSING_SOURCES else str(path))
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "w").exists()


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("mine")
    for words in (["plan", "--ratio", "0.2"], ["prepare", "demo", "--max-samples", "40"], ["analyze", "demo"]):
        refuse(*words, "-w", tmp_path / "w", names=str(tmp_path / "w"))
    assert (tmp_path / "w").read_text() == "mine"


@pytest.mark.parametrize("name", ["plan.json", "analysis.json", "dataset", "pruned"])
def test_a_folder_and_a_file_in_each_others_place(name: str, space: Path) -> None:
    path = space / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("mine")
    else:
        path.unlink()
        path.mkdir()
        (path / "mine").write_text("mine")
    for words in (["analyze", "demo", "--force"], ["plan", "--ratio", "0.2", "--force"], ["finetune"], ["report"]):
        call(*words, "-w", space, "-q")
    assert path.read_text() == "mine" if path.is_file() else (path / "mine").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"{", b"\xff"], ids=repr)
def test_a_broken_file_beside_the_weights(name: str, data: bytes, space: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))
    (model / name).write_bytes(data)
    call("analyze", model, "-w", space, "--out", tmp_path / "analysis.json", "-q", "--samples", "2")
