"""lmms-eval (github.com/EvolvingLMMs-Lab/lmms-eval, 0.7): its Python package, called in a process of its own."""

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
"""transformers' model_type -> lmms-eval's class for it. Others go through its general `huggingface`."""


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
    """One benchmark on one checkpoint. The launcher repairs what keeps lmms-eval from importing torchvision."""
    task = asked.known.task if asked.known else asked.name
    words = [sys.executable, "-m", "interlace_cli.evaluation.harness.launch_lmms_eval", "--model", model]
    words += ["--model_args", ",".join([f"pretrained={checkpoint}", *arguments]), "--tasks", task]
    words += ["--batch_size", str(batch_size), "--output_path", str(out), "--log_samples"]
    words += ["--limit", str(limit)] if limit is not None else []
    return words + (["--include_path", str(include)] if include is not None else [])


def find_results(folder: Path) -> Path | None:
    """The newest result file under the folder of a run."""
    return max(folder.rglob("*_results.json"), default=None, key=lambda path: path.name)


def read_scores(path: Path, asked: Sequence[Asked]) -> tuple[dict[str, float], dict[str, float]]:
    """`(scores, standard errors)` in percent, of those of `asked` that the file has. Raises ArtifactError."""
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
    """`<metric>,<filter>`; the first one if no metric is asked for."""
    for key, value in entry.items():
        name, comma, _ = key.partition(",")
        is_score = comma and not name.endswith("_stderr") and isinstance(value, (int, float)) and value is not True
        if is_score and metric in (None, name):
            return key
    return None
