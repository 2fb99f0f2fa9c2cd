"""Which files beside the weights belong to a model, and go with it: what transformers and servers look for by name,
what these files name, and the model's own code. Everything else in a folder (logs, states of training, predictions,
arguments with somebody's token) stays where it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

PROCESSOR_FILES = (
    *("*processor_config.json", "audio_tokenizer_config.json", "tokenizer*.json", "tokenizer*.model"),
    *("*.tiktoken", "*.tokenizer", "vocab.*", "vocab-*", "*_vocab.json", "merges.txt", "bpe.codes", "dict.txt"),
    *("*.model", "*.spm", "tekken.json", "normalizer.json", "emoji.json", "byte_maps.json", "word_*.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*.json", "*.jinja"),
    *("chat_templates/*", "additional_chat_templates/*", "generation_config.json"),
)
"""What decides how samples become tokens and pixels, and how answers are generated: the names that transformers' own
processors and tokenizers save and look for. `tests/unit/test_carried_files.py` compares them with its classes."""
QUANTIZATION = "*quant*config.json"
"""Settings of a quantized checkpoint that lie beside its config (ModelOpt, GPTQ, AWQ)."""
_LEGAL = re.compile(r"(licen[cs]e|notice|copying|use[-_]policy|terms[-_]of)[^/]*", re.IGNORECASE)
_GENERATION = "custom_generate/*"
"""transformers' folder for a model's own way to generate."""
_MADE_ANEW = ("config.json", "README.md", "interlace.json", "interlace-samples.npz", ".gitattributes")
"""Written by who writes the checkpoint; the base model's card speaks of another model."""
_CONFIGS = "*config.json"
_MOST_TEXT = 1 << 22
"""Bytes; a config or a module of Python that is larger is not looked through."""
_MOST_FOLDERS = 3
_WEIGHTS = (
    *(".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".gguf"),
    *(".onnx", ".onnx_data", ".h5", ".msgpack", ".npz", ".npy", ".pkl", ".pickle"),
)
_REFERENCE = re.compile(r"(?:[^\s]+--)?((?:\w+\.)+)\w+")
_IMPORTS = re.compile(r"^[ \t]*from[ \t]+\.([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)", re.MULTILINE)


@dataclass(frozen=True)
class SideFiles:
    """Paths in the folder, with slashes: those that go with the model, and those that are left (folders end in a
    slash)."""

    carried: list[str]
    left: list[str]

    def describe(self) -> str:
        """A sentence on what is left; none if nothing is."""
        if not self.left:
            return ""
        shown = [*self.left[:8], *([f"{len(self.left) - 8} more"] if len(self.left) > 8 else [])]
        return f"Left behind, as no part of the model: {', '.join(shown)}."


def find_side_files(folder: Path, weights: Collection[str] = ()) -> SideFiles:
    """Of a model's folder. Hidden files, and the `weights` that are read, are neither carried nor spoken of."""
    files = set(_list_files(folder))
    carried = choose_side_files(files, lambda name: _read_text(folder / name))
    folders = {name.partition("/")[0] + "/" for name in carried if "/" in name}
    left = {name if "/" not in name else name.partition("/")[0] + "/" for name in files} - folders
    left |= {name for name in files if name.partition("/")[0] + "/" in folders}
    return SideFiles(sorted(carried), sorted(left - carried - {*_MADE_ANEW, *weights}))


def choose_side_files(files: Collection[str], read: Callable[[str], str]) -> set[str]:
    """Of the paths of all files those that are carried. `read(path)` is a file's text, or nothing."""
    usable = {name for name in files if name not in _MADE_ANEW and not name.endswith(_WEIGHTS)}
    carried = {name for name in usable if _is_known(name)}
    configs = [name for name in files if "/" not in name and fnmatchcase(name, _CONFIGS)]
    code: set[str] = {name for name in usable if fnmatchcase(name, _GENERATION)}
    for name in sorted({*configs} & {*carried, "config.json"}):
        for text in _iter_texts(_parse(read(name))):
            match = _REFERENCE.fullmatch(text)
            if text in usable:
                carried.add(text)
            elif match and (module := match[1].rstrip(".").replace(".", "/") + ".py") in usable:
                code.add(module)
    code = _follow_imports(code, usable, read)
    for module in sorted(code):
        text = read(module)
        carried |= {name for name in usable if re.search(rf"""["'/]{re.escape(name)}["']""", text)}
    return carried | code


def _is_known(name: str) -> bool:
    if fnmatchcase(name, _GENERATION):
        return True
    is_legal = "/" not in name and _LEGAL.match(name) and not name.endswith((".json", ".py"))
    return bool(is_legal) or is_processor_file(name) or ("/" not in name and fnmatchcase(name, QUANTIZATION))


def is_processor_file(name: str) -> bool:
    """Whether it is one of PROCESSOR_FILES."""
    # A star also stands for a slash: what lies in folders has to be named with its folder.
    return any(fnmatchcase(name, p) and name.count("/") == p.count("/") for p in PROCESSOR_FILES)


def _follow_imports(code: set[str], usable: Collection[str], read: Callable[[str], str]) -> set[str]:
    """The modules, and those that they import from beside them, as transformers' dynamic modules do."""
    found: set[str] = set()
    waiting = sorted(code)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name.endswith(".py"):
            waiting += [other for other in _list_imports(name, read(name)) if other in usable]
    return found


def _list_imports(name: str, text: str) -> Iterator[str]:
    for dotted, names in _IMPORTS.findall(text):
        folder = PurePosixPath(name).parent
        while dotted.startswith("."):
            folder, dotted = folder.parent, dotted[1:]
        target = folder.joinpath(*dotted.split(".")) if dotted else folder
        yield f"{target}.py"
        yield (target / "__init__.py").as_posix()
        for part in re.findall(r"\w+", names):
            yield (target / f"{part}.py").as_posix()


def _iter_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _iter_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _iter_texts(inner)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_text(path: Path) -> str:
    """Nothing of what is no file, or larger than such texts are."""
    try:
        is_text = path.is_file() and path.stat().st_size <= _MOST_TEXT
        return path.read_text(encoding="utf-8", errors="replace") if is_text else ""
    except OSError:
        return ""


def _list_files(folder: Path) -> Iterator[str]:
    """Of the folder and those in it, a few deep. What is hidden is left out, and linked folders are not entered."""
    for parent, folders, names in os.walk(folder):
        place = Path(parent).relative_to(folder)
        is_deep = len(place.parts) >= _MOST_FOLDERS
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not is_deep)
        yield from ((place / name).as_posix() for name in names if not name.startswith("."))
