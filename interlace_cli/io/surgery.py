"""Surgery on disk: a new checkpoint from an old one by copying byte ranges. No tensor is ever decoded.

Memory stays flat whatever the model's size; the cost is that of copying the bytes that stay
(`os.copy_file_range`, which some file systems do by sharing blocks).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from interlace_cli.io.checkpoints import INDEX_FILE, SINGLE_FILE, Checkpoint, TensorInfo

BLOCK = 1 << 26
_WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
    ".safetensors.index.json",
)
_NOT_CARRIED = ("config.json", "README.md", "interlace.json", ".gitattributes")


def write_tensors(
    source: Checkpoint,
    out: Path,
    names: Mapping[str, str],
    replaced: Mapping[str, bytes] | None = None,
    advance: Callable[[float], None] | None = None,
) -> None:
    """Writes the tensors of `source` that `names` maps to a new name, shard by shard, into the folder `out`.

    `replaced` holds new bytes for some of them, by old name, as many as before. `advance` is told of bytes written.
    """
    kept = [[t for t in source.tensors.values() if t.file == shard and t.name in names] for shard in source.shards]
    files = [
        (shard, sorted(tensors, key=lambda t: t.start))
        for shard, tensors in zip(source.shards, kept, strict=True)
        if tensors
    ]
    weight_map = {}
    for number, (shard, tensors) in enumerate(files, start=1):
        name = SINGLE_FILE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        metadata = source.metadata[shard.name] or {"format": "pt"}
        _write_shard(shard, tensors, out / name, names, replaced or {}, metadata, advance)
        weight_map.update({names[tensor.name]: name for tensor in tensors})
    if len(files) > 1:
        total = sum(tensor.bytes for _, tensors in files for tensor in tensors)
        parameters = sum(tensor.parameters for _, tensors in files for tensor in tensors)
        index = {"metadata": {"total_parameters": parameters, "total_size": total}, "weight_map": weight_map}
        options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        (out / INDEX_FILE).write_bytes(orjson.dumps(index, option=options))


def write_config(config: dict[str, Any], out: Path) -> None:
    """In the order of its fields, as it was read."""
    (out / "config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def copy_config(source: Path, out: Path) -> None:
    """The config as it is."""
    shutil.copyfile(source / "config.json", out / "config.json")


def copy_side_files(source: Path, out: Path) -> None:
    """Tokenizer, processor, chat template, generation config and whatever else lies beside the weights; not the
    base model's card, which speaks of another model."""
    for path in sorted(source.iterdir()):
        if path.name in _NOT_CARRIED or path.name.startswith(".") or path.name.endswith(_WEIGHT_SUFFIXES):
            continue
        if path.is_dir():
            if path.name in ("chat_templates", "additional_chat_templates"):
                shutil.copytree(path, out / path.name)
        else:
            shutil.copyfile(path, out / path.name)


def _write_shard(
    shard: Path,
    tensors: list[TensorInfo],
    out: Path,
    names: Mapping[str, str],
    replaced: Mapping[str, bytes],
    metadata: dict[str, str],
    advance: Callable[[float], None] | None,
) -> None:
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for tensor in tensors:
        header[names[tensor.name]] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.bytes],
        }
        offset += tensor.bytes
    encoded = orjson.dumps(header)
    encoded += b" " * (-len(encoded) % 8)
    source, target = os.open(shard, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write_all(target, len(encoded).to_bytes(8, "little") + encoded)
        for start, end, data in _join_ranges(tensors, replaced):
            if data is None:
                _copy_range(source, target, start, end - start, advance)
            else:
                _write_all(target, data)
                if advance:
                    advance(len(data))
        os.fsync(target)
    finally:
        os.close(source)
        os.close(target)


def _join_ranges(tensors: list[TensorInfo], replaced: Mapping[str, bytes]) -> list[tuple[int, int, bytes | None]]:
    """Neighbours in the file become one range to copy; a replaced tensor is a range of its own."""
    ranges: list[tuple[int, int, bytes | None]] = []
    for tensor in tensors:
        data = replaced.get(tensor.name)
        if data is not None:
            if len(data) != tensor.bytes:
                raise ValueError(f"{tensor.name}: {len(data)} new bytes for {tensor.bytes}")
            ranges.append((tensor.start, tensor.end, data))
        elif ranges and ranges[-1][2] is None and ranges[-1][1] == tensor.start:
            ranges[-1] = (ranges[-1][0], tensor.end, None)
        else:
            ranges.append((tensor.start, tensor.end, None))
    return ranges


def _copy_range(source: int, target: int, start: int, count: int, advance: Callable[[float], None] | None) -> None:
    """Appends `count` bytes of `source` from `start`, inside the kernel where it can."""
    end = start + count
    in_kernel = hasattr(os, "copy_file_range")
    while start < end:
        wanted, copied = min(BLOCK, end - start), 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source, target, wanted, offset_src=start)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                    raise
            # Some file systems answer 0 instead of an error.
            in_kernel = copied > 0
        if not copied:
            data = os.pread(source, min(wanted, 1 << 22), start)
            if not data:
                raise OSError(errno.EIO, "the source file became shorter while it was copied")
            _write_all(target, data)
            copied = len(data)
        start += copied
        if advance:
            advance(copied)


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
