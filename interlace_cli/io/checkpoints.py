"""Reading a model folder without loading it: its config and the headers of its safetensors files."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace_cli.errors import CheckpointError, MissingInputError
from interlace_cli.io.downloads import download_model
from interlace_cli.io.files import hash_file
from interlace_cli.io.headers import TensorInfo, read_header
from interlace_cli.io.links import find_inside, find_weights, is_own
from interlace_cli.io.model_json import parse_model_json, to_canonical_json
from interlace_cli.io.paths import expand_home, looks_like_path, suggest_path
from interlace_cli.io.side_files import PROCESSOR_FILES, SideFiles, find_side_files
from interlace_cli.io.weights import WEIGHTS, WeightFiles, check_no_adapter, choose_weights

DEMO = "demo"
BUILT_IN = {DEMO: Path(__file__).parents[1] / "demo" / "checkpoint"}
"""Name -> folder of the checkpoints that come with the package."""
_FETCH = "Fetch the file again."
_SAMPLE = 4096
_VOLATILE = ("transformers_version", "_name_or_path")


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder. `shards` are its safetensors files in order, `metadata` theirs by file name."""

    name: str
    location: str
    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    shards: list[Path]
    metadata: dict[str, dict[str, str]]
    files: WeightFiles

    @property
    def remarks(self) -> list[str]:
        """What people should know of the files, a sentence each."""
        linked = [shard for shard in self.shards if not is_own(self.path, shard.resolve())]
        where = f"{linked[0].name} is a link to {linked[0].resolve()}" if linked else ""
        return [*filter(None, [self.files.remark]), *([f"Weights are read from elsewhere: {where}."] if linked else [])]

    def find_side_files(self) -> SideFiles:
        """The files that go with the weights, and those that do not."""
        return find_side_files(self.path, {*self.files.names, self.files.index or ""})

    @property
    def revision(self) -> str | None:
        """The commit on the Hub, of a folder that the Hub's library downloaded."""
        return self.path.name if self.path.parent.name == "snapshots" else None

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def total_parameters(self) -> int:
        """Elements of all tensors on disk."""
        return sum(tensor.parameters for tensor in self.tensors.values())


def read_config(location: str) -> tuple[dict[str, Any], Path]:
    """The config of `demo`, a local folder or a Hub id, and the folder it lies in. Nothing else is downloaded."""
    path = resolve_location(location, only="config.json")[0]
    check_no_adapter(str(path), _list_names(path))
    return _read_json(path / "config.json"), path


def is_local(location: str) -> bool:
    """Whether the model is at hand, and nothing has to be downloaded to look at its tensors."""
    return location == DEMO or expand_home(location).is_dir()


def open_checkpoint(location: str | Path) -> Checkpoint:
    """Opens `demo`, a local folder or a Hub id. Raises CheckpointError that names the broken or missing file."""
    path, stored = resolve_location(str(location))
    check_no_adapter(str(path), _list_names(path))
    config = _read_json(path / "config.json")
    files, shards = _find_shards(path, config)
    tensors: dict[str, TensorInfo] = {}
    metadata = {}
    for shard in shards:
        header, metadata[shard.name] = read_header(shard)
        twice = next((name for name in header if name in tensors), None)
        if twice is not None:
            raise CheckpointError(
                f"tensor {twice} is both in {tensors[twice].file} and in {shard}.",
                "Take away the file that is not of this model, or save the model again.",
            )
        tensors.update(header)
    _check_index(path, files.index, tensors)
    name = _describe_name(str(location), path)
    return Checkpoint(name, stored, path, config, tensors, shards, metadata, files)


def resolve_location(location: str, only: str | None = None) -> tuple[Path, str]:
    """The folder of a model, downloaded if need be (`only` one file of it, if that is given), and how to name it in an
    artifact."""
    if location == DEMO:
        return BUILT_IN[DEMO], DEMO
    path = expand_home(location)
    if path.is_dir():
        return path, str(path.resolve())
    if path.exists():
        raise CheckpointError(f"{location} is a file.", "Give the model's folder.")
    repo, at, revision = location.partition("@")
    if not at and looks_like_path(location, (*WEIGHTS, ".json")):
        raise MissingInputError(f"there is no model folder {location}.", suggest_path(location, "@main"))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) and not location.startswith((".", "/")):
        return download_model(repo, revision if at else None, only), location
    raise MissingInputError(
        f"there is no model folder {location}.", "Give a local folder, a Hub id (`owner/name@revision`), or `demo`."
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 over the config, every tensor's name, dtype and shape, and 4 KiB from the middle of its bytes: two
    models of one architecture differ, and a model of any size is told in well under a second."""
    digest = hashlib.sha256()
    config = {key: value for key, value in checkpoint.config.items() if key not in _VOLATILE}
    digest.update(to_canonical_json(config))
    files = {shard: os.open(shard, os.O_RDONLY) for shard in checkpoint.shards}
    try:
        for name in sorted(checkpoint.tensors):
            tensor = checkpoint.tensors[name]
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            middle = (tensor.start + tensor.end - min(_SAMPLE, tensor.bytes)) // 2
            digest.update(os.pread(files[tensor.file], min(_SAMPLE, tensor.bytes), middle))
    finally:
        for file in files.values():
            os.close(file)
    return digest.hexdigest()


def hash_processor(path: Path) -> str:
    """sha256 over the names and contents of the folder's files that decide how samples become tokens and pixels, and
    how answers are generated."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in PROCESSOR_FILES for file in path.glob(pattern) if file.is_file()}):
        digest.update(f"{file.relative_to(path).as_posix()} {hash_file(file)}\n".encode())
    return digest.hexdigest()


def _describe_name(location: str, path: Path) -> str:
    if location == DEMO:
        return "interlace demo"
    return path.resolve().name if expand_home(location).is_dir() else location.partition("@")[0]


def _read_json(path: Path) -> dict[str, Any]:
    return _parse_json(find_inside(path.parent, path.name))


def _parse_json(path: Path) -> dict[str, Any]:
    try:
        data = parse_model_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}.", "Give the folder of a whole checkpoint.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}.", "Fetch the file again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.", "Fetch the file again.")
    return data


def _list_names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir() if not found.is_dir()}


def _find_shards(path: Path, config: dict[str, Any]) -> tuple[WeightFiles, list[Path]]:
    below = (found.relative_to(path).as_posix() for found in path.glob("[!.]*/*"))
    files = choose_weights(str(path), _list_names(path), below, config, lambda name: _read_index(path, name))
    shards = [find_weights(path, name) for name in files.names]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}.", "Fetch the missing files again.")
    names = [shard.name for shard in shards]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CheckpointError(f"{path} has two files of weights {twice}.", "Save the model again, in one folder.")
    return files, shards


def _read_index(path: Path, name: str) -> dict[str, Any]:
    return _parse_json(find_weights(path, name))


def _check_index(path: Path, index: str | None, tensors: dict[str, TensorInfo]) -> None:
    if index is not None:
        lost = sorted(_read_index(path, index)["weight_map"].keys() - tensors.keys())
        if lost:
            raise CheckpointError(f"{path / index} names {lost[0]}, which no file has.", "Fetch the files again.")
