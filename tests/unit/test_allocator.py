"""Training asks torch for expandable segments, unless somebody has said something else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from interlace_cli.core import bench, compare, finetune, run
from interlace_cli.domain.progress import Silent
from interlace_cli.options import BenchOptions, CompareOptions, FinetuneOptions, RunOptions
from interlace_cli.runtime.allocator import NAME, OTHERS, OURS, describe_segments, expand_segments


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (NAME, *OTHERS, OURS):
        # So that what is set here is gone afterwards.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.release", lambda: "6.8.0-generic")


def test_they_are_asked_for_and_said() -> None:
    assert not describe_segments("cuda:1")
    expand_segments()
    assert not describe_segments("cpu")
    assert os.environ[NAME] == "expandable_segments:True"
    assert NAME in describe_segments("cuda:1")
    expand_segments()
    assert NAME in describe_segments("cuda:1"), "a second command of the same process"


@pytest.mark.parametrize("name", [NAME, *OTHERS])
def test_what_the_user_has_said_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:128")
    expand_segments()
    assert {key: os.environ.get(key) for key in (NAME, *OTHERS) if key in os.environ} == {name: "max_split_size_mb:128"}
    assert not describe_segments("cuda:1")


@pytest.mark.parametrize("where", ["darwin", "win32", "wsl", "late"])
def test_not_where_it_cannot_help(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "wsl":
        monkeypatch.setattr("platform.release", lambda: "5.15.167.4-microsoft-standard-WSL2")
    elif where == "late":
        used = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
        monkeypatch.setitem(sys.modules, "torch", used)
    else:
        monkeypatch.setattr(sys, "platform", where)
    expand_segments()
    assert NAME not in os.environ


class _SeenError(Exception):
    pass


@pytest.mark.parametrize("command", ["finetune", "estimate", "run", "compare", "bench"])
def test_every_command_that_trains_asks_before_all_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*arguments: object, **named: object) -> None:
        assert os.environ.get(NAME) == "expandable_segments:True"
        raise _SeenError

    places = ("finetune.build_step", "finetune.choose_job", "run.Chain", "compare._check_options", "bench._measure")
    for place in places:
        monkeypatch.setattr(f"interlace_cli.core.{place}", look)
    calls: dict[str, Callable[[], object]] = {
        "finetune": lambda: finetune.finetune(FinetuneOptions(workspace=tmp_path), Silent()),
        "estimate": lambda: finetune.estimate(FinetuneOptions(workspace=tmp_path)),
        "run": lambda: run.run(RunOptions(workspace=tmp_path), Silent()),
        "compare": lambda: compare.compare(CompareOptions(workspace=tmp_path), Silent()),
        "bench": lambda: bench.run_benchmark(BenchOptions(part="heal"), Silent()),
    }
    with pytest.raises(_SeenError):
        calls[command]()
