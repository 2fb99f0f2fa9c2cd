"""Which samples a model can read at all: a language model reads those without images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import DatasetError
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import is_text_only
from interlace_cli.io.samples import choose, find_pictured

Say = Callable[[str], None]


def load_readable(folder: Path, split: str, model_type: str, say: Say | None = None) -> Sequence[Sample]:
    """The samples of a split that a model of this type can read. See `keep_readable`."""
    return keep_readable(load_split(folder, split), model_type, f"{split} samples", say)


def keep_readable(samples: Sequence[Sample], model_type: str, what: str, say: Say | None = None) -> Sequence[Sample]:
    """All of them, for a model that sees; for one that reads text alone those without images. `say` is told how many
    of `what` are left out. Raises DatasetError if none is left."""
    is_pictured = find_pictured(samples)
    count = int(is_pictured.sum())
    # Asking loads transformers.
    if not count or not is_text_only(model_type):
        return samples
    if count == len(samples):
        raise DatasetError(
            f"all {count} {what} have images, and a {model_type} model reads text alone.",
            "Run `interlace prepare` on conversations without images, or take a vision-language model.",
        )
    if say is not None:
        say(f"{count} of {len(samples)} {what} have images, and a {model_type} model reads text alone: left out.")
    return choose(samples, ~is_pictured)
