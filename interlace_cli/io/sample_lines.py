"""What stands for a sample elsewhere: its line of JSON, the hash of that, and the keys by which it is known again."""

from __future__ import annotations

import hashlib
import json

import orjson

from interlace_cli.domain.dataset import Sample

DIGEST_BYTES = 16


def to_line(sample: Sample) -> bytes:
    """The sample as one line of JSON with sorted keys."""
    return orjson.dumps(sample.model_dump(by_alias=True), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def digest_line(line: bytes) -> bytes:
    """The first DIGEST_BYTES of the sha256 of a sample's line."""
    return hashlib.sha256(line).digest()[:DIGEST_BYTES]


def list_keys(sample: Sample) -> list[int]:
    """The sample's keys, of 64 bits: one for each of its images, by the image's content; one without images has a key
    of its conversation."""
    if sample.image:
        return [_hash(f"image {name}") for name in sample.image]
    turns = [(turn.speaker, " ".join(turn.value.split())) for turn in sample.conversations]
    return [_hash(f"conversation {json.dumps(turns)}")]


def count_characters(sample: Sample) -> int:
    """The characters of its turns."""
    return sum(len(turn.value) for turn in sample.conversations)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
