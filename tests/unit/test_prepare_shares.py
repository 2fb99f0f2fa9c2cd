"""A dataset that several processes, jobs or calls have read is that of one call, byte for byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import make_dataset
from PIL import Image
from workspaces import succeed

from interlace_cli.core.prepare import ORIGIN, find_share
from interlace_cli.data.files_read import FILES_READ
from interlace_cli.data.staging import Staging
from interlace_cli.domain.dataset import Manifest, StagedShare
from interlace_cli.errors import ExistsError, UsageError
from interlace_cli.options import PrepareOptions
from interlace_cli.options.shard import Shard
from interlace_cli.runtime.lease import try_acquire

UNITS = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records that share images across units, have no images, have one id twice, or cannot be used."""
    folder = tmp_path_factory.mktemp("in")
    for i in range(50):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    records: list[Any] = []
    for i in range(256 * (UNITS - 1) + 20):
        talk = [{"from": "human", "value": f"Question {i % 90}?"}, {"from": "gpt", "value": "Yes."}]
        images = [] if i % 3 == 0 else [f"{i % 47}.png"]
        records.append({"id": f"r{i % 700}", "image": images, "conversations": talk, "kind": "abc"[i % 3]})
        records.append({"conversations": []}) if i % 100 == 0 else None
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one call writes, with one thread."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert isinstance(make_dataset(source, out, threads=1), Manifest)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files but those that say where the source lay, and when."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (FILES_READ, ORIGIN))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)], ids=["in turn", "another first"])
def test_shares_in_any_order_make_the_dataset_of_one_call(
    order: tuple[int, ...], source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, missing = tmp_path / "out", []
    for index in order:
        made = make_dataset(source, out, shard=f"{index}/3", threads=2)
        missing.append(made.missing if isinstance(made, StagedShare) else 0)
        assert out.exists() == (index == order[-1])
    assert isinstance(made, Manifest)
    assert missing == ([2, 1, 0] if order[0] == 1 else [3, 1, 0])
    assert contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # A job that is started once more finds it done.
    assert make_dataset(source, out, shard="2/3") == made
    with pytest.raises(ExistsError, match="seed was 0, and is 1 now"):
        make_dataset(source, out, shard="2/3", seed=1)


def test_a_call_for_everything_goes_on_from_shares_and_a_share_from_a_call(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them was killed in the middle of a unit."""
    read: list[int] = []
    finish: Callable[..., Any] = Staging.finish

    def stop_at_the_third(staging: Staging, number: int, *rest: Any) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        read.append(number)
        return finish(staging, number, *rest)

    for name, first, then in (("a", {"shard": "1/1"}, {}), ("b", {}, {"shard": "1/2"}), ("c", {"shard": "1/2"}, {})):
        read.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Staging, "finish", stop_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                make_dataset(source, tmp_path / name, threads=1, **first)
        assert read == ([0] if "1/2" in first.values() else [0, 1])
        made = make_dataset(source, tmp_path / name, **then)
        if then:
            assert (made.units, made.missing) == (2, 1)
            made = make_dataset(source, tmp_path / name, shard="2/2")
        assert isinstance(made, Manifest)
        assert contents(tmp_path / name) == whole


def test_processes_make_the_dataset_of_one(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert isinstance(make_dataset(source, tmp_path / "out", processes=2), Manifest)
    assert contents(tmp_path / "out") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_processes_of_a_launcher_are_shares(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun and srun start them: whoever is last writes the dataset, whatever its rank. One that is started
    again, and has nothing left to read, says what lacks."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 1, 0):
        monkeypatch.setenv("RANK", str(rank))
        called = succeed("prepare", source, "--out", tmp_path / "out", "--json")
        assert (tmp_path / "out").exists() == (rank == 0)
    assert contents(tmp_path / "out") == whole
    assert json.loads(called.out)["kind"] == Manifest.KIND


def test_a_share_of_a_share_and_words_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_share(None) is None
    assert find_share("1/1") is None
    assert find_share("2/3") == Shard(2, 3)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert find_share(None) == Shard(4, 4)
    assert find_share("2/3") == Shard(8, 12)
    for words in ("0/2", "3/2", "1", "a/b", ""):
        with pytest.raises(UsageError, match="--shard does not take"):
            PrepareOptions(shard=words)


def test_two_that_read_the_same_units_at_once_do_no_harm(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """One share that was started twice."""
    out, made = tmp_path / "out", list[Any]()
    both = [
        threading.Thread(target=lambda: made.append(make_dataset(source, out, shard="1/2", threads=1)))
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [share.missing for share in made] == [2, 2]
    assert isinstance(make_dataset(source, out, shard="2/2"), Manifest)
    assert contents(out) == whole


def test_one_alone_writes_when_two_are_last(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    lease = try_acquire(tmp_path / ".out.joining", "prepare")
    assert lease is not None
    for _ in range(2):
        made = make_dataset(source, out, shard="1/2")
    assert isinstance(made, StagedShare)
    made = make_dataset(source, out, shard="2/2")
    assert isinstance(made, StagedShare)
    assert (made.units, made.missing, out.exists()) == (2, 0, False)
    lease.release()
    assert isinstance(make_dataset(source, out, shard="2/2"), Manifest)
    assert contents(out) == whole


def test_a_share_whose_dataset_another_has_finished_says_no_error(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has removed the folder that this one reads into."""
    out, finish = tmp_path / "out", Staging.finish

    def interrupt(staging: Staging, *rest: Any) -> Any:
        monkeypatch.undo()
        make_dataset(source, out)
        return finish(staging, *rest)

    monkeypatch.setattr(Staging, "finish", interrupt)
    assert isinstance(make_dataset(source, out, shard="1/2", threads=1), Manifest)
    assert contents(out) == whole


def test_pieces_of_a_source_that_has_changed_are_not_joined(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "in"
    copy.mkdir()
    for path in source.parent.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert make_dataset(copy / "data.json", tmp_path / "out", shard="1/2").missing == 2
    Image.new("RGB", (8, 8), (255, 9, 9)).save(copy / "1.png")
    said: list[str] = []
    made = make_dataset(copy / "data.json", tmp_path / "out", Saying(said), shard="2/2")
    assert isinstance(made, StagedShare)
    assert "files that have changed since" in said[-1]
    made = make_dataset(copy / "data.json", tmp_path / "out")
    make_dataset(copy / "data.json", tmp_path / "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


class Saying:
    """Progress that keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        self.say = said.append

    def task(self, description: str, total: float, unit: str) -> Any:
        from interlace_cli.domain.progress import Silent

        return Silent().task(description, total, unit)


def test_a_large_table_is_several_units_of_the_same_samples(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{key: row.get(key) for key in ("id", "conversations")} for row in json.loads(source.read_text())]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=100)
    whole = make_dataset(tmp_path / "a.parquet", tmp_path / "whole")
    monkeypatch.setattr("interlace_cli.data.tables.UNIT_ROWS", 250)
    several = make_dataset(tmp_path / "a.parquet", tmp_path / "several", shard="2/2")
    assert isinstance(several, StagedShare)
    assert (several.units, several.missing) == (2, 2)
    several = make_dataset(tmp_path / "a.parquet", tmp_path / "several", shard="1/2")
    assert isinstance(several, Manifest)
    assert isinstance(whole, Manifest)
    assert several.splits == whole.splits, "other samples, or in another order"
    assert several.draws == whole.draws
    assert len(list((tmp_path / "several/data").iterdir())) == 4
    assert len(list((tmp_path / "whole/data").iterdir())) == 1
