"""Values of options, and files of options, that cannot be: each is one clear sentence, before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from outcome import refuse

from interlace_cli.cli.app import COMMANDS
from interlace_cli.options import Options
from interlace_cli.options.build import Entry, index_names, list_entries

NEEDED = {"bench": ["startup"], "schema": ["plan"]}
"""Arguments without which a command does not begin."""


def find_record(command: str) -> type[Options]:
    function = getattr(import_module(f"interlace_cli.cli.{COMMANDS[command]}"), COMMANDS[command])
    record: type[Options] = get_type_hints(function)["options"]
    return record


ALL = [(command, entry) for command in COMMANDS for entry in list_entries(find_record(command))]
NUMBERS = [
    (command, entry) for command, entry in ALL if entry.slot.kind in (int, float) and not entry.slot.option.parse
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where commands are called; nothing but a file of options is there afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTERLACE_WORKSPACE", raising=False)
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {"options.yaml", "options.toml"}


def name_case(case: Any) -> str:
    return case if isinstance(case, str) else case.name


def refuse_call(command: str, *words: str | Path, names: str) -> str:
    """The sentence of a call that is wrong."""
    given = [str(word).split("=")[0] for word in words]
    needed = [] if command.upper() in given else NEEDED.get(command, [])
    found = refuse(command, *needed, *words, names=names)
    assert found.code == 2, found.err
    return found.sentence


VALUES = ["nan", "inf", "-inf", "1e400", "-1", "", " ", "1" * 400, "0x10", "1;2", "\x00", "one"]
ALLOWED = {("threshold", "-1")}
"""What only looks wrong."""


def test_there_are_numbers_to_be_given() -> None:
    assert len(NUMBERS) > 100
    assert {command for command, _ in NUMBERS} == set(COMMANDS) - {"export", "report", "status", "env", "schema"}


@pytest.mark.parametrize(("command", "entry"), NUMBERS, ids=name_case)
def test_a_number_that_cannot_be(command: str, entry: Entry) -> None:
    for value in VALUES:
        is_number = math.isfinite(float(value)) if value.isdecimal() else False
        if (entry.name, value) in ALLOWED or (is_number and entry.slot.kind is float):
            continue
        sentence = refuse_call(command, f"{entry.flag}={value}", names=entry.flag)
        assert len(sentence) < 250, sentence


def write(folder: Path, text: str | bytes, suffix: str = "yaml") -> Path:
    path = folder / f"options.{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TOML_NUMBERS = ["nan", "inf", "-inf", "1e400", "-1", '""', "true", "1979-05-27", "[[1]]", "9" * 400, '"nan"']


@pytest.mark.parametrize(("command", "entry"), NUMBERS, ids=name_case)
def test_a_number_of_a_file_that_cannot_be(command: str, entry: Entry, folder: Path) -> None:
    for value in TOML_NUMBERS:
        if (entry.name, value) not in ALLOWED:
            path = write(folder, f"{entry.name} = {value}\n", "toml")
            is_none = value == '""' and entry.slot.count != 1
            refuse_call(command, "--config", path, names=f"{entry.flag} is empty" if is_none else str(path))


def list_wrong(entry: Entry) -> list[Any]:
    """Values of a file that the option does not take, whatever it is."""
    slot, wrong = entry.slot, list[Any]([{"a": 1}, {}, [{"a": 1}], [[1, [2]]]])
    if slot.count == 1 and not slot.option.parse:
        wrong += [[], [1, 2], ["x"]]
    if slot.kind is bool:
        wrong += ["maybe", 2, 0.5, ""]
    elif slot.kind in (int, float) and not slot.option.parse:
        wrong += ["x", True, math.nan, math.inf, -math.inf]
    elif slot.kind is Path and not slot.option.parse:
        wrong += [3, True, 1.5, *([""] if slot.count == 1 else [])]
    elif slot.option.parse:
        wrong += [True, "a;b", -1, 0.5]
    elif slot.option.choices:
        wrong += ["nonesuch", True, 3]
    else:
        wrong += [True]
    return wrong


@pytest.mark.parametrize(("command", "entry"), ALL, ids=name_case)
def test_a_value_of_another_kind_in_a_file(command: str, entry: Entry, folder: Path) -> None:
    for value in list_wrong(entry):
        path = write(folder, yaml.safe_dump({entry.name: value}))
        sentence = refuse_call(command, "--config", path, names=str(path))
        assert len(sentence) < 500, sentence


@pytest.mark.parametrize(("command", "entry"), ALL, ids=name_case)
def test_a_name_that_is_nearly_one(command: str, entry: Entry, folder: Path) -> None:
    known = index_names(find_record(command))
    middle = len(entry.name) // 2
    wrong = {entry.name[:middle] + entry.name[middle + 1 :], entry.name[:middle] + "x" + entry.name[middle:]}
    for name in sorted(wrong - known.keys()):
        path = write(folder, f"{name}: 1\n")
        sentence = refuse_call(command, "--config", path, names=f"{path}: there is no option {name!r}.")
        if len(entry.name) > 4:
            assert "Did you mean " in sentence


TEXTS: dict[str, str | bytes] = {
    "a list": "- seed\n",
    "a number": "3",
    "a text": "seed",
    "TOML in a YAML file": "seed = 3\n",
    "cut off": "seed: [",
    "a tab": "\tseed: 1",
    "no UTF-8": b"seed: \xff\xfe",
    "UTF-16 without its mark": "seed: 1\n".encode("utf-16-le"),
    "control characters": "seed: \x00\x07",
    "a binary file": bytes(range(256)),
    "code": "!!python/object/apply:os.mkdir ['ran']",
    "code for a value": "seed: !!python/object/apply:os.mkdir ['ran']",
    "itself": "&x {seed: *x}",
    "an alias of nothing": "seed: *x",
    "no name": "? [a, b]\n: 1",
    "names that are no texts": "1: 2\n",
    "null for a name": "null: 1\n",
    "a name of 5000 letters": f"{'n' * 5000}: 1\n",
    "a name of control characters": '"\\e[31m\\0": 1\n',
    "nested": "nested:\n  deeper:\n    seed: 1\n",
    "deep": "seed: " + "[" * 3000,
    "a date that cannot be": "seed: 2024-13-45\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "HTML": "<html><body>404</body></html>",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_holds_no_options(command: str, folder: Path) -> None:
    for text in TEXTS.values():
        path = write(folder, text)
        sentence = refuse_call(command, "--config", path, names=str(path))
        assert len(sentence) < 700, sentence
        assert sentence.isprintable()


TOML_TEXTS: dict[str, str | bytes] = {
    "YAML": "seed: 3\n",
    "cut off": "seed = [",
    "a table": "[prepare]\nseed = 3\n",
    "tables": "[[seed]]\na = 1\n",
    "a name twice": "seed = 1\nseed = 2\n",
    "dotted": "prepare.seed = 1\n",
    "no UTF-8": b"seed = '\xff'",
    "control characters": "seed = '\x00'",
    "deep": "seed = " + "[" * 3000,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_toml_file_that_holds_no_options(command: str, folder: Path) -> None:
    for text in TOML_TEXTS.values():
        path = write(folder, text, "toml")
        refuse_call(command, "--config", path, names=str(path))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_options_that_is_none(command: str, folder: Path) -> None:
    for place in (
        folder,
        folder / "ghost.yaml",
        folder / "ghost.toml",
        "~no-such-user/options.yaml",
        "",
        "n" * 300,
        "a\0b",
    ):
        refuse_call(command, "--config", place, names=str(place)[:40] or "--config")


LAUGHED_AT = ("seed", "subset", "model", "protect", "weight", "workspace", "speed", "ratios")
LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)


@pytest.mark.parametrize(("command", "entry"), [case for case in ALL if case[1].name in LAUGHED_AT], ids=name_case)
def test_a_value_that_unfolds_without_end(command: str, entry: Entry, folder: Path) -> None:
    """A billion laughs: a file of a few lines whose value is never to be written out."""
    lines = LAUGHS.splitlines()
    inner = "\n  - ".join(line.partition(": ")[2] for line in lines)
    path = write(folder, f"{entry.name}:\n  - {inner}\n")
    sentence = refuse_call(command, "--config", path, names=str(path))
    assert len(sentence) < 500
