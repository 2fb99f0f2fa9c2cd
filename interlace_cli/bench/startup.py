"""How long the command line takes to answer, beside an interpreter that loads typer and rich and nothing else."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from interlace_cli.bench.interleaved_timing import BASELINE, OURS, build_case, time_interleaved
from interlace_cli.domain.benchmark import Case

TRIVIAL = """
import typer
from pathlib import Path
from typing import Annotated
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
@app.command()
def main(path: Annotated[Path, typer.Option("--path")] = Path("x")) -> None: pass
app(["--path", "y"])
"""
"""Typer 0.26 and later reads values through pydantic, so that a command costs more than `--help`."""
GOAL = 2.5
LAYERS, SAMPLES = 36, 100
BARE = (sys.executable, "-c", "import typer, rich")


def measure_startup(repeats: int, advance: Callable[[], None]) -> list[Case]:
    """`--help`, and `plan` from released score files of a 36-layer model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scores = [str(path) for path in write_scores(folder)]
        plan = ("plan", "--ratio", "0.25", "--quiet", "--force", "-w", str(folder), "--scores", *scores)
        return [_compare(words, repeats, advance) for words in (("--help",), plan)]


def write_scores(folder: Path) -> list[Path]:
    """The three released files, with random similarities."""
    from interlace_cli.io.artifacts import to_json_text

    rng = random.Random(0)
    paths = []
    for p in (1, 2, 3):
        paths.append(folder / f"pack{p}.json")
        values = {str(i): [rng.uniform(0.8, 0.99) for _ in range(SAMPLES)] for i in range(LAYERS - p)}
        paths[-1].write_text(to_json_text(values))
    return paths


def _compare(words: tuple[str, ...], repeats: int, advance: Callable[[], None]) -> Case:
    ours = (sys.executable, "-m", "interlace_cli", *words)
    seconds = time_interleaved({BASELINE: lambda: _run(BARE), OURS: lambda: _run(ours)}, repeats, advance)
    floor: dict[str, object] = {}
    if words[0] != "--help":
        bare = time_interleaved({BASELINE: lambda: _run((sys.executable, "-c", TRIVIAL))}, repeats, lambda: None)[
            BASELINE
        ]
        floor = {"floor_seconds": statistics.median(bare), "floor": "a Typer command of one option that does nothing"}
    name = f"interlace {words[0]}"
    return build_case(name, 'python -c "import typer, rich"', seconds, GOAL, is_speedup=False, **floor)


def _run(words: tuple[str, ...]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
