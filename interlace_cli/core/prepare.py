"""`prepare`: a reproducible sample of conversations with images, split so that no image is in two splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from interlace_cli.data.source import RawRecord, Selection
from interlace_cli.data.sources import open_source
from interlace_cli.domain.dataset import SPLITS, Manifest, Sample, Skipped, SplitFacts
from interlace_cli.domain.progress import Progress
from interlace_cli.domain.record import Settings
from interlace_cli.errors import DatasetError
from interlace_cli.io.artifacts import build_origin, save_artifact
from interlace_cli.io.datasets import MANIFEST, encode_samples, find_image_format
from interlace_cli.io.files import folder_being_made, hash_bytes, hash_file

IMAGE_MARK = "<image>"


def build_settings(source: str, selection: Selection) -> Settings:
    """Everything the sample depends on beside the source; the source by its name, not its path."""
    return {
        "source": Path(source).name,
        "portion": selection.portion,
        "max_samples": selection.max_samples,
        "holdout": selection.holdout,
        "calibration": selection.calibration,
        "seed": selection.seed,
    }


def hash_source(source: str) -> dict[str, str]:
    """What a dataset is made from: the local file's sha256; the demo needs none."""
    path = Path(source).expanduser()
    return {"source": hash_file(path)} if path.is_file() else {}


def prepare_dataset(
    source_name: str,
    out: Path,
    selection: Selection,
    progress: Progress,
    image_root: Path | None = None,
    force: bool = False,
) -> Manifest:
    """Reads `selection` of the source and writes the dataset folder `out`.

    Records that cannot be used are listed in the manifest with the reason. Raises DatasetError if none can be used.
    """
    source = open_source(source_name, image_root)
    skipped: list[Skipped] = []
    samples: list[Sample] = []
    own_splits: dict[str, str] = {}
    used: Counter[str] = Counter()
    with folder_being_made(out, force) as draft:
        (draft / "images").mkdir()
        total = source.count(selection)
        with progress.task("prepare", total, "records") as advance:
            for record in source.iter_records(selection):
                kept = record if isinstance(record, Skipped) else _store(record, source.name, draft)
                if isinstance(kept, Skipped):
                    skipped.append(kept)
                else:
                    kept = kept.model_copy(update={"id": _make_unique(kept.id, used)})
                    samples.append(kept)
                    if isinstance(record, RawRecord) and record.split:
                        own_splits[kept.id] = record.split
                advance()
        if not samples:
            reason = Counter(item.reason for item in skipped).most_common(1)
            why = f"the most frequent reason is: {reason[0][0]}" if reason else "it is empty"
            raise DatasetError(f"{source_name} has no record that can be used; {why}.", "See the format in the README.")
        splits = own_splits or assign_splits(samples, selection)
        manifest = _write_splits(
            draft,
            samples,
            splits,
            skipped,
            source.name,
            build_settings(source_name, selection),
            hash_source(source_name),
        )
        save_artifact(manifest, draft / MANIFEST)
    return manifest


def assign_splits(samples: Sequence[Sample], selection: Selection) -> dict[str, str]:
    """Sample id -> split. Samples that share an image, directly or through others, stay together.

    The groups are put in an order by a hash of the seed; the first `holdout` of them are held out, then `calibration`
    of what is left. With three groups or more no split that is wanted stays empty.
    """
    groups = _group_by_image(samples)
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{selection.seed}/{key}".encode()).digest())
    least = 1 if len(order) >= 3 else 0
    heldout = max(round(selection.holdout * len(order)), least if selection.holdout else 0)
    rest = len(order) - heldout
    calibration = max(round(selection.calibration * rest), least if selection.calibration else 0)
    result = {}
    for place, key in enumerate(order):
        split = "heldout" if place < heldout else "calibration" if place < heldout + calibration else "train"
        result.update(dict.fromkeys(groups[key], split))
    return result


def _group_by_image(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Union-find over images: group key (its first image, or the id of a text sample) -> sample ids."""
    parent: dict[str, str] = {}

    def find(image: str) -> str:
        while parent.setdefault(image, image) != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for sample in samples:
        for image in sample.image[1:]:
            first, second = sorted((find(sample.image[0]), find(image)))
            parent[second] = first
    groups: dict[str, list[str]] = {}
    for sample in samples:
        groups.setdefault(find(sample.image[0]) if sample.image else sample.id, []).append(sample.id)
    return groups


def _store(record: RawRecord, source: str, draft: Path) -> Sample | Skipped:
    """Writes the record's images, named by content, and returns it as a sample."""
    formats = [find_image_format(data) for data in record.images]
    if None in formats:
        return Skipped(record=record.id, reason="image does not open")
    turns = [
        turn.model_copy(update={"value": turn.value.replace(IMAGE_MARK, "").strip()}) for turn in record.conversations
    ]
    if any(not turn.value for turn in turns):
        return Skipped(record=record.id, reason="a turn has no text beside the image")
    paths = []
    for data, suffix in zip(record.images, formats, strict=True):
        paths.append(f"images/{hash_bytes(data)[:32]}.{suffix}")
        if not (draft / paths[-1]).exists():
            (draft / paths[-1]).write_bytes(data)
    return Sample(id=record.id, image=paths, conversations=turns, source=record.part or source, kind=record.kind)


def _make_unique(name: str, used: Counter[str]) -> str:
    """Ids are the source's own, and nothing keeps a source from using one twice: the second `x` becomes `x#2`."""
    unique = name
    while used[unique]:
        used[name] += 1
        unique = f"{name}#{used[name]}"
    used[unique] += 1
    return unique


def _write_splits(
    draft: Path,
    samples: list[Sample],
    splits: dict[str, str],
    skipped: list[Skipped],
    source: str,
    settings: Settings,
    inputs: dict[str, str],
) -> Manifest:
    facts = {}
    for split in SPLITS:
        members = [sample for sample in samples if splits[sample.id] == split]
        data = encode_samples(members)
        (draft / f"{split}.jsonl").write_bytes(data)
        images = {path for sample in members for path in sample.image}
        facts[split] = SplitFacts(samples=len(members), images=len(images), sha256=hash_bytes(data))
    return Manifest(
        kind=Manifest.KIND,
        schema_version=Manifest.SCHEMA,
        created_by=build_origin("prepare", settings),
        inputs=inputs,
        source=source,
        splits=facts,
        kinds=dict(Counter(sample.kind for sample in samples)),
        skipped=dict(Counter(item.reason for item in skipped)),
        skipped_records=skipped,
    )
