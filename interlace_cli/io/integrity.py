"""Whether the files of a folder that interlace made are still what it wrote.

Its metadata (`interlace.json`) hold a checksum of each, made of the XXH3 (128 bits) of its blocks, which finds flipped
bits and files cut off at the speed of reading them. It is no defence against somebody who changes the metadata too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.errors import CheckpointError
from interlace_cli.io.artifacts import load_artifact, to_json_text
from interlace_cli.io.files import parse_json, write_atomically
from interlace_cli.io.workspace import METADATA

BLOCK, CHUNK = 1 << 26, 1 << 20
THREADS = 4
_seen: set[tuple[str, int, int, str]] = set()
"""Files that this process has found to be whole: path, size, time of change, checksum."""


def find_recorded(folder: Path) -> list[Path]:
    """The files that decide what a checkpoint computes: weights, their index, and the config."""
    patterns = ("*.safetensors", "*.safetensors.index.json", "config.json")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def record_files(folder: Path, source: Path | None = None, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name -> checksum. Files that are hard links to those of `source` have theirs in `known`, and are not read."""
    known = known or {}
    paths = find_recorded(folder)
    linked = {
        path.name: known[path.name]
        for path in paths
        if source is not None and path.name in known and path.samefile(source / path.name)
    }
    made = digest_files([path for path in paths if path.name not in linked])
    return dict(sorted({**linked, **{path.name: digest for path, digest in made.items()}}.items()))


def check_files(folder: Path) -> None:
    """Does nothing for a folder that interlace has not made. Raises CheckpointError that names the first file which is
    missing or has other bytes than were written."""
    metadata = folder / METADATA
    if not metadata.exists():
        return
    recorded = load_artifact(metadata, CheckpointCard).files
    missing = sorted(name for name in recorded if not (folder / name).is_file())
    if missing:
        raise CheckpointError(f"{folder} lacks {missing[0]}, which {METADATA} names.", "Make it again.")
    marks = {name: _mark(folder / name, digest) for name, digest in recorded.items()}
    unseen = [name for name in recorded if marks[name] not in _seen]
    found = digest_files([folder / name for name in unseen])
    changed = [name for name in unseen if found[folder / name] != recorded[name]]
    if changed:
        raise CheckpointError(
            f"{folder / changed[0]} is not what interlace wrote: its checksum differs from that in {METADATA}.",
            f"Make it again; if you changed it yourself, delete `files` and `sha256` in {METADATA}.",
        )
    _seen.update(marks[name] for name in unseen)


def mark_complete(folder: Path, mark: str) -> None:
    """Says, in the file `mark`, that all of the folder is written, and what it is."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != mark]
    found = {path.relative_to(folder).as_posix(): digest for path, digest in digest_files(paths).items()}
    write_atomically(folder / mark, to_json_text(dict(sorted(found.items()))).encode())


def is_complete(folder: Path, mark: str) -> bool:
    """Whether all that `mark_complete` saw in the folder is there as it was."""
    try:
        recorded = parse_json((folder / mark).read_bytes())
        if not isinstance(recorded, dict):
            return False
        found = digest_files([folder / name for name in recorded])
    except OSError:
        return False
    return all(found[folder / name] == digest for name, digest in recorded.items())


def _mark(path: Path, digest: str) -> tuple[str, int, int, str]:
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns, digest


def digest_files(paths: Sequence[Path]) -> dict[Path, str]:
    """The checksum of each: XXH3 over those of its blocks, which several threads read at once."""
    import xxhash

    blocks = [(path, start) for path in paths for start in range(0, max(path.stat().st_size, 1), BLOCK)]
    found = {path: xxhash.xxh3_128() for path in paths}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for (path, _), digest in zip(blocks, pool.map(_digest_block, blocks), strict=True):
            found[path].update(digest)
    return {path: digest.hexdigest() for path, digest in found.items()}


def _digest_block(block: tuple[Path, int]) -> bytes:
    import xxhash

    path, start = block
    digest, left = xxhash.xxh3_128(), BLOCK
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (data := file.read(min(left, CHUNK))):
            digest.update(data)
            left -= len(data)
    return bytes(digest.digest())
