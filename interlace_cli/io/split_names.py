"""Which split of a dataset a file belongs to, by its path, as `datasets` reads it (`datasets.data_files`). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split -> the words that stand for it."""
TRAIN = "train"
_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(word for words in WORDS.values() for word in words)})(?![a-z])")


def find_split_word(path: str) -> str | None:
    """The word in the name of a file, or in that of its folder, that names a split; the last one counts."""
    parts = PurePosixPath(path).with_suffix("").parts
    named = _WORD.findall("/".join(parts[-2:]).lower())
    return named[-1] if named else None


def find_split_folder(path: str) -> str | None:
    """The split that a folder on the path is named after, and nothing else is in its name; the last one counts."""
    words = {word: split for split, words in WORDS.items() for word in words}
    named = [words[part.lower()] for part in PurePosixPath(path).parts[:-1] if part.lower() in words]
    return named[-1] if named else None


def choose_files(paths: Sequence[str], split: str) -> list[str]:
    """The files of `split`: those with this very word, or else with another word for it, or else those that are called
    `<split>-00000-of-00001`. A file that names no split is of `train`."""
    words = {path: find_split_word(path) for path in paths}
    same = [path for path in paths if (words[path] or TRAIN) == split]
    alike = [path for path in paths if words[path] in WORDS.get(to_split(split), ())]
    shards = [path for path in paths if re.match(rf"{re.escape(split)}-\d{{5}}-of-\d{{5}}", PurePosixPath(path).name)]
    return same or alike or shards


def list_splits(paths: Iterable[str]) -> list[str]:
    """The splits of all files, in the words of their names, sorted."""
    return sorted({find_split_word(path) or TRAIN for path in paths})


def to_split(word: str) -> str:
    """The split that a word stands for; the word itself where it is none of those."""
    return next((split for split, words in WORDS.items() if word in words), word)


def describe_others(split: str, splits: Iterable[str]) -> list[str]:
    """A note of the splits that are there beside the one that is read."""
    others = sorted(name for name in splits if name != split and to_split(name) != to_split(split))
    return [f"The split {split} is read, and not {', '.join(others)} (--split)."] if others else []
