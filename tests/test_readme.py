"""The README's commands exist as written, and its two main ones are the ones that CI runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import zoo
from typer.main import get_command
from typer.testing import CliRunner

from interlace_cli.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every call of interlace in a code block or a table, but those of any COMMAND."""
    found = re.findall(r"^interlace .*$", README, re.MULTILINE) + re.findall(r"`(interlace [^`]+)`", README)
    lines = {re.sub(r"\s+#.*", "", line).strip() for line in found}
    return sorted(line for line in lines if not line.startswith("interlace COMMAND"))


@pytest.mark.parametrize("line", commands())
def test_every_command_has_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    shown = CliRunner().invoke(app, [words[0], "--help"])
    assert shown.exit_code == 0, line
    for word in words[1:]:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", shown.stdout), f"{line}: no option {word}"


def test_every_command_is_in_the_table() -> None:
    known = get_command(app).commands
    assert {"run", "prepare", "status"} <= known.keys()
    missing = [name for name, command in known.items() if not command.hidden and f"| `{name}` |" not in README]
    assert not missing


def test_every_strategy_is_in_the_table() -> None:
    from interlace_cli.strategies import STRATEGIES

    table = README.split("## Other ways to choose")[1].split("## The commands")[0]
    assert not [name for name in STRATEGIES if f"`{name}`" not in table]


def test_the_two_commands_are_those_of_ci() -> None:
    assert 'pip install -e ".[test]" && interlace run' in README
    assert "\npython -m pytest\n" in README
    assert "python -m pytest" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_the_table_of_architectures_is_the_one_that_is_tested() -> None:
    """After a change of the list, put what `build_table` returns into the README."""
    from interlace_cli.families.architectures import ARCHITECTURES, LANGUAGE_MODELS, OTHER_STACKS, build_table

    assert build_table() in README, build_table()
    assert set(zoo.NAMES) == set(ARCHITECTURES)
    assert set(zoo.TEXT_NAMES) == set(LANGUAGE_MODELS)
    tested = {stack: {case[0] for case in cases} for stack, cases in zoo.TESTED_STACKS.items()}
    assert tested == {stack: set(models) for stack, models in OTHER_STACKS.items()}
