"""Reading a model folder without loading it: its config and the headers of its safetensors files."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from interlace_cli.errors import CheckpointError, MissingInputError
from interlace_cli.io.files import hash_file
from interlace_cli.io.headers import TensorInfo, read_header
from interlace_cli.io.offline import find_offline_switch
from interlace_cli.io.paths import expand_home, looks_like_path, suggest_path

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DEMO = "demo"
BUILT_IN = {DEMO: Path(__file__).parents[1] / "demo" / "checkpoint"}
"""Name -> folder of the checkpoints that come with the package."""
NOT_DOWNLOADED = (
    *("*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.tflite", "*.mlmodel"),
    *("original/*", "onnx/*", "openvino/*", "metal/*", "consolidated*.safetensors"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.mp4", "*.pdf"),
)
"""Weights in other forms, some of them a second copy in safetensors, and pictures for the card."""
PROCESSOR_FILES = (
    *("*processor_config.json", "*processor*.json", "tokenizer*", "*.tiktoken", "vocab.*", "merges.txt", "*.model"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "*.jinja", "additional_chat_templates/*"),
    "generation_config.json",
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_FETCH = "Fetch the file again."
MOST_NAME = 255
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
    path = resolve_location(location, config_only=True)[0]
    return _read_json(path / "config.json"), path


def is_local(location: str) -> bool:
    """Whether the model is at hand, and nothing has to be downloaded to look at its tensors."""
    return location == DEMO or expand_home(location).is_dir()


def open_checkpoint(location: str | Path) -> Checkpoint:
    """Opens `demo`, a local folder or a Hub id. Raises CheckpointError that names the broken or missing file."""
    path, stored = resolve_location(str(location))
    config = _read_json(path / "config.json")
    shards = _find_shards(path)
    tensors: dict[str, TensorInfo] = {}
    metadata = {}
    for shard in shards:
        header, metadata[shard.name] = read_header(shard)
        twice = next((name for name in header if name in tensors), None)
        if twice is not None:
            raise CheckpointError(f"tensor {twice} is both in {tensors[twice].file} and in {shard}.", _FETCH)
        tensors.update(header)
    _check_index(path, tensors)
    return Checkpoint(_describe_name(str(location), path), stored, path, config, tensors, shards, metadata)


def resolve_location(location: str, config_only: bool = False) -> tuple[Path, str]:
    """The folder of a model, downloaded if need be, and how to name it in an artifact."""
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
        return _download(repo, revision if at else None, config_only), location
    raise MissingInputError(
        f"there is no model folder {location}.", "Give a local folder, a Hub id (`owner/name@revision`), or `demo`."
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 over the config, every tensor's name, dtype and shape, and 4 KiB from the middle of its bytes: two
    models of one architecture differ, and a model of any size is told in well under a second."""
    digest = hashlib.sha256()
    config = {key: value for key, value in checkpoint.config.items() if key not in _VOLATILE}
    digest.update(orjson.dumps(config, option=orjson.OPT_SORT_KEYS))
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


def _download(repo: str, revision: str | None, config_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = "config.json" if config_only else None
    try:
        return Path(
            snapshot_download(repo, revision=revision, ignore_patterns=list(NOT_DOWNLOADED), allow_patterns=wanted)
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{repo} is gated.", "Accept its terms on the Hub and run `hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise MissingInputError(
            f"{repo} has no revision {revision}.", "Check its commits, branches and tags."
        ) from error
    except RepositoryNotFoundError as error:
        raise MissingInputError(f"there is neither a folder nor a Hub model {repo}.", "Check the name.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        switch = find_offline_switch()
        if switch is not None:
            raise MissingInputError(
                f"there is no folder {repo}, no model of that name in the Hub's cache, and {switch} keeps the Hub from"
                " being asked.",
                f"Unset {switch.partition('=')[0]}, or give a local folder.",
            ) from error
        raise MissingInputError(
            f"there is no folder {repo}, and the Hub cannot be reached for a model of that name.",
            "Give a local folder, or try again with a connection.",
        ) from error


def _describe_name(location: str, path: Path) -> str:
    if location == DEMO:
        return "interlace demo"
    return path.resolve().name if expand_home(location).is_dir() else location.partition("@")[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = orjson.loads(find_inside(path.parent, path.name).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}.", "Give the folder of a whole checkpoint.") from error
    except (OSError, orjson.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}.", "Fetch the file again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.", "Fetch the file again.")
    return data


def _check_index(path: Path, tensors: dict[str, TensorInfo]) -> None:
    if (path / INDEX_FILE).exists():
        lost = sorted(_read_json(path / INDEX_FILE)["weight_map"].keys() - tensors.keys())
        if lost:
            raise CheckpointError(f"{path / INDEX_FILE} names {lost[0]}, which no file has.", "Fetch the files again.")


def _find_shards(path: Path) -> list[Path]:
    if (path / INDEX_FILE).exists():
        weight_map = _read_json(path / INDEX_FILE).get("weight_map")
        if (
            not isinstance(weight_map, dict)
            or not weight_map
            or not all(isinstance(v, str) for v in weight_map.values())
        ):
            raise CheckpointError(f"{path / INDEX_FILE} has no weight_map.", "Fetch the file again.")
        shards = [find_inside(path, name) for name in sorted(set(weight_map.values()))]
        strange = next((shard for shard in shards if not shard.name.endswith(".safetensors")), None)
        if strange is not None:
            raise CheckpointError(f"{path / INDEX_FILE} names {strange.name}, which is no safetensors file.", _FETCH)
        missing = [shard.name for shard in shards if not shard.exists()]
        if missing:
            raise CheckpointError(f"{path} lacks {', '.join(missing)}.", "Fetch the missing files again.")
        return shards
    if (path / SINGLE_FILE).exists():
        return [find_inside(path, SINGLE_FILE)]
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{path} has its weights in {pickled[0]}, and only safetensors files can be cut.",
            "Convert them once: load the model with transformers' from_pretrained, and save_pretrained it elsewhere.",
        )
    raise CheckpointError(f"{path} has no {SINGLE_FILE} and no {INDEX_FILE}.", "Give the folder of a whole checkpoint.")


def find_inside(folder: Path, name: str) -> Path:
    """The file `name` of the folder. Raises CheckpointError if it lies elsewhere, by its name or by a link; files of
    the Hub's cache are links into the cache."""
    if not name or "\0" in name or len(os.fsencode(name)) > MOST_NAME:
        raise CheckpointError(f"{folder} has no file {name[:MOST_NAME]!r}.", "Fetch the checkpoint again.")
    path, root = folder / name, folder.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be followed to a file.", "Fetch the checkpoint again.") from error
    if not any(real.is_relative_to(allowed) for allowed in roots):
        raise CheckpointError(
            f"{folder}: {name} leads out of the folder, to {real}.", "Put the file itself there, if you trust it."
        )
    return path
