"""Which samples a checkpoint has seen: a file of 64-bit keys beside its weights, so that it is not judged on them.

A sample has a key for each of its images, by the image's content; one without images has a key of its conversation.
(The same question stands under many images: it is the image that makes such a sample one that was seen.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import CheckpointError, first_line
from interlace_cli.io.files import write_atomically

if TYPE_CHECKING:
    import numpy as np

SAMPLE_KEYS = "interlace-samples.npz"
TRAINED, CALIBRATED = "trained", "calibrated"
"""What was done with samples; names of the arrays."""
MOST_HEADERS, MOST_CHARACTERS = 1 << 14, 200
"""Bytes of what stands before the keys of all arrays; characters of what a library says of a broken file."""


def list_keys(sample: Sample) -> list[int]:
    """The sample's keys."""
    if sample.image:
        return [_hash(f"image {name}") for name in sample.image]
    turns = [(turn.speaker, " ".join(turn.value.split())) for turn in sample.conversations]
    return [_hash(f"conversation {json.dumps(turns)}")]


def build_keys(samples: Iterable[Sample]) -> np.ndarray:
    """All of them, each once, ascending: uint64 [N]."""
    import numpy as np

    return np.array(sorted({key for sample in samples for key in list_keys(sample)}), dtype=np.uint64)


def save_keys(folder: Path, keys: Mapping[str, np.ndarray]) -> None:
    """`interlace-samples.npz`: the same keys, the same bytes."""
    import io

    import numpy as np

    data = io.BytesIO()
    np.savez_compressed(data, **{name: keys[name] for name in sorted(keys)})  # type: ignore[arg-type]
    write_atomically(folder / SAMPLE_KEYS, data.getvalue())


def load_keys(folder: Path) -> dict[str, np.ndarray]:
    """By what was done with them; empty for a folder that does not say. Raises CheckpointError for a broken file."""
    import numpy as np

    path = folder / SAMPLE_KEYS
    if not path.exists():
        return {}
    if not path.is_file():
        raise CheckpointError(f"{path} is broken: it is no file.", "Remove it.")
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as found:
            keys = {name: found[name] for name in (TRAINED, CALIBRATED) if name in found}
        if any(array.ndim != 1 or array.dtype != np.uint64 for array in keys.values()):
            raise ValueError("its arrays are no lists of keys")
        return keys
    # NumPy, zipfile and zlib raise errors of a dozen kinds on a broken file.
    except Exception as error:
        why = first_line(error)[:MOST_CHARACTERS].rstrip(".")
        raise CheckpointError(f"{path} is broken: {why}.", "Make the checkpoint again, or remove the file.") from error


def _check_size(path: Path) -> None:
    """Raises ValueError for an archive that unfolds to more than keys can: they are hashes, which no packing makes
    smaller."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        unfolded = sum(member.file_size for member in archive.infolist())
    if unfolded > 2 * path.stat().st_size + MOST_HEADERS:
        raise ValueError(f"it unfolds to {unfolded:,} bytes")


def join_keys(*known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All of them, by what was done with the samples."""
    import numpy as np

    names = sorted({name for one in known for name in one})
    return {name: np.unique(np.concatenate([one[name] for one in known if name in one])) for name in names}


def find_seen(keys: np.ndarray, samples: Sequence[Sample]) -> list[int]:
    """Indices of the samples that have one of the keys."""
    import numpy as np

    asked = [list_keys(sample) for sample in samples]
    # The keys of millions of samples stay an array: as Python's numbers they would take ten times the memory.
    one_each = np.array([key for own in asked for key in own], dtype=np.uint64)
    seen = set(one_each[np.isin(one_each, keys)].tolist())
    return [index for index, own in enumerate(asked) if not seen.isdisjoint(own)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
