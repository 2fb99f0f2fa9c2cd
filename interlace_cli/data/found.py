"""What was found of each sample when it was rendered to see whether a model can be given it; kept on disk, so that a
command that is started once more does not render all of them again."""

from __future__ import annotations

import io
import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from interlace_cli.io.files import explained, write_atomically
from interlace_cli.runtime.agreement import find_versions

RENDERERS = (
    "interlace-cli",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "tiktoken",
    "mistral-common",
    "jinja2",
    "torch",
    "torchvision",
    "pillow",
)
"""Packages on which it depends what a template and a processor make of a sample, or whether they fail."""


@dataclass
class Found:
    """Of samples, each in its place: whether it is used (1 or 0), its tokens and its labels."""

    used: bytearray = field(default_factory=bytearray)
    tokens: array[int] = field(default_factory=lambda: array("I"))
    labels: array[int] = field(default_factory=lambda: array("I"))
    left_out: Counter[str] = field(default_factory=Counter)
    shortened: int = 0


@dataclass(frozen=True)
class FoundFile:
    """Where it is kept. `facts` are all that it depends on, beside the versions of what renders."""

    path: Path
    facts: Mapping[str, object]

    def save(self, found: Found) -> None:
        """Raises InterlaceError if the folder cannot be written to."""
        import numpy as np

        said = json.dumps([self._describe(), found.left_out, found.shortened]).encode()
        data = io.BytesIO()
        np.savez_compressed(
            data,
            said=np.frombuffer(said, np.uint8),
            used=np.frombuffer(bytes(found.used), np.uint8),
            tokens=np.array(found.tokens, np.uint32),
            labels=np.array(found.labels, np.uint32),
        )
        with explained(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, data.getvalue())

    def load(self, count: int) -> Found | None:
        """Of `count` samples; None if it is not there, broken, or of anything else."""
        import numpy as np

        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as kept:
                described, left_out, shortened = json.loads(kept["said"].tobytes())
                used, tokens, labels = (kept[name] for name in ("used", "tokens", "labels"))
            if described != self._describe() or not len(used) == len(tokens) == len(labels) == count:
                return None
            return Found(
                bytearray(used.tobytes()),
                array("I", tokens.astype(np.uint32).tobytes()),
                array("I", labels.astype(np.uint32).tobytes()),
                Counter(left_out),
                int(shortened),
            )
        # NumPy, zipfile and zlib raise errors of a dozen kinds on a broken file.
        except Exception:
            return None

    def _describe(self) -> dict[str, object]:
        return {**find_versions(RENDERERS), **{name: str(value) for name, value in self.facts.items()}}
