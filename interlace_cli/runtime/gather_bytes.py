"""The bytes of all processes, in all of them: arrays that each has made a part of."""

from __future__ import annotations

import base64
import zlib

from interlace_cli.runtime.exchange import gather_values

BLOCK = 1 << 24
"""Bytes that a process says at once: the first one holds this of each."""


def gather_bytes(topic: str, data: bytes) -> list[bytes]:
    """`data` of all processes, in the order of their ranks; all of them call it. `topic` says what it is. Raises what
    `gather_values` raises."""
    sizes = gather_values(f"{topic} (bytes)", len(data))
    parts: list[list[bytes]] = [[b""] * len(sizes)]
    for start in range(0, max(sizes), BLOCK):
        packed = base64.b85encode(zlib.compress(data[start : start + BLOCK], 1)).decode()
        said = gather_values(topic, packed)
        parts.append([zlib.decompress(base64.b85decode(one)) for one in said])
    return [b"".join(own) for own in zip(*parts, strict=True)]
