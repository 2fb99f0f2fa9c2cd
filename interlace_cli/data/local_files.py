"""What a file or folder is, here or at an address, by the names of its files: which form of dataset, and which of them
to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from interlace_cli.data.image_names import choose_metadata, find_caption_files, is_metadata, is_picture
from interlace_cli.data.record_files import is_record_file
from interlace_cli.domain.dataset import Manifest
from interlace_cli.errors import DatasetError, UsageError
from interlace_cli.io.datasets import DATA, MANIFEST
from interlace_cli.io.file_records import IMAGES, SOURCE, Root, Roots
from interlace_cli.io.files import parse_json
from interlace_cli.io.paths import list_files
from interlace_cli.io.remote import RemoteFile, RemoteFolder
from interlace_cli.io.repositories import CARD, TABLES, find_table_files
from interlace_cli.io.split_names import TRAIN, choose_files, describe_others, list_splits

Kind = Literal["tables", "shards", "records", "images"]
RESERVED = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that describe a dataset and hold none (`datasets.data_files.FILES_TO_IGNORE`)."""
_ORDER = ("tables", "shards", "metadata", "captions", "records")
EXPECTED = (
    "Expected are Parquet, JSON, JSONL, CSV, TSV or tar files, a folder of `save_to_disk`, or images with a"
    " metadata.jsonl or metadata.csv (column file_name, and a conversation or a caption), or a text file beside each."
)


@dataclass(frozen=True)
class LocalFiles:
    """What a source's files are. `root`: the folder of its own files; `sizes`: path below `root` -> bytes, of those
    files that say which records there are; `name`: that of the file or folder; `image_root`: where images that records
    name are looked for; `splits`: split -> pattern of its tables, where files of another kind say so; `pictures`: all
    pictures of a folder of images; `notes`: sentences on what is not read."""

    kind: Kind
    root: Root
    sizes: dict[str, int]
    name: str
    image_root: Root | None = None
    splits: Mapping[str, str] | None = None
    pictures: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def roots(self) -> Roots:
        """As a source that is opened has them."""
        return {SOURCE: self.root} | ({} if self.image_root is None else {IMAGES: self.image_root})


def find_file(path: Path | RemoteFile, image_root: Root | None, split: str | None) -> LocalFiles:
    """Of one file. Raises UsageError for a split, which no single file has."""
    if split is not None:
        raise UsageError(f"--split says which files of a folder to read, and {path} is one file.", "Leave it out.")
    folder: Root = path.folder if isinstance(path, RemoteFile) else path.parent
    size = path.stat().size if isinstance(path, RemoteFile) else path.stat().st_size
    sizes = {path.name: size or 0}
    if path.suffix == ".tar":
        return LocalFiles("shards", folder, sizes, path.name)
    if path.suffix in TABLES:
        return LocalFiles("tables", folder, sizes, path.name, image_root or folder, {TRAIN: path.name})
    return LocalFiles("records", folder, sizes, path.name, image_root or folder)


def find_in_folder(path: Root, image_root: Root | None, split: str | None) -> LocalFiles:
    """Of a folder. Where it holds files of several forms, the first that is there of these is read: tables, tar files,
    images with metadata, images with captions, files of records; a note names the others. `split`: which one of several
    to read; None is `train`. Raises DatasetError for a split that is not there."""
    sizes = path.list_files() if isinstance(path, RemoteFolder) else list_files(path)
    saved = _find_saved(path, sizes, image_root)
    if saved is not None:
        return saved
    if _is_prepared(path, sizes):
        sizes = {name: size for name, size in sizes.items() if PurePosixPath(name).parts[0] == DATA}
    forms = _sort_by_form([name for name in sizes if not _is_reserved(name)])
    kind = next((kind for kind in _ORDER if forms[kind]), "captions")
    if kind == "metadata":
        forms["metadata"] = choose_metadata(forms["metadata"])
    read = {*forms[kind], *forms["captions"], *forms["pictures"]}
    notes = _describe_unread(sorted({name for names in forms.values() for name in names} - read))
    if kind == "tables":
        # The split is chosen by the source, which reads the card.
        own = find_table_files(_pick(sizes, [*forms[kind], CARD]))
        return LocalFiles("tables", path, own, _find_name(path), image_root or path, notes=notes)
    if kind in ("metadata", "captions"):
        return LocalFiles(
            "images", path, _pick(sizes, forms[kind]), _find_name(path), pictures=tuple(forms["pictures"]), notes=notes
        )
    wanted = choose_files(forms[kind], split or TRAIN)
    splits = list_splits(forms[kind])
    if not wanted:
        has = ", ".join(splits)
        raise DatasetError(f"{path} has no split {split or TRAIN}; it has {has}.", "Name another with --split.")
    if split is None:
        notes += tuple(describe_others(TRAIN, splits))
    if kind == "shards":
        return LocalFiles("shards", path, _pick(sizes, wanted), _find_name(path), notes=notes)
    return LocalFiles("records", path, _pick(sizes, wanted), _find_name(path), image_root or path, notes=notes)


