"""Artifacts on disk: canonical JSON (sorted keys, two-space indent, final newline), typed when read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from interlace_cli import __version__
from interlace_cli.domain.record import Artifact, Origin, Record, Settings
from interlace_cli.errors import ArtifactError
from interlace_cli.io.files import hash_bytes, write_atomically

A = TypeVar("A", bound=Artifact)
R = TypeVar("R", bound=Record)
MOST_FAULTS = 3


def build_origin(command: str, settings: Settings) -> Origin:
    """Who makes an artifact now."""
    return Origin(interlace=__version__, command=command, settings=settings)


def to_json(record: Record) -> bytes:
    """Canonical bytes. Records cannot hold NaN, which orjson would write as `null` without a word."""
    data = record.model_dump(mode="json", by_alias=True)
    if isinstance(record, Artifact):
        data["sha256"] = _seal(data)
    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def to_json_text(value: Any) -> str:
    """Any JSON value in one line."""
    return orjson.dumps(value).decode()


def save_artifact(artifact: Artifact, path: Path) -> None:
    """Writes canonical JSON, whole or not at all."""
    write_atomically(path, to_json(artifact))


def load_artifact(path: Path, cls: type[A]) -> A:
    """Reads and checks. Raises ArtifactError that says which field is wrong."""
    try:
        data = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}.") from error
    except orjson.JSONDecodeError as error:
        raise ArtifactError(f"{path} is not JSON: {error}.", "Make it again, or undo the edit.") from error
    if not isinstance(data, dict) or "kind" not in data:
        raise ArtifactError(f"{path} is not an artifact of interlace: it has no field 'kind'.")
    if data["kind"] != cls.KIND:
        raise ArtifactError(f"{path} is of kind {data['kind']!r} where {cls.KIND!r} is needed.")
    seal = data.pop("sha256", None)
    schema = data.get("schema")
    if isinstance(schema, int) and schema > cls.SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema}, and this interlace ({__version__}) reads up to {cls.SCHEMA}.",
            "Update interlace.",
        )
    try:
        artifact = cls.model_validate(data)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {describe_validation(error)}.", "Correct the file or make it again.") from error
    # No flipped bit takes a field away: who left one out has edited the file.
    names = {field.alias or name for name, field in cls.model_fields.items()} - {"sha256"}
    is_edited = artifact.is_edited or not names <= data.keys()
    if seal is not None and seal != _seal(data) and not is_edited:
        raise ArtifactError(
            f"{path} is not as it was written: its sha256 differs from the one in it.",
            "Make it again; if you changed it yourself, delete the field `sha256`.",
        )
    return artifact


def _seal(data: dict[str, Any]) -> str:
    """sha256 of an artifact's fields, that one excepted."""
    rest = {name: value for name, value in data.items() if name != "sha256"}
    return hash_bytes(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS))


def load_record(path: Path, cls: type[R]) -> R:
    """A record of our own that is no artifact. Raises ArtifactError."""
    try:
        return cls.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is broken.", "Remove it.") from error


def describe_validation(error: ValidationError) -> str:
    """The first faults in one line, each with its field, and how many there are besides."""
    faults = []
    for fault in error.errors(include_url=False):
        field = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{field}: {message}" if field else message)
    more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
    return "; ".join(faults[:MOST_FAULTS]) + more
