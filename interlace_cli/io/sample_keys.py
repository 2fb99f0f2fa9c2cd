"""Which samples a checkpoint has seen: a file of 64-bit keys beside its weights, so that it is not judged on them.

A sample has a key for each of its images, by the image's content; one without images has a key of its conversation.
(The same question stands under many images: it is the image that makes such a sample one that was seen.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import CheckpointError, first_line
from interlace_cli.io.files import write_atomically
from interlace_cli.io.sample_lines import list_keys as list_keys
from interlace_cli.io.samples import iter_keys

if TYPE_CHECKING:
    import numpy as np

SAMPLE_KEYS = "interlace-samples.npz"
TRAINED, CALIBRATED = "trained", "calibrated"
"""What was done with samples; names of the arrays."""
MOST_HEADERS, MOST_CHARACTERS = 1 << 14, 200
"""Bytes of what stands before the keys of all arrays; characters of what a library says of a broken file."""


def build_keys(samples: Sequence[Sample]) -> np.ndarray:
    """All of them, each once, ascending: uint64 [N]."""
    import numpy as np

    return np.unique(np.concatenate([*(np.unique(keys) for keys, _ in iter_keys(samples)), np.zeros(0, np.uint64)]))


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

    seen, before = [], 0
    for own, counts in iter_keys(samples):
        of_sample = np.repeat(np.arange(len(counts)), counts)
        seen += (np.unique(of_sample[np.isin(own, keys)]) + before).tolist()
        before += len(counts)
    return seen
