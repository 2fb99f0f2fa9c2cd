"""Surgery on disk: a new checkpoint from an old one by copying byte ranges. No tensor is ever decoded.

Memory stays flat whatever the model's size; the cost is that of copying the bytes that stay
(`os.copy_file_range`, which some file systems do by sharing blocks).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from interlace_cli.io.checkpoints import Checkpoint
from interlace_cli.io.headers import TensorInfo
from interlace_cli.io.links import find_inside
from interlace_cli.io.model_json import parse_model_json, to_model_json
from interlace_cli.io.side_files import SideFiles
from interlace_cli.io.weights import INDEX_FILE, NAMED_WEIGHTS, SINGLE_FILE

BLOCK = 1 << 26
PIECE = 1 << 22
WORKERS = 4
Advance = Callable[[float], None]


@dataclass(frozen=True)
class Slices:
    """A tensor with `parts` slices side by side along one axis, of which those of `kept` stay."""

    by_columns: bool
    kept: Sequence[int]
    parts: int


@dataclass(frozen=True, slots=True)
class NewTensor:
    """One tensor of the new checkpoint: the bytes of `source`, or `data` in their place, or slices of it; or as many
    bytes that come later (`is_awaited`)."""

    name: str
    source: TensorInfo
    slices: Slices | None = None
    data: bytes | None = None
    is_awaited: bool = False

    @property
    def shape(self) -> list[int]:
        """As it will be."""
        shape = list(self.source.shape)
        if self.slices is not None:
            axis = 1 if self.slices.by_columns else 0
            shape[axis] = shape[axis] // self.slices.parts * len(self.slices.kept)
        return shape

    @property
    def bytes(self) -> int:
        """As many as it will have."""
        if self.slices is None:
            return self.source.bytes
        return self.source.bytes // self.slices.parts * len(self.slices.kept)


@dataclass(frozen=True)
class Gap:
    """Where in a new file a tensor's bytes are to come."""

    name: str
    file: int
    offset: int
    size: int

    def fill(self, data: bytes | memoryview) -> None:
        """Writes them."""
        if len(data) != self.size:
            raise ValueError(f"{self.name}: {len(data)} new bytes for {self.size}")
        _write_all(self.file, data, self.offset)


Chunk = bytes | tuple[Path, int, int] | NewTensor
"""Bytes, or `(file, start, end)` to be copied, or a tensor of which some columns are, or that is awaited."""


@dataclass(frozen=True)
class ByteRange:
    """Some bytes of a new file, and what writes them at their offset. Ranges may be written in any order."""

    bytes: int
    write: Callable[[], object]


def select_tensors(
    source: Checkpoint,
    names: Mapping[str, str],
    replaced: Mapping[str, bytes] | None = None,
    sliced: Mapping[str, Slices] | None = None,
) -> list[NewTensor]:
    """The tensors of `source` that `names` maps to a new name, in the order of its files.

    `replaced` holds new bytes for some of them, by old name, as many as before; `sliced` says of which only a part
    stays.
    """
    replaced, sliced = replaced or {}, sliced or {}
    order = {shard: number for number, shard in enumerate(source.shards)}
    chosen = [tensor for tensor in source.tensors.values() if tensor.name in names]
    chosen.sort(key=lambda tensor: (order[tensor.file], tensor.start))
    for tensor in chosen:
        data = replaced.get(tensor.name)
        if data is not None and len(data) != tensor.bytes:
            raise ValueError(f"{tensor.name}: {len(data)} new bytes for {tensor.bytes}")
    return [NewTensor(names[t.name], t, sliced.get(t.name), replaced.get(t.name)) for t in chosen]


