"""A local file in the released format: a JSON list, or JSONL, of
`{"image": path or list, "conversations": [{"from": "human|gpt|system", "value": ...}]}`.

Image paths are relative to the file's folder, or to `--image-root`, and may not lead out of it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from interlace_cli.data.source import RawRecord, Selection
from interlace_cli.domain.dataset import Skipped, Turn
from interlace_cli.errors import DatasetError
from interlace_cli.io.files import parse_json

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}


class UnusableRecordError(Exception):
    """A record cannot be used; the message is the reason, short enough to count by."""


class LocalSource:
    """Reads the whole file once; images only of the records that are wanted."""

    def __init__(self, path: Path, image_root: Path | None = None) -> None:
        self.name = path.name
        self.root = (image_root or path.parent).resolve()
        self.lines = _read_records(path)

    def count(self, selection: Selection) -> int:
        """How many records the selection takes."""
        return selection.count(len(self.lines))

    def iter_records(self, selection: Selection) -> Iterator[RawRecord | Skipped]:
        """The chosen records in the order of the file."""
        for index in selection.choose(len(self.lines)):
            where, data = self.lines[index]
            try:
                yield self._build_record(where, data)
            except UnusableRecordError as error:
                yield Skipped(record=where, reason=str(error))

    def _build_record(self, where: str, data: Any) -> RawRecord:
        if isinstance(data, UnusableRecordError):
            raise data
        if not isinstance(data, dict):
            raise UnusableRecordError("not an object")
        images = data.get("image", data.get("images"))
        images = [] if images is None else [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
            raise UnusableRecordError("field image is neither a path nor a list of paths")
        turns = _build_turns(data.get("conversations"))
        kind = data.get("kind", "all")
        if not isinstance(kind, str):
            raise UnusableRecordError("field kind is not text")
        return RawRecord(str(data.get("id", where)), tuple(map(self._read_image, images)), turns, kind)

    def _read_image(self, name: str) -> bytes:
        try:
            path = (self.root / name).resolve()
            if not path.is_relative_to(self.root):
                raise UnusableRecordError("image path leads out of the folder")
            return path.read_bytes()
        except FileNotFoundError as error:
            raise UnusableRecordError("image file is missing") from error
        # A name with a null byte in it is a ValueError.
        except (OSError, ValueError) as error:
            raise UnusableRecordError("image file cannot be read") from error


def _build_turns(data: Any) -> tuple[Turn, ...]:
    if not isinstance(data, list) or not data:
        raise UnusableRecordError("field conversations is missing or empty")
    turns = []
    for item in data:
        speaker = SPEAKERS.get(str(item.get("from"))) if isinstance(item, dict) else None
        if speaker is None:
            raise UnusableRecordError("a turn's from is not human, gpt or system")
        if not isinstance(item.get("value"), str) or not item["value"].strip():
            raise UnusableRecordError("a turn has no text")
        turns.append(Turn.model_validate({"from": speaker, "value": item["value"]}))
    spoken = [turn.speaker for turn in turns if turn.speaker != "system"]
    if spoken[:2] != ["human", "gpt"] or any(a == b for a, b in pairwise(spoken)):
        raise UnusableRecordError("turns do not alternate, human first")
    if any(turn.speaker == "system" for turn in turns[1:]):
        raise UnusableRecordError("a system turn is not the first")
    return tuple(turns)


def _read_records(path: Path) -> list[tuple[str, Any]]:
    """`(where, data)` for each record; data is an UnusableRecordError for a line that is not JSON."""
    try:
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}.") from error
    if raw.lstrip()[:1] == b"[":
        data = parse_json(raw)
        if not isinstance(data, list):
            raise DatasetError(f"{path} begins like a JSON list and is broken: {data}.", "Correct the file.")
        return [(f"record {index}", item) for index, item in enumerate(data)]
    records: list[tuple[str, Any]] = []
    for number, line in enumerate(raw.splitlines(), start=1):
        if line.strip():
            data = parse_json(line)
            is_broken = isinstance(data, ValueError)
            records.append((f"line {number}", UnusableRecordError("line is not JSON") if is_broken else data))
    return records
