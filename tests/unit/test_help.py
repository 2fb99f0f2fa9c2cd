"""What the program says of itself: the help of each command, completion, and what it answers to a wrong word.

`tests/golden/help/COMMAND.txt` is a plain rendering of a command's options from their records: a changed default,
bound, choice, group or sentence is seen there by whoever reviews a change. To write these files anew:

    INTERLACE_WRITE_GOLDEN=1 python -m pytest -n 0 tests/unit/test_help.py
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main

from interlace_cli.cli.app import COMMANDS, build_app
from interlace_cli.options import Options
from interlace_cli.options.build import Entry, index_names, list_entries

GOLDEN = Path(__file__).parents[1] / "golden/help"
KINDS = {bool: "yes or no", int: "whole number", float: "number", str: "text", Path: "path", tuple: "text"}


@cache
def find_function(command: str) -> Any:
    return getattr(import_module(f"interlace_cli.cli.{COMMANDS[command]}"), COMMANDS[command])


@cache
def find_record(command: str) -> type[Options]:
    record: type[Options] = get_type_hints(find_function(command))["options"]
    return record


def render(command: str) -> str:
    """Plain text, an option each paragraph, under the heading of its group."""
    lines = [f"interlace {command}", "", *textwrap.wrap(" ".join(find_function(command).__doc__.split()), 100)]
    entries = list_entries(find_record(command))
    groups = dict.fromkeys("Arguments" if one.slot.option.is_argument else one.slot.option.group for one in entries)
    for group in groups:
        lines += ["", f"== {group or 'Options'}"]
        for entry in entries:
            if ("Arguments" if entry.slot.option.is_argument else entry.slot.option.group) == group:
                lines += ["", *_render_option(entry)]
    return "\n".join(lines) + "\n"


def _render_option(entry: Entry) -> list[str]:
    slot, o = entry.slot, entry.slot.option
    names = [name for name in (entry.flag, o.negative, o.short) if name]
    kind = KINDS[slot.kind] + (f", as {o.metavar}" if o.metavar else "")
    many = {1: [], -1: ["several"]}.get(slot.count, [f"{slot.count} of them"])
    bounds = _render_bounds(o)
    facts = [kind, *many, *([bounds] if bounds else []), f"default {_render_default(entry)}"]
    if o.choices:
        facts.append(f"one of {' '.join(o.choices)}")
    if o.environment:
        facts.append(f"or ${o.environment}")
    if not o.decides:
        facts.append("not recorded")
    owners = [path[0] for path in entry.targets if len(path) > 1]
    goes = [f"    goes to {' '.join(owners)}"] if owners else []
    return [
        f"{' '.join(names)}: {'; '.join(facts)}",
        *textwrap.wrap(o.help, 96, initial_indent="    ", subsequent_indent="    "),
        *goes,
    ]


def _render_bounds(o: Any) -> str:
    low, high = ("above", "below") if o.is_open else ("from", "to")
    parts = [f"{word} {bound:g}" for word, bound in ((low, o.low), (high, o.high)) if bound is not None]
    return " ".join(parts)


def _render_default(entry: Entry) -> str:
    o = entry.slot.option
    plain = "none" if o.default in (None, ()) else "no" if o.default is False else _show(o.default)
    return plain + (f" ({o.shown_default})" if o.shown_default else "")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_a_command_are_those_that_were_reviewed(command: str) -> None:
    file, text = GOLDEN / f"{command}.txt", render(command)
    if os.environ.get("INTERLACE_WRITE_GOLDEN"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.exists(), f"see the top of {Path(__file__).name}"
    assert text == file.read_text(encoding="utf-8"), f"if this was meant, see the top of {Path(__file__).name}"


def test_there_is_a_file_for_each_command_and_no_other() -> None:
    assert {file.name for file in GOLDEN.iterdir()} == {f"{command}.txt" for command in COMMANDS}


OPTIONS = [(command, entry.name) for command in COMMANDS for entry in list_entries(find_record(command))]


@cache
def find_entry(command: str, name: str) -> Entry:
    return next(entry for entry in list_entries(find_record(command)) if entry.name == name)


def test_every_option_says_what_it_is_in_a_sentence() -> None:
    for command, name in OPTIONS:
        text = find_entry(command, name).slot.option.help
        assert text.endswith("."), f"{command} {name}: {text}"
        assert len(text.split()) >= 3, f"{command} {name}: {text}"
        assert "  " not in text
        assert text == text.strip()


def test_every_command_says_what_it_does_in_a_sentence() -> None:
    for command in COMMANDS:
        text = " ".join(find_function(command).__doc__.split())
        assert text.endswith(".")
        assert text[0].isupper()


# --- as people see it


def call(words: list[str], app: Any | None = None) -> tuple[int, str]:
    """Exit code, and all that is said."""
    said = io.StringIO()
    command = app or typer.main.get_command(build_app(words))
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        command.main(args=words, prog_name="interlace")
    return int(ended.value.code or 0), said.getvalue()


def unframe(text: str) -> str:
    """Without frames and line ends."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def test_the_list_of_commands_has_a_whole_sentence_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, text = call(["--help"])
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    # "[OPTIONS] COMMAND [ARGS]..." is typer's.
    assert "..." not in text.partition("Commands")[2]
    shown = unframe(text)
    places = []
    for command in COMMANDS:
        sentence = " ".join(find_function(command).__doc__.split()).partition(". ")[0].rstrip(".")
        assert f" {command} {sentence}." in shown
        places.append(shown.index(f" {command} {sentence}."))
    assert places == sorted(places), "in the order of the pipeline"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_its_options_in_groups(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    code, text = call([command, "--help"])
    assert code == 0
    assert "…" not in text
    shown = unframe(text)
    entries = list_entries(find_record(command))
    flags = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    mentioned = {word for one in entries for word in re.findall(r"--[a-z][a-z-]*", one.slot.option.help)}
    for entry in entries:
        o = entry.slot.option
        if o.group and not o.is_argument:
            assert re.search(rf"╭─ {o.group} ─", text), o.group
        assert " ".join(o.help.split()) in shown
        assert {name for name in (entry.flag, o.negative, o.short) if name.startswith("-")} <= flags
        if o.shown_default or o.default not in (None, False, ()):
            assert f"default: {o.shown_default or _show(o.default)}" in shown
        assert all(choice in shown for choice in o.choices)
        assert o.environment in shown
    ours = {name for one in entries for name in (one.flag, one.slot.option.negative, one.slot.option.short) if name}
    common = {"--config", "--save-config", "--json", "--quiet", "-q", "--debug", "--help", "-h"}
    assert flags - mentioned - {"--out", "--scores", "--harness"} <= ours | common, "older names are not shown"
    older = {f"--{name.replace('_', '-')}" for name in index_names(find_record(command))} - ours
    assert not older & (flags - mentioned)
    assert common <= flags


def _show(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "yes" if default is True else f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("words", [["-h"], ["plan", "-h"]])
def test_help_has_a_short_name(words: list[str]) -> None:
    assert call(words) == call([*words[:-1], "--help"])


# --- wrong words

CHOICES = [(command, name) for command, name in OPTIONS if find_entry(command, name).slot.option.choices]


@pytest.mark.parametrize(("command", "name"), CHOICES)
def test_a_wrong_choice_is_told_the_one_that_was_meant(command: str, name: str) -> None:
    entry = find_entry(command, name)
    base = {"run": ["some-model", "--data", "d"], "compare": ["some-model", "--data", "d"], "bench": ["prune"]}
    choices = entry.slot.option.choices
    for choice in choices:
        wrong = f"{choice[:1]}{choice[2:]}{choice[1]}x" if len(choice) < 5 else f"{choice[:2]}{choice[3:]}"
        if len(choice) < 4 or wrong in choices:
            continue
        words = [wrong] if entry.slot.option.is_argument else [*base.get(command, []), entry.flag, wrong]
        code, text = call([command, *words])
        assert (code, text) == (2, f"Error: {entry.flag} does not take '{wrong}'. {_expect_advice(wrong, choices)}\n")
        if len(choice) > 5:
            assert f"Did you mean {choice}?" in text


def _expect_advice(wrong: str, choices: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(wrong, choices, n=1)
    every = " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    return f"{f'Did you mean {near[0]}? ' if near else ''}It takes {every}."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "--treshold", "1"], "Error: there is no option --treshold. Did you mean --threshold?"),
        (
            ["finetune", "--presicion", "bf16"],
            "Error: there is no option --presicion. `interlace finetune --help` lists",
        ),
        (
            ["run", "--heal-batchsize", "8"],
            "Error: there is no option --heal-batchsize. Did you mean --heal-batch-size?",
        ),
        (["analyze", "--dtype", "fp23"], "Error: --dtype does not take 'fp23'. Did you mean float32? It takes auto,"),
        (["analyze", "--precision", "bf61"], "Error: --dtype does not take 'bf61'. Did you mean bfloat16?"),
        (
            ["compare", "m", "--data", "d", "--baselines", "wanda,magnitud"],
            "Error: --baselines does not take 'magnitud'.",
        ),
        (["schema", "pla"], "Error: there is no artifact 'pla'. Did you mean plan?"),
        (["schema", "options.prun"], "Error: there is no artifact 'options.prun'. Did you mean options.prune?"),
        (["plan", "--ratio", "2"], "Error: --ratio 2 is not between 0 and 1. Such as --ratio 0.25."),
        (["finetune", "--batch-size", "x"], "Error: --batch-size does not take 'x'. It takes a whole number."),
        (["run", "m", "--data", "d", "--batch-size", "0"], "Error: --heal-batch-size 0 is less than 1."),
        (["bench"], "Error: PART needs a value."),
    ],
)
def test_a_wrong_word_is_answered_in_words_of_ours(words: list[str], said: str) -> None:
    code, text = call(words)
    assert code == 2
    assert text.startswith(said)
    assert len(text.splitlines()) == 1


def test_a_wrong_command_is_told_the_one_that_was_meant() -> None:
    code, text = call(["pruen"])
    assert code == 2
    assert "Did you mean 'prune'" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("treshold: 0.5\n", "options.yaml: there is no option 'treshold'. Did you mean threshold?"),
        ("strategy: interlase\n", "options.yaml: --strategy does not take 'interlase'. Did you mean interlace?"),
        ("plan:\n  ratio: 1\n", "options.yaml: plan holds further names. Options stand side by side: `lr: 1e-5`."),
        ("- ratio\n", "options.yaml holds no options. Write lines such as `ratio: 0.25`."),
    ],
)
def test_a_wrong_word_in_a_file_too(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options.yaml").write_text(text)
    code, answer = call(["plan", "--config", "options.yaml"])
    assert code == 2
    assert answer.startswith(f"Error: {said}")


# --- completion


@cache
def find_program() -> Any:
    return typer.main.get_command(build_app())


def complete(command: str, name: str, begun: str) -> list[str]:
    """What a shell is offered."""
    own = find_program().commands[command]
    (parameter,) = (one for one in own.params if one.name == name)
    context = typer.Context(own)
    return [item.value for item in parameter.shell_complete(context, begun)]


@pytest.mark.parametrize(("command", "name"), CHOICES)
def test_completion_knows_the_choices(command: str, name: str) -> None:
    choices = find_entry(command, name).slot.option.choices
    assert complete(command, name, "") == list(choices)
    first = choices[0]
    assert complete(command, name, first[:2]) == [choice for choice in choices if choice.startswith(first[:2])]
    assert complete(command, name, "no such word") == []
    if find_entry(command, name).slot.count != 1:
        assert complete(command, name, f"{choices[-1]},{first}") == [
            f"{choices[-1]},{choice}" for choice in choices if choice.startswith(first)
        ]


@pytest.mark.parametrize(
    ("shell", "line", "offered", "not_offered"),
    [
        *[(shell, "interlace plan --strategy sl", ["sleb"], ["shortgpt"]) for shell in ("bash", "zsh", "fish")],
        ("bash", "interlace run --triplet-selection ", ["greedy", "optimal"], []),
        ("bash", "interlace bench st", ["startup"], ["prune"]),
        ("bash", "interlace pr", ["prepare", "prune"], ["plan"]),
        ("bash", "interlace finetune --dt", ["--dtype"], ["--device", "--precision"]),
        ("bash", "interlace finetune --pre", [], ["--precision"]),
    ],
)
def test_a_shell_is_offered_what_fits(shell: str, line: str, offered: list[str], not_offered: list[str]) -> None:
    """By the protocol that the script of `--install-completion` speaks."""
    words = line.split(" ")
    environment: Mapping[str, str] = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['interlace']; from interlace_cli.cli.app import main; main()"],
        env={**os.environ, **environment, "_INTERLACE_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = set(re.findall(r"[\w-]+", done.stdout)) - {"_arguments"}
    assert set(offered) <= found
    assert not set(not_offered) & found
    assert done.stderr == ""
