"""Benchmark of the command line's start, beside a Python that imports typer and rich and nothing else."""

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
"""A Typer command with one option that does nothing. Typer 0.26 and later parses values with pydantic, so running a
command takes longer than `--help`."""
GOAL = 2.5
"""Times as long as the bare imports."""
LAYERS, SAMPLES = 36, 100
BARE = (sys.executable, "-c", "import typer, rich")


def measure_startup(repeats: int, advance: Callable[[], None]) -> list[Case]:
    """Two cases: `interlace --help`, and `interlace plan` from the score files of a 36-layer model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scores = [str(path) for path in write_scores(folder)]
        plan = ("plan", "--ratio", "0.25", "--quiet", "--force", "-w", str(folder), "--scores", *scores)
        return [_compare(words, repeats, advance) for words in (("--help",), plan)]


def write_scores(folder: Path) -> list[Path]:
    """Writes three score files in the format of INTERLACE's released scripts, with random similarities.

    File p holds, for each span of p layers, the similarity of 100 samples.
    """
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
        floor = {"floor_seconds": statistics.median(bare), "floor": "a Typer command with one option that does nothing"}
    name = f"interlace {words[0]}"
    return build_case(name, 'python -c "import typer, rich"', seconds, GOAL, is_speedup=False, **floor)


def _run(words: tuple[str, ...]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
