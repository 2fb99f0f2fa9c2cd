"""How much memory there is: of a control group by the kernel's files, of a device by its index."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from interlace_cli.runtime import memory
from interlace_cli.runtime.accelerator import is_cpu, is_cuda, read_free, synchronize
from interlace_cli.runtime.cgroups import read_group_available
from interlace_cli.runtime.memory import measure_peak, read_available

MIB = 1 << 20
FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file {}\ntotal_active_file {}\nrss 7\n")
SECOND = ("memory.max", "memory.current", "anon 7\ninactive_file {}\nactive_file {}\n")


def make_group(folder: Path, names: tuple[str, str, str], limit: str, used: int, files: tuple[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(names[2].format(*files))


def read(tmp_path: Path, lines: str) -> int | None:
    (tmp_path / "cgroup").write_text(lines)
    return read_group_available(tmp_path / "cgroup", tmp_path / "fs")


def test_a_container_of_the_second_version_allows_its_limit_less_what_no_file_holds(tmp_path: Path) -> None:
    make_group(tmp_path / "fs", SECOND, str(100 * MIB), 60 * MIB, (10 * MIB, 5 * MIB))
    assert read(tmp_path, "0::/\n") == 55 * MIB


def test_the_narrowest_of_nested_groups_counts(tmp_path: Path) -> None:
    make_group(tmp_path / "fs" / "slurm" / "job", SECOND, "max", 50 * MIB, (0, 0))
    make_group(tmp_path / "fs" / "slurm", SECOND, str(90 * MIB), 70 * MIB, (0, 0))
    make_group(tmp_path / "fs", SECOND, str(200 * MIB), 80 * MIB, (0, 0))
    assert read(tmp_path, "0::/slurm/job\n") == 20 * MIB


@pytest.mark.parametrize("controllers", ["memory", "cpu,memory"])
def test_the_first_version_is_read_also_where_the_path_is_the_hosts(tmp_path: Path, controllers: str) -> None:
    """Docker shows its container's group as the root, and the host's path to it."""
    make_group(tmp_path / "fs" / controllers, FIRST, str(64 * MIB), 40 * MIB, (4 * MIB, 0))
    lines = f"9:name=systemd:/\n4:{controllers}:/docker/4e5f\n0::/\n"
    assert read(tmp_path, lines) == 28 * MIB


def test_more_than_allowed_is_nothing_and_no_limit_is_none(tmp_path: Path) -> None:
    make_group(tmp_path / "fs" / "memory", FIRST, "9223372036854771712", 40 * MIB, (0, 0))
    assert read(tmp_path, "4:memory:/\n0::/\n") is None
    assert read_group_available(tmp_path / "missing", tmp_path) is None
    make_group(tmp_path / "fs" / "memory", FIRST, str(30 * MIB), 40 * MIB, (0, 0))
    assert read(tmp_path, "4:memory:/\n0::/\n") == 0


def test_what_is_available_is_the_less_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "read_group_available", lambda: 3 * MIB)
    assert read_available() == 3 * MIB
    monkeypatch.setattr(memory, "read_group_available", lambda: 1 << 60)
    assert 0 < read_available() < psutil.virtual_memory().total
    monkeypatch.setattr(memory, "read_group_available", lambda: None)
    assert 0 < read_available() < psutil.virtual_memory().total


@pytest.mark.parametrize("device", ["cuda:1", torch.device("cuda", 1)], ids=["text", "device"])
def test_each_question_names_its_device(monkeypatch: pytest.MonkeyPatch, device: str | torch.device) -> None:
    """torch takes the current device where none is named, which is cuda:0."""
    asked: list[object] = []

    def answer(value: int | tuple[int, int]) -> object:
        return lambda device=None: (asked.append(device), value)[1]

    held = iter([10, 40])
    for name, value in {"synchronize": 0, "memory_reserved": 70, "mem_get_info": (500, 900)}.items():
        monkeypatch.setattr(torch.cuda, name, answer(value))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: (asked.append(device), next(held))[1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", answer(0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", answer(35))
    assert measure_peak(lambda: None, str(device)) == 25
    # The allocator keeps 30 of its 70 for later use.
    assert read_free(device) == 530
    synchronize(device)
    assert {str(one) for one in asked} == {"cuda:1"}
    assert is_cuda(device)
    assert not is_cpu(device)


def test_a_cpu_has_nothing_to_wait_for() -> None:
    synchronize("cpu")
    assert is_cpu(torch.device("cpu"))
    assert not is_cuda("cpu")
