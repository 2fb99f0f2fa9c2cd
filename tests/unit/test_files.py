"""Nothing half-written ever has a final name; and the released score files."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import ArtifactError, CheckpointError, InterlaceError
from interlace_cli.io.arrays import load_arrays, save_arrays
from interlace_cli.io.files import check_free, folder_being_made, hash_bytes, hash_file, write_atomically
from interlace_cli.io.sample_keys import SAMPLE_KEYS, build_keys, find_seen, load_keys, save_keys
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
@pytest.mark.parametrize("index", [1, 2])
def test_a_broken_score_file_is_named(index: int, text: str, sentence: str, tmp_path: Path) -> None:
    paths: list[Any] = write_scores(tmp_path)
    paths[index].write_text(text)
    with pytest.raises(ArtifactError) as caught:
        load_scores(paths)
    assert str(paths[index]) in caught.value.what
    assert sentence.replace("4 of length 2", f"{5 - index} of length {index + 1}") in caught.value.what


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


def build_sample(number: int, images: list[str], answer: str = "red") -> Sample:
    turns = [{"from": "human", "value": "What colour is it?"}, {"from": "gpt", "value": answer}]
    return Sample.model_validate(
        {"id": str(number), "image": images, "conversations": turns, "source": f"source {number}"}
    )


def test_a_sample_was_seen_by_its_image_or_without_one_by_its_conversation() -> None:
    keys = build_keys([build_sample(0, ["a.png", "b.png"]), build_sample(1, [], "a  red\none")])
    assert keys.dtype == np.uint64
    assert len(keys) == 3
    assert sorted(set(keys.tolist())) == keys.tolist()
    asked = [
        build_sample(2, ["c.png"]),
        build_sample(3, ["b.png"], "another answer"),
        build_sample(4, []),
        build_sample(5, [], "a red one"),
        build_sample(6, ["c.png", "a.png"]),
    ]
    assert find_seen(keys, asked) == [1, 3, 4]
    assert find_seen(build_keys([]), asked) == []


def test_keys_of_samples_come_back_and_are_the_same_bytes(tmp_path: Path) -> None:
    trained, calibrated = (build_keys([build_sample(0, [name])]) for name in ("a.png", "b.png"))
    assert load_keys(tmp_path) == {}
    save_keys(tmp_path, {"trained": trained, "calibrated": calibrated})
    found = load_keys(tmp_path)
    assert found.keys() == {"trained", "calibrated"}
    assert found["trained"].tolist() == trained.tolist() != found["calibrated"].tolist() == calibrated.tolist()
    (tmp_path / "again").mkdir()
    save_keys(tmp_path / "again", {"calibrated": calibrated, "trained": trained})
    assert (tmp_path / "again" / SAMPLE_KEYS).read_bytes() == (tmp_path / SAMPLE_KEYS).read_bytes()


def test_a_broken_file_of_keys_is_named(tmp_path: Path) -> None:
    path = tmp_path / SAMPLE_KEYS
    save_keys(tmp_path, {"trained": build_keys([build_sample(n, [f"{n}.png"]) for n in range(40)])})
    whole = path.read_bytes()
    refused = 0
    for broken in [b"", b"PK", b"no keys", *(whole[:size] for size in range(0, len(whole), 5)), *flip(whole)]:
        path.write_bytes(broken)
        # A byte that nobody reads may be any; what is raised is one error of ours.
        with suppress(CheckpointError):
            load_keys(tmp_path)
            continue
        refused += 1
    assert refused > len(whole) // 5, "every file that is cut off, at least"
    np.save(path.with_suffix(".npy"), np.arange(3))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(CheckpointError, match=r"interlace-samples\.npz is broken"):
        load_keys(tmp_path)
    for wrong in (np.zeros((2, 2), np.uint64), np.arange(3.0), np.array(["a"])):
        np.savez(path, trained=wrong)
        with pytest.raises(CheckpointError, match="no lists of keys"):
            load_keys(tmp_path)


def flip(data: bytes) -> list[bytes]:
    """Copies with one byte that is another."""
    return [data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(len(data))]
