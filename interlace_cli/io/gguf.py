"""GGUF by llama.cpp's own tools: its converter writes the files, and its program loads them and generates, or there are
none. `$LLAMA_CPP` is the folder of a llama.cpp that has been built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.domain.progress import Progress
from interlace_cli.errors import CheckpointError, MissingInputError

CONVERTER = "convert_hf_to_gguf.py"
PROGRAM = "llama-mtmd-cli"
QUESTION = "What is this?"


@dataclass(frozen=True)
class GgufFiles:
    """The language model and, apart, the vision tower; `program` is what loaded them."""

    model: Path
    tower: Path
    program: str


def convert_gguf(checkpoint: Path, out: Path, name: str, progress: Progress) -> GgufFiles:
    """Writes `out/<name>-f16.gguf` and `out/mmproj-<name>-f16.gguf`, and asks llama.cpp a question about a picture.

    Raises MissingInputError if llama.cpp is not there, CheckpointError that quotes it if it cannot convert or load.
    """
    converter, program = find_llama()
    out.mkdir(parents=True, exist_ok=True)
    files = GgufFiles(out / f"{name}-f16.gguf", out / f"mmproj-{name}-f16.gguf", program.name)
    with progress.task("gguf", 3, "steps") as advance:
        for path, extra in ((files.model, []), (files.tower, ["--mmproj"])):
            words = [sys.executable, str(converter), str(checkpoint), "--outfile", str(path), "--outtype", "f16"]
            _run([*words, *extra], f"llama.cpp cannot convert {checkpoint.name}")
            advance()
        picture = out / "picture.png"
        _draw_picture(picture)
        words = [str(program), "-m", str(files.model), "--mmproj", str(files.tower), "--image", str(picture)]
        _run(
            [*words, "-p", QUESTION, "-n", "8", "--temp", "0", "-c", "1024"],
            f"llama.cpp cannot load {files.model.name}",
        )
        picture.unlink()
        advance()
    return files


def find_llama() -> tuple[Path, Path]:
    """The converter, and the built program. Raises MissingInputError."""
    folder = os.environ.get("LLAMA_CPP")
    if not folder or not (Path(folder) / CONVERTER).is_file():
        raise MissingInputError(
            f"there is no llama.cpp: $LLAMA_CPP names no folder with {CONVERTER}.",
            "Clone and build github.com/ggml-org/llama.cpp, and set LLAMA_CPP to its folder.",
        )
    program = next((path for path in Path(folder).glob(f"build/**/{PROGRAM}") if os.access(path, os.X_OK)), None)
    if program is None:
        raise MissingInputError(
            f"{folder} has no {PROGRAM}, which is to load what is converted.",
            f"Build it: cmake -B build && cmake --build build --target {PROGRAM}.",
        )
    return Path(folder) / CONVERTER, program


def _run(words: list[str], failure: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|unsupported|not supported|failed", line, re.IGNORECASE)]
    said = (errors or lines or ["it said nothing"])[-1][:300]
    raise CheckpointError(f"{failure}: {said}.", "Export it without --format gguf.")


def _draw_picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (224, 224), (200, 60, 60)).save(path)