def split_into_shards(tensors: Sequence[NewTensor], source: Checkpoint) -> list[list[NewTensor]]:
    """As many shards as the largest of the source's would need, filled evenly and in order."""
    total = sum(tensor.bytes for tensor in tensors)
    sizes = dict.fromkeys(source.shards, 0)
    for stored in source.tensors.values():
        sizes[stored.file] += stored.bytes
    count = -(-total // max(*sizes.values(), 1))
    shards: list[list[NewTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if filled + tensor.bytes / 2 > total / count * len(shards) and shards[-1]:
            shards.append([])
        shards[-1].append(tensor)
        filled += tensor.bytes
    return shards


def name_shard(number: int, count: int) -> str:
    """The conventional name of the `number`th of `count` files."""
    return SINGLE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def write_tensors(source: Checkpoint, out: Path, tensors: Sequence[NewTensor], advance: Advance | None = None) -> None:
    """Writes `tensors` into the folder `out`, with an index where there are several files. `advance` is told of bytes
    written."""
    shards = split_into_shards(tensors, source)
    weight_map = {}
    with ExitStack() as files:
        pieces: list[ByteRange] = []
        for number, members in enumerate(shards, start=1):
            name = name_shard(number, len(shards))
            metadata = source.metadata[members[0].source.file.name] if members else {}
            pieces += _begin_shard(out / name, members, metadata or {"format": "pt"}, files)
            weight_map.update({tensor.name: name for tensor in members})
        _write_pieces(pieces, advance)
    if len(shards) > 1:
        total = sum(tensor.bytes for tensor in tensors)
        parameters = sum(_count_elements(tensor) for tensor in tensors)
        index = {"metadata": {"total_parameters": parameters, "total_size": total}, "weight_map": weight_map}
        options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        (out / INDEX_FILE).write_bytes(orjson.dumps(index, option=options))


def replace_tensors(
    source: Checkpoint,
    out: Path,
    replaced: Collection[str],
    share: bool,
    values: Iterable[tuple[str, bytes | memoryview]] = (),
) -> None:
    """The same files with new bytes for the tensors `replaced`, which `values` yields one by one, in any order. Files
    in which nothing is new are shared with the source by hard link if `share`, else copied, which some file systems do
    by sharing blocks."""
    by_file: dict[Path, list[NewTensor]] = {shard: [] for shard in source.shards}
    for tensor in select_tensors(source, {name: name for name in source.tensors}):
        by_file[tensor.source.file].append(replace(tensor, is_awaited=tensor.name in replaced))
    with ExitStack() as files:
        pieces: list[ByteRange] = []
        gaps: dict[str, Gap] = {}
        for shard, members in by_file.items():
            name = shard.name if source.files.index is not None else SINGLE_FILE
            is_new = any(tensor.is_awaited for tensor in members)
            if is_new or not (share and _link(shard, out / name)):
                metadata = source.metadata[shard.name] or {"format": "pt"}
                pieces += _begin_shard(out / name, members, metadata, files, gaps)
        # First: processes that hold the tensors together wait for each other with every one.
        for name, data in values:
            gaps.pop(name).fill(data)
        if gaps:
            raise ValueError(f"no new bytes for {next(iter(gaps))}")
        _write_pieces(pieces, None)
    if source.files.index is not None:
        index = orjson.loads((source.path / source.files.index).read_bytes())
        if any("/" in name for name in index["weight_map"].values()):
            index["weight_map"] = {name: tensor.file.name for name, tensor in source.tensors.items()}
            (out / INDEX_FILE).write_bytes(orjson.dumps(index, option=orjson.OPT_INDENT_2))
        else:
            shutil.copyfile(source.path / source.files.index, out / INDEX_FILE)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True


def write_config(config: dict[str, Any], out: Path) -> None:
    """In the order of its fields, as it was read; without the name of the weights' file, which gets the usual one."""
    kept = {name: value for name, value in config.items() if name != NAMED_WEIGHTS}
    (out / "config.json").write_bytes(to_model_json(kept))


def copy_config(source: Path, out: Path) -> None:
    """The config as it is; without the name of the weights' file."""
    raw = (source / "config.json").read_bytes()
    if NAMED_WEIGHTS.encode() in raw:
        write_config(parse_model_json(raw), out)
    else:
        (out / "config.json").write_bytes(raw)


def copy_side_files(source: Checkpoint, out: Path, edited: Mapping[str, bytes] | None = None) -> SideFiles:
    """Tokenizer, processor, chat template, generation config and code (`side_files.py`), some of them `edited` (by
    name). Returns what was carried, and what was left. Raises CheckpointError for a link that leads elsewhere: what
    lies there is not to be published with the checkpoint."""
    found = source.find_side_files()
    for name in found.carried:
        path = find_inside(source.path, name)
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if edited and name in edited:
            (out / name).write_bytes(edited[name])
        elif path.is_file():
            shutil.copyfile(path, out / name)
    return found


def _count_elements(tensor: NewTensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def _begin_shard(
    out: Path,
    tensors: Sequence[NewTensor],
    metadata: dict[str, str],
    files: ExitStack,
    gaps: dict[str, Gap] | None = None,
) -> Iterator[ByteRange]:
    """Writes the header, and yields what is to be written behind it. The files stay open as long as `files`. `gaps`
    gets the places of tensors that are awaited."""
    encoded = _encode_header(tensors, metadata)
    # No fsync: after a power cut the folder can be made again from the model, and waiting for the disk costs more than
    # the copy. A process that is killed leaves nothing under the final name all the same.
    target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    files.callback(os.close, target)
    offset = _write_all(target, len(encoded).to_bytes(8, "little") + encoded, 0)
    opened: dict[Path, int] = {}
    for chunk in _join_ranges(tensors):
        if isinstance(chunk, tuple):
            file, start, end = chunk
            if file not in opened:
                opened[file] = os.open(file, os.O_RDONLY)
                files.callback(os.close, opened[file])
            for begin in range(start, end, BLOCK):
                count = min(BLOCK, end - begin)
                yield ByteRange(count, partial(_copy_range, opened[file], target, begin, count, offset))
                offset += count
        elif isinstance(chunk, bytes):
            yield ByteRange(len(chunk), partial(_write_all, target, chunk, offset))
            offset += len(chunk)
        elif chunk.is_awaited:
            assert gaps is not None
            gaps[chunk.name] = Gap(chunk.name, target, offset, chunk.bytes)
            offset += chunk.bytes
        else:
            yield ByteRange(chunk.bytes, partial(_write_columns, target, chunk, offset))
            offset += chunk.bytes


def _encode_header(tensors: Sequence[NewTensor], metadata: dict[str, str]) -> bytes:
    """As JSON, padded to eight bytes; entry by entry, so that a hundred thousand of them take little memory."""
    entries = [b'"__metadata__":' + orjson.dumps(metadata)]
    offset = 0
    for tensor in tensors:
        end = offset + tensor.bytes
        entry = {"dtype": tensor.source.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        entries.append(orjson.dumps(tensor.name) + b":" + orjson.dumps(entry))
        offset = end
    encoded = b"{" + b",".join(entries) + b"}"
    return encoded + b" " * (-len(encoded) % 8)


def _write_pieces(pieces: Sequence[ByteRange], advance: Advance | None) -> None:
    """A few at a time: the kernel copies one on each core. Stops at the first that fails, or at Ctrl-C."""
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        running = {pool.submit(piece.write): piece.bytes for piece in pieces}
        try:
            for done in as_completed(running):
                done.result()
                if advance:
                    advance(running[done])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _join_ranges(tensors: Sequence[NewTensor]) -> Iterator[Chunk]:
    """Neighbours in a file become one range to copy."""
    waiting: tuple[Path, int, int] | None = None
    for tensor in tensors:
        for chunk in _iter_chunks(tensor):
            if isinstance(chunk, tuple) and waiting and waiting[0] == chunk[0] and waiting[2] == chunk[1]:
                waiting = (chunk[0], waiting[1], chunk[2])
                continue
            if waiting:
                yield waiting
            waiting = chunk if isinstance(chunk, tuple) else None
            if not isinstance(chunk, tuple):
                yield chunk
    if waiting:
        yield waiting


def _iter_chunks(tensor: NewTensor) -> Iterator[Chunk]:
    source, slices = tensor.source, tensor.slices
    if tensor.is_awaited:
        yield tensor
    elif tensor.data is not None:
        yield tensor.data
    elif slices is None:
        yield source.file, source.start, source.end
    elif not slices.by_columns:
        part = source.bytes // slices.parts
        for index in slices.kept:
            yield source.file, source.start + index * part, source.start + (index + 1) * part
    else:
        yield tensor


def _write_columns(target: int, tensor: NewTensor, offset: int) -> None:
    """The kept columns, a few MiB of rows at a time."""
    source, slices = tensor.source, tensor.slices
    assert slices is not None
    row = source.bytes // source.shape[0]
    part = row // slices.parts
    rows_at_once = max(PIECE // row, 1)
    with source.file.open("rb") as file:
        file.seek(source.start)
        for first in range(0, source.shape[0], rows_at_once):
            block = memoryview(file.read(min(rows_at_once, source.shape[0] - first) * row))
            kept = b"".join(
                block[begin + index * part : begin + (index + 1) * part]
                for begin in range(0, len(block), row)
                for index in slices.kept
            )
            offset = _write_all(target, kept, offset)


def _copy_range(source: int, target: int, start: int, count: int, offset: int) -> None:
    """Copies `count` bytes of `source` from `start` to `offset` in `target`, inside the kernel where it can."""
    end = start + count
    in_kernel = hasattr(os, "copy_file_range")
    while start < end:
        copied = 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source, target, end - start, offset_src=start, offset_dst=offset)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                    raise
            # Some file systems answer 0 instead of an error.
            in_kernel = copied > 0
        if not copied:
            data = os.pread(source, min(end - start, PIECE), start)
            if not data:
                raise OSError(errno.EIO, "the source file became shorter while it was copied")
            copied = _write_all(target, data, offset) - offset
        start, offset = start + copied, offset + copied


def _write_all(target: int, data: bytes | memoryview, offset: int) -> int:
    """Writes at `offset`, and returns the one behind it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written
    return offset
