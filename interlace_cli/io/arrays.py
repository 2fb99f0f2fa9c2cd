"""Per-sample arrays beside an artifact, as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from interlace_cli.errors import ArtifactError, first_line
from interlace_cli.io.files import write_atomically

if TYPE_CHECKING:
    import numpy as np


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Same arrays, same bytes: no metadata, tensors in the order of their names."""
    import numpy as np
    from safetensors.numpy import save

    # safetensors writes the memory as it lies, whatever the order of the axes.
    write_atomically(path, save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Name -> array. Raises ArtifactError for a broken file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is broken: {first_line(error)}.", "Make it again, with --force.") from error
