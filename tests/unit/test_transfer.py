"""What hosts with a workspace each lack is found, fetched whole or not at all, and compared where it is there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from interlace_cli.errors import DisagreementError
from interlace_cli.io import transfer
from interlace_cli.io.transfer import find_wanted, list_files

HOSTS = ["a", "b", "c"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "here"
    (made / "data").mkdir(parents=True)
    (made / "data/part-0").write_bytes(b"rows" * 1000)
    (made / "empty").touch()
    (made / ".hidden").write_text("a draft")
    return made


def test_a_folder_is_listed_without_hidden_files(folder: Path) -> None:
    assert set(list_files(folder) or {}) == {"data/part-0", "empty"}
    assert set(list_files(folder / "empty") or {}) == {""}
    assert list_files(folder / "not there") is None


def test_what_a_host_lacks_is_wanted() -> None:
    one: dict[str, Any] = {"x": [1, "aa"], "y": [2, "bb"]}
    listings: list[dict[str, Any]] = [{"the dataset": one, "the plan": None}, {"the dataset": None}, {}]
    assert find_wanted(listings, HOSTS) == [[], ["the dataset"], []]
    # What the first lacks, its step misses by itself.
    assert find_wanted([{"the plan": None}, {"the plan": one}], HOSTS) == [[], []]
    assert find_wanted([{"the plan": one}, {"the plan": dict(one)}], HOSTS) == [[], []]


@pytest.mark.parametrize("theirs", [{"x": [1, "aa"], "y": [2, "cc"]}, {"x": [1, "aa"]}])
def test_what_a_host_has_otherwise_is_refused(theirs: dict[str, Any]) -> None:
    ours = {"x": [1, "aa"], "y": [2, "bb"]}
    with pytest.raises(DisagreementError) as caught:
        find_wanted([{"the dataset": ours}, {"the dataset": ours}, {"the dataset": theirs}], HOSTS)
    assert caught.value.what == (
        "the dataset is another one on process 3 of 3 (rank 2 on c) than on process 1 of 3 (rank 0 on a): the first"
        " file that differs is y."
    )


def fetch(source: Path, target: Path, listing: Any) -> str | None:
    with transfer.listen() as server:
        threading.Thread(target=transfer._serve, args=(server, {"it": source}), daemon=True).start()
        address = {"host": "127.0.0.1", "port": server.getsockname()[1], "token": transfer._TOKEN}
        return transfer._fetch(address, {"it": target}, ["it"], {"it": listing})


def test_a_folder_and_a_file_arrive_as_they_are(folder: Path, tmp_path: Path) -> None:
    assert fetch(folder, tmp_path / "b/there", list_files(folder)) is None
    assert list_files(tmp_path / "b/there") == list_files(folder)
    assert fetch(folder / "data/part-0", tmp_path / "file", list_files(folder / "data/part-0")) is None
    assert (tmp_path / "file").read_bytes() == b"rows" * 1000


def test_what_changes_while_it_is_sent_is_not_kept(folder: Path, tmp_path: Path) -> None:
    listing = list_files(folder)
    (folder / "data/part-0").write_bytes(b"other")
    assert fetch(folder, tmp_path / "there", listing) == "it, data/part-0 was not sent whole, or changed meanwhile"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
