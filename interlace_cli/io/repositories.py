"""The files of a dataset, on the Hub at one commit or in a local copy of its repository; read by ranges, not
fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

from interlace_cli.errors import DatasetError, MissingInputError
from interlace_cli.io.file_records import SOURCE, FileRead, FileRecorder, Root
from interlace_cli.io.offline import check_online
from interlace_cli.io.paths import list_files
from interlace_cli.io.remote import RemoteFolder
from interlace_cli.io.split_names import TRAIN, choose_files, list_splits

CARD = "README.md"
TABLES = (".parquet", ".arrow")
CONVERTED = "refs/convert/parquet"
"""The branch in which the Hub keeps every dataset as Parquet, whatever its own files are."""


@dataclass(frozen=True)
class Repository:
    """`files`: path -> bytes. `card`: the metadata of its README. `location` and `revision` are None for a folder that
    is no copy of a repository. Of local ones `root` is the folder, and `files_read` what was read and listed to open
    it."""

    name: str
    location: str | None
    revision: str | None
    files: dict[str, int]
    card: dict[str, Any] = field(repr=False)
    opener: Callable[[str], BinaryIO] = field(repr=False)
    root: Root | None = None
    files_read: Sequence[FileRead] = ()

    @property
    def is_remote(self) -> bool:
        """Whether it is read from the Hub."""
        return self.root is None

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """The file `path`, seekable. Raises MissingInputError if it cannot be opened, or read inside the block."""
        with explain(f"{self.name}: {path}", self.is_remote), self.opener(path) as file:
            yield file


def open_repository(repo: str, revision: str | None = None, mirror: Path | None = None) -> Repository:
    """The dataset `repo` of the Hub at `revision`, or at its newest commit; or a local copy of it.

    Raises MissingInputError if it is not there or the Hub cannot be reached, DatasetError if there is no Parquet in it.
    """
    if mirror is not None:
        return open_folder(mirror, repo, revision)
    found = _open_hub(repo, revision)
    if any(path.endswith(".parquet") for path in found.files):
        return found
    if revision is not None:
        raise DatasetError(f"{repo} has no Parquet file at {revision}.", "Without --revision its conversion is taken.")
    return _open_hub(repo, CONVERTED)


def open_folder(folder: Path, location: str | None = None, revision: str | None = None) -> Repository:
    """A local copy. Raises MissingInputError if there is no such folder."""
    if not folder.is_dir():
        raise MissingInputError(f"there is no folder {folder}.", "Give a copy of the dataset's repository.")
    return open_tables(folder, find_table_files(list_files(folder)), folder.name, location, revision)


def open_tables(
    root: Root,
    sizes: Mapping[str, int],
    name: str,
    location: str | None = None,
    revision: str | None = None,
    splits: Mapping[str, str] | None = None,
) -> Repository:
    """The files `sizes` (path below the folder `root` -> bytes), of which README.md is the card. `splits`: split -> the
    pattern of its files, where they are known from elsewhere. Raises DatasetError if a file cannot be read."""
    files = FileRecorder({SOURCE: root})
    files.note_listed(sizes)
    card: dict[str, Any] = {}
    for path in sizes:
        if not path.endswith(TABLES):
            # What describes the tables is read whole, so that a change in it is seen.
            content = files.read_all(path)
            card = _parse_card(content) if path == CARD else card
    if splits is not None:
        card = {"configs": [{"data_files": [{"split": split, "path": path} for split, path in splits.items()]}]}
    return Repository(
        name, location, revision, dict(sizes), card, lambda path: _open_below(root, path), root, files.files
    )


def _open_below(root: Root, path: str) -> BinaryIO:
    # Arrow asks a remote file for the ranges that it needs, already joined.
    return (root / path).open("rb", 0) if isinstance(root, RemoteFolder) else (root / path).open("rb")


def find_table_files(sizes: Mapping[str, int]) -> dict[str, int]:
    """Of all files of a folder those that say which records there are: tables, and the card."""
    return {path: size for path, size in sizes.items() if path.endswith(TABLES) or path == CARD}


def find_tables(repository: Repository, split: str = TRAIN) -> dict[str, list[str]]:
    """Subset -> its tables of the split, subsets in the repository's own order.

    By the patterns in the card if it has any; else by folder, the split being part of a file's name or of its folder's
    (`io/split_names.py`).
    """
    tables = _list_tables(repository)
    found: dict[str, list[str]] = {}
    for name, patterns in _iter_patterns(repository):
        flat = [pattern for own, pattern in patterns if own == split]
        chosen = [path for path in tables if any(fnmatchcase(path, _to_glob(one)) for one in flat)]
        if chosen:
            found[name] = chosen
    if found:
        return found
    for path in choose_files(tables, split):
        parts = Path(path).with_suffix("").parts
        folder = "/".join(part for part in parts[:-1] if part not in ("data", split))
        found.setdefault(folder or "default", []).append(path)
    return found


def find_splits(repository: Repository) -> list[str]:
    """The splits that the repository has, sorted: those of the card, else those that its tables are named after."""
    named = {split for _, patterns in _iter_patterns(repository) for split, _ in patterns}
    return sorted(named) or list_splits(_list_tables(repository))


def _list_tables(repository: Repository) -> list[str]:
    return sorted(path for path in repository.files if path.endswith(".parquet" if repository.is_remote else TABLES))


def _iter_patterns(repository: Repository) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Subset -> `(split, pattern)` of the card."""
    for config in repository.card.get("configs") or []:
        data_files = config.get("data_files")
        if isinstance(data_files, list):
            items = [item for item in data_files if isinstance(item, dict)]
            paths = [(str(item.get("split")), item.get("path")) for item in items]
            flat = [(split, str(one)) for split, path in paths for one in (path if isinstance(path, list) else [path])]
            yield str(config.get("config_name", "default")), flat


