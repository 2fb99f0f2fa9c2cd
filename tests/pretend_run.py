"""`python tests/pretend.py [--gpus N] [--capacity SIZE] [--capability 7.5] -- WORDS`: a command on a pretend GPU."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from pretend import Pretend
from pretend_numbers import Numbered

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SHOWN = 15


def read_size(text: str) -> int:
    """ "24GiB" -> bytes."""
    for unit, size in UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * size)
    raise argparse.ArgumentTypeError(f"{text}: give KiB, MiB or GiB, such as 24GiB")


def describe(title: str, counted: Counter[str]) -> str:
    lines = [f"{title}: {counted.total()}", *(f"{times:9} {what}" for what, times in counted.most_common(SHOWN))]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/pretend.py")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--capacity", type=read_size, help="of each, such as 24GiB; default: no shortage comes")
    parser.add_argument("--capability", default="9.0", help="such as 7.5, which has no bfloat16")
    parser.add_argument("words", nargs="+", help="after --: the words of an interlace command")
    asked = parser.parse_args()
    from interlace_cli.cli.app import main as run

    major, minor = map(int, asked.capability.split("."))
    gpu, code = Pretend(asked.gpus, asked.capacity, capability=(major, minor)), 0
    sys.argv = ["interlace", *asked.words]
    try:
        with gpu, Numbered():
            run()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    for index, peak in enumerate(gpu.peak):
        print(f"cuda:{index}: {peak / 2**20:.2f} MiB at most", file=sys.stderr)
    print("moved, MiB:", {way: round(size / 2**20, 2) for way, size in gpu.moved.items()}, file=sys.stderr)
    for title in ("waits", "pageable", "shortages"):
        print(describe(title, getattr(gpu, title)), file=sys.stderr)
    sys.exit(code)
