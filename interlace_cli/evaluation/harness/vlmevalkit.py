"""Calls the `run.py` of VLMEvalKit (github.com/open-compass/VLMEvalKit) and reads its result files.

A `--config` file names the local checkpoint. The kit is not on PyPI: `$VLMEVALKIT` is the folder of a clone.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

from interlace_cli.errors import ArtifactError, MissingInputError
from interlace_cli.evaluation.harness.benchmarks import Asked, ResultLayout
from interlace_cli.io.artifacts import to_json_text
from interlace_cli.io.files import parse_json, write_atomically
from interlace_cli.io.paths import expand_home

NAME = "vlmevalkit"
CLASSES = {
    "qwen3_vl": "Qwen3VLChat",
    "qwen2_5_vl": "Qwen2VLChat",
    "qwen2_vl": "Qwen2VLChat",
    "internvl": "InternVLChat",
    "llava": "LLaVA",
    "llava_next": "LLaVA_Next",
    "llava_onevision": "LLaVA_OneVision_HF",
}
"""transformers' model_type -> the VLMEvalKit class that loads a checkpoint from `model_path`."""
SUFFIXES: dict[ResultLayout, str] = {
    "overall": "_acc.csv",
    "hrbench": "_acc.csv",
    "ocrbench": "_score.json",
    "pope": "_score.csv",
    "mia": "_score.csv",
}
"""Layout -> how the name of the result file ends."""


def find_kit() -> Path:
    """The path of `run.py` in the clone. Raises MissingInputError if `$VLMEVALKIT` does not lead to one."""
    folder = os.environ.get("VLMEVALKIT")
    path = expand_home(folder) / "run.py" if folder else None
    if path is None or not path.is_file():
        raise MissingInputError(
            "there is no VLMEvalKit: $VLMEVALKIT names no folder with a run.py.",
            "Clone github.com/open-compass/VLMEvalKit, install it, and set VLMEVALKIT to its folder.",
        )
    return path


def write_config(
    path: Path, name: str, checkpoint: Path, kit_class: str, settings: dict[str, Any], asked: Asked
) -> None:
    """Writes the `--config` file for one model and one dataset.

    `kit_class` is VLMEvalKit's class for the model, `settings` are further arguments of its constructor.
    """
    known = asked.known
    dataset = known.dataset if known else asked.name
    entry = {"class": known.dataset_class, "dataset": known.dataset} if known else {}
    model = {"class": kit_class, "model_path": str(checkpoint), **settings}
    write_atomically(path, to_json_text({"model": {name: model}, "data": {dataset: entry}}).encode())


def build_command(config: Path, out: Path, has_key: bool) -> list[str]:
    """The command that runs the kit on a `--config` file and writes under `out`.

    Without an API key for a judge (`has_key`), multiple-choice answers are matched exactly, which is also the kit's own
    fallback.
    """
    words = [sys.executable, str(find_kit()), "--config", str(config), "--work-dir", str(out), "--verbose"]
    return words if has_key else [*words, "--judge", "exact_matching"]


def find_results(folder: Path, asked: Asked) -> Path | None:
    """The newest file `<model>_<dataset><suffix>` under `folder`, by modification time; None if there is none."""
    known = asked.known
    dataset = known.dataset if known else asked.name
    suffixes = [SUFFIXES[known.layout]] if known else sorted(set(SUFFIXES.values()))
    found = [path for suffix in suffixes for path in folder.rglob(f"*_{dataset}{suffix}")]
    return max(found, default=None, key=lambda path: path.stat().st_mtime_ns)


def read_score(path: Path, asked: Asked) -> float:
    """The score in percent. Raises ArtifactError if the file is not laid out as expected."""
    layout: ResultLayout = asked.known.layout if asked.known else "ocrbench" if path.suffix == ".json" else "overall"
    scale = asked.known.kit_scale if asked.known else 1.0
    try:
        return scale * _READERS[layout](path.read_text(encoding="utf-8"))
    except (KeyError, ValueError, StopIteration, TypeError) as error:
        raise ArtifactError(f"{path} is not laid out as VLMEvalKit writes {asked.name}.") from error


def _read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _read_overall(text: str) -> float:
    """The column `Overall` of the first row."""
    return float(_read_rows(text)[0]["Overall"])


def _read_hrbench(text: str) -> float:
    """The last column of the row with cycle=Average and type=all."""
    row = next(row for row in _read_rows(text) if row["cycle"] == "Average" and row["type"] == "all")
    return float(list(row.values())[-1])


def _read_pope(text: str) -> float:
    """F1 over all three splits."""
    rows = _read_rows(text)
    return float(next((row for row in rows if row.get("split") == "Overall"), rows[0])["Overall"])


def _read_ocrbench(text: str) -> float:
    return float(parse_json(text.encode())["Final Score Norm"])


def _read_mia(text: str) -> float:
    """The overall score: a column of a one-row table, or else the last column of the row named overall or total."""
    rows = _read_rows(text)
    named = {key.lower(): key for key in rows[0]}
    for key in ("overall", "total_score", "score"):
        if key in named and len(rows) == 1:
            return float(rows[0][named[key]])
    row = next(row for row in rows if any(value.lower() in ("overall", "total") for value in row.values()))
    return float(list(row.values())[-1])


_READERS = {
    "overall": _read_overall,
    "hrbench": _read_hrbench,
    "pope": _read_pope,
    "ocrbench": _read_ocrbench,
    "mia": _read_mia,
}
