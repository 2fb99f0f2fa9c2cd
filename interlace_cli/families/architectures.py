"""The architectures that interlace is tested with: each has a tiny model in the tests, whose cut is compared with plain
transformers. Others are cut by the same general rules, and said to be untested."""

from __future__ import annotations

ARCHITECTURES: dict[str, str] = {}