def count_examples(repository: Repository, split: str = "train") -> dict[str, int]:
    """Subset -> number of records of the split, as the card says."""
    info = repository.card.get("dataset_info") or []
    counts = {}
    for config in info if isinstance(info, list) else [info]:
        for one in config.get("splits") or []:
            if one.get("name") == split and isinstance(one.get("num_examples"), int):
                counts[str(config.get("config_name", "default"))] = one["num_examples"]
    return counts


def _to_glob(pattern: str) -> str:
    """A pattern of the card in the form of `fnmatch`; brackets in it stand for themselves."""
    return pattern.removeprefix("./").replace("[", "[[]").replace("**", "*")


def _parse_card(content: bytes) -> dict[str, Any]:
    """Of a card the names of files count, and not its words: one in another encoding is read as far as it goes."""
    from huggingface_hub import RepoCard

    text = content.decode("utf-8-sig", "replace")

    try:
        return dict(RepoCard(text, ignore_metadata_errors=True).data.to_dict())  # type: ignore[no-untyped-call]
    except ValueError:
        return {}


def _open_hub(repo: str, revision: str | None) -> Repository:
    from huggingface_hub import HfApi, HfFileSystem

    check_online(f"the dataset {repo}", "name a local copy of its repository with --mirror")
    with explain(repo, True):
        info = HfApi().dataset_info(repo, revision=revision)
        system = HfFileSystem()
        root = f"datasets/{repo}@{info.sha}"
        listed: dict[str, Any] = system.find(root, detail=True)  # type: ignore[assignment]
        card = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
    files = {path.split("@", 1)[1].split("/", 1)[1]: entry["size"] for path, entry in sorted(listed.items())}
    return Repository(
        repo,
        repo,
        info.sha,
        files,
        dict(card),
        # Without a cache of its own: Arrow asks for the ranges that it needs, already joined.
        lambda path: system.open(f"{root}/{path}", "rb", cache_type="none"),
    )


@contextmanager
def explain(what: str, is_remote: bool) -> Iterator[None]:
    """Turns an error of the block into MissingInputError or DatasetError: one sentence that says why `what` cannot be
    read."""
    from huggingface_hub import errors
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise DatasetError(f"{what} is gated.", "Accept its terms on the Hub and run `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise MissingInputError(f"there is no dataset {what} on the Hub.", "Check the name.") from error
    except (
        errors.HTTPError,  # type: ignore[attr-defined]
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        if not is_remote:
            raise MissingInputError(f"cannot read {what}: {reason}.") from error
        raise MissingInputError(
            f"the Hub cannot be asked for {what}: {reason}.", "Try again, or name a local copy with --mirror."
        ) from error
