"""Nothing half-written ever has a final name; and the released score files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlace_cli.errors import ArtifactError, InterlaceError
from interlace_cli.io.arrays import load_arrays, save_arrays
from interlace_cli.io.files import check_free, folder_being_made, hash_bytes, hash_file, write_atomically
from interlace_cli.io.score_files import load_scores


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole_and_its_folder_is_made(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep/er/a.json", b"a longer one")
    write_atomically(tmp_path / "deep/er/a.json", b"two")
    assert (tmp_path / "deep/er/a.json").read_bytes() == b"two"
    assert names(tmp_path / "deep/er") == ["a.json"]
    assert hash_file(tmp_path / "deep/er/a.json") == hash_bytes(b"two")


def test_what_is_written_has_the_modes_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    write_atomically(tmp_path / "file", b"")
    with folder_being_made(tmp_path / "out"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_a_write_that_fails_leaves_the_target_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").write_text("mine")
    with pytest.raises(InterlaceError, match=r"cannot write .*/taken: Is a directory"):
        write_atomically(tmp_path / "taken", b"new")
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "a.json", "not bytes")  # type: ignore[arg-type]
    assert names(tmp_path) == ["a.json", "taken"]
    assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path / "taken") == ["mine"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with folder_being_made(tmp_path / "deep/out") as draft:
        (draft / "a").write_text("a")
        assert not (tmp_path / "deep/out").exists()
        assert draft.parent == tmp_path / "deep", "on the same disk, so that it can be renamed"
    assert names(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep/out/a").read_text() == "a"


def fill_and_fail(out: Path, error: BaseException, force: bool) -> None:
    with folder_being_made(out, force) as draft:
        (draft / "sub").mkdir()
        (draft / "sub/new").write_text("new")
        raise error


@pytest.mark.parametrize("error", [ValueError("half"), KeyboardInterrupt(), SystemExit(1), InterlaceError("half")])
@pytest.mark.parametrize("exists", [True, False])
def test_what_fails_half_way_leaves_the_old_folder_and_nothing_else(
    exists: bool, error: BaseException, tmp_path: Path
) -> None:
    if exists:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/old").write_text("old")
    with pytest.raises(type(error)):
        fill_and_fail(tmp_path / "out", error, force=True)
    assert names(tmp_path) == ["out"] * exists
    assert not exists or names(tmp_path / "out") == ["old"]


def test_a_full_disk_is_said_with_the_folder_that_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(InterlaceError, match=r"cannot write .*/out: No space left on device"):
        fill_and_fail(tmp_path / "out", OSError(28, "No space left on device"), force=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_replaced_with_force_only(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        (tmp_path / "out").mkdir()
        (tmp_path / "out/old").write_text("old")
    else:
        (tmp_path / "out").write_text("old")
    with pytest.raises(InterlaceError, match=r"/out exists already\. Add --force"), folder_being_made(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["out"]
    with folder_being_made(tmp_path / "out", force=True) as draft:
        (draft / "new").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new"]


def test_a_place_is_free_if_nothing_or_an_empty_folder_is_there(tmp_path: Path) -> None:
    check_free(tmp_path / "none", force=False)
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty", force=False)
    with folder_being_made(tmp_path / "empty") as draft:
        (draft / "a").write_text("a")
    assert names(tmp_path / "empty") == ["a"]
    with pytest.raises(InterlaceError, match=r"/empty exists already"):
        check_free(tmp_path / "empty", force=False)
    check_free(tmp_path / "empty", force=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InterlaceError, match=r"cannot write .*/file/a\.json: .*Choose another folder"):
        write_atomically(tmp_path / "file/a.json", b"")
    with pytest.raises(InterlaceError, match=r"cannot write .*/file/out: "), folder_being_made(tmp_path / "file/out"):
        pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "a file"


def write_scores(folder: Path, layers: int = 6) -> list[Path]:
    """Two samples, the second 0.02 higher; span i has 0.05 * i."""
    paths = [folder / f"x_pack{p}_hidden_state_similarities.json" for p in (1, 2, 3)]
    for p, path in enumerate(paths, start=1):
        path.write_text(json.dumps({str(i): [0.05 * i, 0.05 * i + 0.02] for i in range(layers - p)}))
    return paths


def test_released_score_files_are_averaged_over_samples(tmp_path: Path) -> None:
    scores = load_scores(write_scores(tmp_path))
    assert scores.num_layers == 6
    assert list(scores.s1) == pytest.approx([0.01, 0.06, 0.11, 0.16, 0.21])
    assert list(scores.s2) == pytest.approx([0.01, 0.06, 0.11, 0.16])
    assert list(scores.s3) == pytest.approx([0.01, 0.06, 0.11])


def test_spans_are_read_by_number_and_not_in_the_order_of_the_file(tmp_path: Path) -> None:
    paths = write_scores(tmp_path, layers=14)
    for path in paths:
        spans = json.loads(path.read_text())
        path.write_text(json.dumps({name: spans[name] for name in sorted(spans, reverse=True)}))
    assert load_scores(paths).s1 == pytest.approx([0.05 * i + 0.01 for i in range(13)])


NOT_A_SCORE_FILE = 'is not a score file: it needs spans "0", "1", '
NOT_NUMBERS = "is not a list of numbers between -1 and 1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", NOT_A_SCORE_FILE),
        ("", NOT_A_SCORE_FILE),
        ("{}", NOT_A_SCORE_FILE),
        ("[1]", NOT_A_SCORE_FILE),
        ('{"1": [0.5]}', NOT_A_SCORE_FILE),
        ('{"0": [0.5], "2": [0.5]}', NOT_A_SCORE_FILE),
        ('{"0": [0.5], "01": [0.5]}', NOT_A_SCORE_FILE),
        ('{"0": [0.5], "mean": [0.5]}', NOT_A_SCORE_FILE),
        ('{"0": [NaN]}', NOT_A_SCORE_FILE),
        ('{"0": []}', f'span "0" {NOT_NUMBERS}'),
        ('{"0": 0.5}', f'span "0" {NOT_NUMBERS}'),
        ('{"0": [0.1], "1": ["a"]}', f'span "1" {NOT_NUMBERS}'),
        ('{"0": [0.1], "1": [0.1, null]}', f'span "1" {NOT_NUMBERS}'),
        ('{"0": [0.1], "1": [true]}', f'span "1" {NOT_NUMBERS}'),
        ('{"0": [1.01]}', f'span "0" {NOT_NUMBERS}'),
        ('{"0": [-7]}', f'span "0" {NOT_NUMBERS}'),
        ('{"0": [0.1], "1": [0.1]}', "has 2 spans where 4 of length 2 belong to the 6 layers that x_pack1"),
    ],
)
@pytest.mark.parametrize("place", [1, 2])
def test_a_broken_score_file_is_named(place: int, text: str, sentence: str, tmp_path: Path) -> None:
    paths: list[Any] = write_scores(tmp_path)
    paths[place].write_text(text)
    with pytest.raises(ArtifactError) as caught:
        load_scores(paths)
    assert str(paths[place]) in caught.value.what
    assert sentence.replace("4 of length 2", f"{5 - place} of length {place + 1}") in caught.value.what


def test_files_in_the_wrong_order_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Give the files for span lengths 1, 2 and 3 of one model, in this order"):
        load_scores(write_scores(tmp_path)[::-1])


def test_a_score_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    paths = write_scores(tmp_path)
    paths[2].unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*x_pack3_.*: No such file"):
        load_scores(paths)


def test_the_draft_of_a_killed_process_is_cleared_away_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    code = "import os, sys, signal; from pathlib import Path; from interlace_cli.io.files import folder_being_made\n"
    code += "with folder_being_made(Path(sys.argv[1])) as draft:\n"
    code += "    (draft / 'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert [name[:5] for name in names(tmp_path)] == [".out."], "killed half-way: nothing under the final name"
    with folder_being_made(tmp_path / "out") as draft, folder_being_made(tmp_path / "out") as other:
        assert names(tmp_path) == sorted([draft.name, other.name])
        (draft / "a").write_text("a")
    assert names(tmp_path) == ["out"]


def test_arrays_come_back_as_they_were_however_they_lie_in_memory(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    for one in (array, array.T, array[:, [2, 0, 1]], array[:, ::-1]):
        save_arrays({"one": one}, tmp_path / "a.safetensors")
        assert np.array_equal(load_arrays(tmp_path / "a.safetensors")["one"], one)
