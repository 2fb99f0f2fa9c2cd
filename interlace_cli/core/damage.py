"""Whether what belongs to an artifact on disk is still there: weights, arrays, the files of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import SPLITS, Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.record import Artifact
from interlace_cli.errors import CheckpointError, DatasetError
from interlace_cli.io.datasets import DATA, find_files
from interlace_cli.io.files import hash_file
from interlace_cli.io.headers import read_header
from interlace_cli.io.sample_index import INDEX, SampleIndex


def find_damage(out: Path, artifact: Artifact) -> str | None:
    """Which file that belongs to the artifact is gone, or is another. Content of large files is checked where it is
    read."""
    if isinstance(artifact, CheckpointCard):
        gone = next((name for name in sorted(artifact.files) if not (out / name).is_file()), None)
        return f"{gone} is gone" if gone else _find_broken_weights(out, artifact)
    if isinstance(artifact, Manifest):
        if artifact.schema_version > Manifest.OLDEST:
            return _find_broken_table(out)
        splits = [name for name in SPLITS if name in artifact.splits and artifact.splits[name].samples]
        gone = next((name for name in splits if not _is_whole(find_files(out, name))), None)
        return f"the files of its {gone} samples are gone" if gone else None
    if isinstance(artifact, (Analysis, Evaluation)):
        beside = out.with_suffix(".safetensors")
        digest = artifact.arrays if isinstance(artifact, Analysis) else None
        is_needed = isinstance(artifact, Analysis) or bool(artifact.results)
        if is_needed and not beside.exists():
            return f"{beside.name} is gone"
        return f"{beside.name} does not belong to it" if digest is not None and hash_file(beside) != digest else None
    return None


def _find_broken_weights(out: Path, card: CheckpointCard) -> str | None:
    """By the headers alone: a file that was cut off is found, another bit in it is not."""
    try:
        for name in card.files:
            if name.endswith(".safetensors"):
                read_header(out / name)
    except CheckpointError as error:
        return error.what.rstrip(".")
    return None


def _find_broken_table(out: Path) -> str | None:
    """By sizes alone."""
    try:
        files = SampleIndex(out / INDEX, out / DATA).facts.files
    except (DatasetError, OSError):
        return f"its {INDEX}, which says what is of which split, is gone or broken"
    for file in files:
        try:
            if (out / DATA / file.name).stat().st_size != file.size:
                return f"{DATA}/{file.name} is not as long as it was"
        except OSError:
            return f"{DATA}/{file.name} is gone"
    return None


def _is_whole(files: Sequence[Path]) -> bool:
    """Whether as many files are there as each of them says: `train-00000-of-00002.parquet`."""
    return bool(files) and all(file.stem.endswith(f"-of-{len(files):05d}") for file in files)
