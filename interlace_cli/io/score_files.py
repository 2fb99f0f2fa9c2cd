"""The released scripts' score files: `{"0": [similarity of each sample, ...], "1": [...], ...}`, one file for each span
length. They leave out the spans that hold the last layer, and so do the files written here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from interlace_cli.domain.scores import Scores
from interlace_cli.errors import ArtifactError
from interlace_cli.io.files import parse_json, write_named

if TYPE_CHECKING:
    import numpy as np


def load_scores(paths: Sequence[Path]) -> Scores:
    """Means over samples of the three files, for span lengths 1, 2, 3. The layer count follows from the first."""
    means = [_load_means(path) for path in paths]
    num_layers = len(means[0]) + 1
    for p, (path, values) in enumerate(zip(paths, means, strict=True), start=1):
        if len(values) != num_layers - p:
            raise ArtifactError(
                f"{path} has {len(values)} spans where {num_layers - p} of length {p} belong to the"
                f" {num_layers} layers that {paths[0].name} speaks of.",
                "Give the files for span lengths 1, 2 and 3 of one model, in this order.",
            )
    s1, s2, s3 = means
    return Scores(num_layers, s1, s2, s3)


def save_scores(folder: Path, similarities: Sequence[np.ndarray], force: bool = False) -> None:
    """Writes `pack1_hidden_state_similarities.json` (2, 3) from arrays [samples, spans]. Raises ExistsError
    where other scores are and not `force`."""
    for p, similarity in enumerate(similarities, start=1):
        # All spans of length p: L-p+1 columns; the last one holds the last layer.
        data = {str(span): similarity[:, span].astype(float).tolist() for span in range(similarity.shape[1] - 1)}
        write_named(folder / f"pack{p}_hidden_state_similarities.json", orjson.dumps(data), force)


def _load_means(path: Path) -> list[float]:
    try:
        data: Any = parse_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}.") from error
    if not isinstance(data, dict) or not data or set(data) != {str(i) for i in range(len(data))}:
        raise ArtifactError(f'{path} is not a score file: it needs spans "0", "1", ... each with a list of numbers.')
    means = []
    for span in range(len(data)):
        values = data[str(span)]
        if not isinstance(values, list) or not values or not _are_cosines(values):
            raise ArtifactError(f'{path}: span "{span}" is not a list of numbers between -1 and 1.')
        if len(values) != len(data["0"]):
            raise ArtifactError(f'{path}: span "{span}" has {len(values)} samples, and span "0" {len(data["0"])}.')
        means.append(sum(values) / len(values))
    return means


def _are_cosines(values: list[Any]) -> bool:
    """Of a hundred thousand samples, in a moment: no function is called for each."""
    return set(map(type, values)) <= {int, float} and min(values) >= -1.001 and max(values) <= 1.001