def _find_name(root: Root) -> str:
    """The folder's own name, links followed."""
    return root.name if isinstance(root, RemoteFolder) else root.resolve().name


def _sort_by_form(names: list[str]) -> dict[str, list[str]]:
    """The files of each form, and those that only describe others: as img2dataset writes them, a table beside a shard
    or a folder of pictures, and a JSON file beside a picture, of the same name."""
    pictures = [name for name in names if is_picture(name)]
    # A table of this name is one like any other where there are no pictures that it could name.
    metadata = [name for name in names if is_metadata(name) and (pictures or not name.endswith(TABLES))]
    shards = [name for name in names if name.endswith(".tar")]
    captions = find_caption_files(names)
    folders = {str(folder) for name in captions for folder in PurePosixPath(name).parents}
    described = {*map(_find_stem, shards), *folders}
    tables = [name for name in names if name.endswith(TABLES) and name not in metadata]
    shown = set(map(_find_stem, pictures))
    records = [name for name in names if is_record_file(name) and name not in metadata]
    return {
        "tables": [name for name in tables if _find_stem(name) not in described],
        "shards": shards,
        "metadata": metadata,
        "captions": captions,
        "records": [name for name in records if _find_stem(name) not in shown],
        "descriptions": [name for name in tables if _find_stem(name) in described],
        "pictures": pictures,
    }


def _find_saved(path: Root, sizes: Mapping[str, int], image_root: Root | None) -> LocalFiles | None:
    """A folder of `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk`. Other Arrow files in it are caches of
    `datasets`."""
    if "dataset_dict.json" in sizes:
        named = _read_object(path / "dataset_dict.json").get("splits")
        folders = {str(name): f"{name}/" for name in named} if isinstance(named, list) else {}
    elif "state.json" in sizes and "dataset_info.json" in sizes:
        folders = {TRAIN: ""}
        own = _read_object(path / "state.json").get("_split")
        folders |= {own: ""} if isinstance(own, str) else {}
    else:
        return None
    wanted = ["dataset_dict.json"] if "dataset_dict.json" in sizes else []
    for folder in dict.fromkeys(folders.values()):
        state = _read_object(path / f"{folder}state.json")
        files = state.get("_data_files")
        listed = [item.get("filename") for item in files if isinstance(item, dict)] if isinstance(files, list) else []
        missing = [f"{folder}{name}" for name in listed if f"{folder}{name}" not in sizes]
        if not listed or missing:
            what = f"lacks {missing[0]}" if missing else f"names no data file in {folder}state.json"
            raise DatasetError(f"{path} is a folder of save_to_disk, and {what}.", "Save it again.")
        wanted += [f"{folder}state.json", *(f"{folder}{name}" for name in listed)]
    splits = {split: f"{folder}*.arrow" for split, folder in folders.items()}
    return LocalFiles("tables", path, _pick(sizes, wanted), _find_name(path), image_root or path, splits)


def _is_prepared(path: Root, sizes: Mapping[str, int]) -> bool:
    """Whether `prepare` has made the folder: what lies beside its data describes it."""
    if MANIFEST not in sizes:
        return False
    try:
        found = parse_json((path / MANIFEST).read_bytes())
    except OSError:
        return False
    return isinstance(found, dict) and found.get("kind") == Manifest.KIND


def _read_object(path: Path | RemoteFile) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}.", "Save the dataset again.") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path} is not a JSON object.", "Save the dataset again.")
    return found


def _is_reserved(name: str) -> bool:
    return PurePosixPath(name).name in RESERVED


def _find_stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _pick(sizes: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    wanted = set(names)
    return {name: size for name, size in sizes.items() if name in wanted}


def _describe_unread(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (f"Not read: {', '.join(names[:3])}{more}. Give a file or folder by itself to read it.",)
