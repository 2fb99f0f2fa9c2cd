"""Artifacts on disk: canonical JSON (sorted keys, two-space indent, final newline), typed when read again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from interlace_cli import __version__
from interlace_cli.domain.record import Artifact, Origin, Record, Settings
from interlace_cli.errors import ArtifactError
from interlace_cli.io.files import hash_bytes, write_atomically
from interlace_cli.io.validation import describe_validation

A = TypeVar("A", bound=Artifact)
R = TypeVar("R", bound=Record)


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
    """Reads and checks. Raises ArtifactError that says which field is wrong, or that an earlier interlace wrote it."""
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
    if isinstance(schema, int) and 1 <= schema < (cls.OLDEST or cls.SCHEMA):
        raise _build_outdated(path, data, f"its schema is {schema}, and this one ({__version__}) reads {cls.SCHEMA}")
    try:
        artifact = cls.model_validate(data)
    except ValidationError as error:
        if _is_earlier(_find_origin(data).get("interlace")):
            first = describe_validation(error, cls, most=1)
            raise _build_outdated(path, data, f"its fields do not fit this one ({__version__}): {first}") from error
        faults = describe_validation(error, cls)
        raise ArtifactError(f"{path}: {faults}.", "Correct the file or make it again.") from error
    # No flipped bit takes a field away: who left one out has edited the file.
    names = {field.alias or name for name, field in cls.model_fields.items()} - {"sha256"}
    is_edited = artifact.is_edited or not names <= data.keys()
    if seal is not None and seal != _seal(data) and not is_edited:
        raise ArtifactError(
            f"{path} is not as it was written: its sha256 differs from the one in it.",
            "Make it again; if you changed it yourself, delete the field `sha256`.",
        )
    return artifact


def load_own(path: Path, cls: type[A], origin: Origin, inputs: Mapping[str, str]) -> A | None:
    """The artifact, if it is there, can be read, and was made by the same command from the same: what unfinished work
    goes on from. None otherwise."""
    if not path.exists():
        return None
    try:
        found = load_artifact(path, cls)
    except ArtifactError:
        return None
    return found if found.created_by == origin and found.inputs == dict(inputs) else None


def _seal(data: dict[str, Any]) -> str:
    """sha256 of an artifact's fields, that one excepted."""
    rest = {name: value for name, value in data.items() if name != "sha256"}
    return hash_bytes(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS))


def _build_outdated(path: Path, data: dict[str, Any], why: str) -> ArtifactError:
    origin = _find_origin(data)
    version, command = (str(origin.get(name, "")) for name in ("interlace", "command"))
    which = f" ({version})" if re.fullmatch(r"[\w.+-]{1,40}", version) else ""
    fix = f"Make it again: `interlace {command} --force`." if re.fullmatch("[a-z]{1,20}", command) else "Make it again."
    return ArtifactError(f"{path} was written by an earlier interlace{which}: {why}.", fix)


def _find_origin(data: dict[str, Any]) -> dict[str, Any]:
    """Who wrote it, as far as the file says."""
    found = data.get("created_by")
    return found if isinstance(found, dict) else {}


def _is_earlier(version: object) -> bool:
    """Whether a version such as "0.1.0" comes before this one, as far as its numbers tell."""
    return isinstance(version, str) and _read_numbers(version) < _read_numbers(__version__)


def _read_numbers(version: str) -> tuple[int, ...]:
    """Example: 0.10.2rc1 -> (0, 10, 2). What begins with no number is later than all."""
    found = re.match(r"\d{1,9}(\.\d{1,9})*", version, re.ASCII)
    return tuple(map(int, found[0].split("."))) if found else (10**9,)


def load_record(path: Path, cls: type[R]) -> R:
    """A record of our own that is no artifact. Raises ArtifactError."""
    try:
        return cls.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is broken.", "Remove it.") from error
