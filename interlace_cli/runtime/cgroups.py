"""The memory that this process's control group leaves it (Linux; containers, Slurm and systemd set one): the kernel
ends a process that goes beyond, whatever the machine has.

Sources: the kernel's documentation, admin-guide/cgroup-v2 (memory.max, memory.current, memory.stat) and
admin-guide/cgroup-v1/memory (memory.limit_in_bytes, memory.usage_in_bytes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED = 1 << 60
"""The first version writes the largest multiple of a page where there is no limit."""


@dataclass(frozen=True)
class _Version:
    """The names of a group's files, and of the fields of memory.stat that count pages of files."""

    limit: str
    usage: str
    files: tuple[str, ...]


_FIRST = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_SECOND = _Version("memory.max", "memory.current", ("inactive_file", "active_file"))


def read_group_available(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process's group and all groups around it still allow; None where nothing bounds them. Pages of
    files count as available: the kernel gives them up before it ends a process."""
    found = [left for folder, version in _list_groups(proc, root) if (left := _read_left(folder, version)) is not None]
    return max(min(found), 0) if found else None


def _list_groups(proc: Path, root: Path) -> Iterator[tuple[Path, _Version]]:
    """The process's memory groups, inner ones first. Seen from inside a container a path may not exist, and the root is
    the container's own group."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            bases, version = (root, root / "unified"), _SECOND
        elif "memory" in controllers.split(","):
            bases, version = (root / "memory", root / controllers), _FIRST
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for base in dict.fromkeys(bases):
            yield from ((base / part, version) for part in (inner, *inner.parents) if ".." not in part.parts)


def _read_left(folder: Path, version: _Version) -> int | None:
    try:
        limit = (folder / version.limit).read_text().strip()
        if not limit.isdecimal() or int(limit) >= UNLIMITED:
            return None
        used = int((folder / version.usage).read_text())
        stat = dict(line.split()[:2] for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return int(limit) - used + sum(int(stat.get(name, 0)) for name in version.files)
