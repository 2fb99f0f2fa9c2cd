"""Datasets as interlace wrote them up to schema 3: each split has files of its own, and there is no index."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from interlace_cli.domain.dataset import SplitFacts
from interlace_cli.io.artifacts import save_artifact
from interlace_cli.io.datasets import DATA, MANIFEST, load_manifest, load_split, open_reader
from interlace_cli.io.sample_lines import to_line
from interlace_cli.io.sample_tables import SampleWriter


def write_old_dataset(dataset: Path, folder: Path) -> Path:
    """The samples of `dataset`, a prepared one, in the same splits and the same order."""
    manifest, reader, facts = load_manifest(dataset), open_reader(dataset), {}
    folder.mkdir(parents=True)
    for path in dataset.glob("*.json*"):
        shutil.copy2(path, folder)
    for split, own in manifest.splits.items():
        writer, digest = SampleWriter(folder / DATA, split), hashlib.sha256()
        for sample in load_split(dataset, split) if own.samples else ():
            writer.add(sample, {name: reader.load_image(name) for name in sample.image})
            digest.update(to_line(sample))
        writer.close()
        facts[split] = SplitFacts(samples=own.samples, images=own.images, sha256=digest.hexdigest())
    save_artifact(manifest.model_copy(update={"schema_version": 3, "splits": facts}), folder / MANIFEST)
    return folder
