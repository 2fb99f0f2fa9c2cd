"""Calls lmms-eval (github.com/EvolvingLMMs-Lab/lmms-eval, 0.7) in a separate process and reads its result files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interlace_cli.errors import ArtifactError
from interlace_cli.evaluation.harness.benchmarks import Asked
from interlace_cli.io.files import parse_json

NAME, PACKAGE = "lmms-eval", "lmms_eval"
INSTALL = 'pip install "interlace-cli[lmms-eval]"'
MODELS = {
    "qwen3_vl": "qwen3_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen2_vl": "qwen2_vl",
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "internvl": "internvl_hf",
}
"""transformers' model_type -> the name of lmms-eval's model class. Other types use its generic class `huggingface`."""


def build_command(
    checkpoint: Path,
    model: str,
    arguments: Sequence[str],
    asked: Asked,
    out: Path,
    batch_size: int,
    limit: int | None,
    include: Path | None,
) -> list[str]:
    """The command that runs one benchmark on one checkpoint and writes its results under `out`.

    `model` is lmms-eval's class, `arguments` are extra `name=value` pairs for it. `limit` runs the first so many
    questions; None runs all. `include` is a folder with further lmms-eval tasks.
    """
    task = asked.known.task if asked.known else asked.name
    words = [sys.executable, "-m", "interlace_cli.evaluation.harness.launch_lmms_eval", "--model", model]
    words += ["--model_args", ",".join([f"pretrained={checkpoint}", *arguments]), "--tasks", task]
    words += ["--batch_size", str(batch_size), "--output_path", str(out), "--log_samples"]
    words += ["--limit", str(limit)] if limit is not None else []
    return words + (["--include_path", str(include)] if include is not None else [])


def find_results(folder: Path) -> Path | None:
    """The newest `*_results.json` under `folder`, by the time in its name; None if there is none."""
    return max(folder.rglob("*_results.json"), default=None, key=lambda path: path.name)


def read_scores(path: Path, asked: Sequence[Asked]) -> tuple[dict[str, float], dict[str, float]]:
    """`(scores, standard errors)` in percent, each benchmark name -> value.

    Benchmarks that the file does not have are left out. Raises ArtifactError if the file is not an lmms-eval result
    file, or lacks the score of a benchmark that it has.
    """
    data = parse_json(path.read_bytes())
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, dict):
        raise ArtifactError(f"{path} is not a result file of lmms-eval: it has no field results.")
    scores, errors = {}, {}
    for one in asked:
        entry = results.get(one.known.task if one.known else one.name)
        if not isinstance(entry, dict):
            continue
        metric = one.known.metric if one.known else one.metric
        key = _find_key(entry, metric)
        if key is None:
            raise ArtifactError(f"{path} has no score {metric or ''} for {one.name}; it has {', '.join(entry)}.")
        scale = one.known.scale if one.known else 100.0
        scores[one.name] = scale * float(entry[key])
        error = entry.get(key.replace(",", "_stderr,", 1))
        if isinstance(error, (int, float)) and not isinstance(error, bool):
            errors[one.name] = scale * float(error)
    return scores, errors


def _find_key(entry: dict[str, Any], metric: str | None) -> str | None:
    """The key `<metric>,<filter>` of the score, such as `exact_match,none`; with no `metric`, the first score's."""
    for key, value in entry.items():
        name, comma, _ = key.partition(",")
        is_score = comma and not name.endswith("_stderr") and isinstance(value, (int, float)) and value is not True
        if is_score and metric in (None, name):
            return key
    return None
