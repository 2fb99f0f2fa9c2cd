"""Opens the index of a prepared dataset, and makes it for one of schema 3, which had none: once, in the dataset's
folder; where that may not be written to, for this process alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from interlace_cli.domain.dataset import SplitFacts
from interlace_cli.errors import DatasetError
from interlace_cli.io.file_index import FileIndex
from interlace_cli.io.files import name_scratch
from interlace_cli.io.sample_index import INDEX, SampleIndex, write_index
from interlace_cli.io.sample_tables import count_rows, read_file_index

DATA, PART = "data", "part"
"""The folder of a dataset with its files, and what their names begin with; up to schema 3 that was the split."""


def open_index(folder: Path, splits: Mapping[str, SplitFacts]) -> SampleIndex:
    """The index of the dataset `folder`, `splits` being those of its manifest. Raises DatasetError if the files are not
    those that the manifest speaks of."""
    found = _find_index(folder)
    if found is None:
        wanted = {split: facts for split, facts in splits.items() if facts.samples}
        if not any(find_files(folder, split) for split in wanted):
            raise _describe_broken(folder)
        found = _make_index(folder, wanted)
    for split, facts in splits.items():
        if facts.samples and found.facts.splits.get(split) != facts:
            raise _describe_changed(folder, split)
    return found


def find_files(folder: Path, split: str = "*") -> list[Path]:
    """The Parquet files of a split, or of all splits, sorted by name."""
    return sorted((folder / DATA).glob(f"{split}-*-of-*.parquet"))


def _describe_broken(folder: Path) -> DatasetError:
    """What is wrong with a dataset whose splits stand in its index, and nowhere else."""
    try:
        changed = SampleIndex(folder / INDEX, folder / DATA).find_changed()
    except (OSError, DatasetError):
        changed = None
    if changed is not None:
        what = f"{folder / DATA / changed} is gone or has changed"
    elif find_files(folder, PART):
        what = f"{folder / INDEX} is missing or broken"
    else:
        what = f"{folder / DATA} has no samples"
    return DatasetError(
        f"{what}: the samples are not those that manifest.json speaks of.", "Run `interlace prepare --force`."
    )


def _find_index(folder: Path) -> SampleIndex | None:
    """The index that lies there, if it is of the files as they are."""
    try:
        index = SampleIndex(folder / INDEX, folder / DATA)
        index.check_splits()
    except (OSError, DatasetError):
        return None
    return index if index.find_changed() is None else None


def _make_index(folder: Path, splits: Mapping[str, SplitFacts]) -> SampleIndex:
    """All texts are read once, and compared with the manifest."""
    place = name_scratch(folder / INDEX)
    try:
        _write(place, folder, splits)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        kept = tempfile.TemporaryDirectory(prefix="interlace-index-")
        _write(Path(kept.name) / INDEX, folder, splits)
        return SampleIndex(Path(kept.name) / INDEX, folder / DATA, kept)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    # Another process may have made it meanwhile, and be reading it: one that is whole stays.
    if (other := _find_index(folder)) is not None:
        shutil.rmtree(place)
        return other
    shutil.rmtree(folder / INDEX, ignore_errors=True)
    try:
        os.rename(place, folder / INDEX)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
    return SampleIndex(folder / INDEX, folder / DATA)


def _write(place: Path, folder: Path, splits: Mapping[str, SplitFacts]) -> None:
    """Each split has files of its own: its rows stand one after the other."""
    import numpy as np

    files = {split: find_files(folder, split) for split in splits}
    counts = [sum(map(count_rows, paths)) for paths in files.values()]
    starts = [sum(counts[:number]) for number in range(len(counts))]
    rows = {split: np.arange(start, start + n) for split, start, n in zip(files, starts, counts, strict=True)}

    def read() -> Iterator[tuple[str, FileIndex]]:
        for split, paths in files.items():
            digest = hashlib.sha256()
            yield from ((path.name, read_file_index(path, digest.update)) for path in paths)
            if digest.hexdigest() != splits[split].sha256:
                raise _describe_changed(folder, split)

    write_index(place, read(), rows, known=splits)


def _describe_changed(folder: Path, split: str) -> DatasetError:
    return DatasetError(
        f"the {split} samples in {folder / DATA} are not those that manifest.json speaks of.",
        "Run `interlace prepare` again.",
    )
