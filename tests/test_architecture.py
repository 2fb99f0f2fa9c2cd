"""The rules of the house: which way imports go, what the command line may load, that files stay readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "interlace_cli"
# A room may import itself and what stands here. Higher rooms first.
MAY_IMPORT = {
    "cli": {"core", "report", "io", "runtime", "options", "domain", "errors"},
    "api": {"core", "runtime", "options", "domain", "errors"},
    "core": {
        *("strategies", "families", "importance", "sparsity", "data", "healing", "evaluation", "report", "bench"),
        *("io", "runtime", "options", "domain", "errors"),
    },
    "bench": {
        "families",
        "importance",
        "healing",
        "evaluation",
        "data",
        "io",
        "runtime",
        "demo",
        "options",
        "domain",
        "errors",
    },
    "report": {"io", "options", "domain", "errors"},
    "evaluation": {"families", "data", "io", "runtime", "options", "domain", "errors"},
    "sparsity": {"families", "runtime", "domain", "errors"},
    "importance": {"families", "data", "io", "runtime", "options", "domain", "errors"},
    "healing": {"families", "data", "io", "runtime", "options", "domain", "errors"},
    "data": {"demo", "io", "runtime", "domain", "errors"},
    "families": {"io", "runtime", "domain", "errors"},
    "strategies": {"options", "domain", "errors"},
    "io": {"runtime", "options", "domain", "errors"},
    "runtime": {"domain", "errors"},
    "demo": set(),
    "domain": {"errors"},
    "options": {"errors"},
    "errors": set(),
}
# Run by hand to make the demo's model and its card; nothing imports them.
SCRIPTS = [ROOT / "demo_training/card.py", ROOT / "demo_training/train.py"]
PURE = ("domain", "options", "strategies", "errors.py")
OWNERS = {
    "typer": {"cli"},
    "rich": {"cli"},
    "orjson": {"io"},
    "safetensors": {"io"},
}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "checkpoint" not in path.parts)


def room(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that the file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_imports_go_one_way() -> None:
    wrong = []
    for path in modules():
        if room(path) in ("__init__", "__main__") or path in SCRIPTS:
            continue
        for name in imports(path):
            parts = name.split(".")
            is_ours = parts[0] == "interlace_cli" and len(parts) > 1 and parts[1] in MAY_IMPORT
            if is_ours and parts[1] not in MAY_IMPORT[room(path)] | {room(path)}:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_commands_do_not_meet_in_core_but_in_run_and_compare() -> None:
    """What several commands share has a module of its own; no command calls another one."""
    commands = {"prepare", "analyze", "plan", "prune", "finetune", "evaluate", "export", "report", "run", "compare"}
    allowed = {
        "run": commands,
        "compare": commands,
        "cells": commands,
        "cell_checkpoints": commands,
        "status": {"run"},
        "tasks": {"prepare"},
        "bench": {"prepare"},
    }
    wrong = []
    for path in (ROOT / "core").glob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            is_command = parts[:2] == ["interlace_cli", "core"] and len(parts) > 2 and parts[2] in commands
            if is_command and parts[2] not in allowed.get(path.stem, set()) | {path.stem}:
                wrong.append(f"{path.name} imports {name}")
    assert not wrong


def test_options_need_the_standard_library_alone() -> None:
    files = [path for path in modules() if room(path) == "options"]
    assert len(files) > 10
    outside = {name.split(".")[0] for path in files for name in imports(path) if name.split(".")[0] != "interlace_cli"}
    assert outside <= set(sys.stdlib_module_names)


def test_the_pure_rooms_know_no_torch() -> None:
    heavy = {"torch", "transformers", "numpy", "datasets", "accelerate", "safetensors", "PIL"}
    files = [path for path in modules() if path.relative_to(ROOT).parts[0] in PURE]
    assert len(files) > 10
    assert not [path for path in files if heavy & {name.split(".")[0] for name in imports(path)}]


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_used_in_its_own_room_alone(library: str) -> None:
    users = {room(path) for path in modules() if library in {name.split(".")[0] for name in imports(path)}}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("call", ["--help", "--version", "plan --help", "run --help", "plan --ratio 0.25"])
def test_the_command_line_loads_nothing_heavy(call: str, tmp_path: Path) -> None:
    """`plan` runs on score files here; even then it needs neither torch nor numpy."""
    words = call.split()
    if "--ratio" in words:
        files = []
        for p in (1, 2, 3):
            files.append(tmp_path / f"{p}.json")
            files[-1].write_text("{" + ",".join(f'"{i}": [0.{9 - i % 5}]' for i in range(12 - p)) + "}")
        words += ["--scores", *map(str, files), "-w", str(tmp_path)]
    code = (
        "import sys\n"
        "from interlace_cli.cli.app import app\n"
        f"try: app({words!r}, prog_name='interlace')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'accelerate', 'PIL'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_and_functions_stay_readable() -> None:
    long = []
    for path in modules():
        text = path.read_text()
        if len(text.splitlines()) > 400:
            long.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0].lineno
                length = (node.end_lineno or 0) - first + 1
                # The signature of a command is its options, and does not count.
                if length > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.name}: {length} lines")
    assert not long


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by name: it would run none of the suite."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_says_what_it_is() -> None:
    assert not [path for path in modules() if not ast.get_docstring(ast.parse(path.read_text()))]
