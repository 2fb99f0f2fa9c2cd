"""The YAML header of a model card, written by huggingface_hub.

It says what the model is made from, and lists its results in the form that the Hub shows (`model-index`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation, Result

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK, TEXT_TASK = "image-text-to-text", "text-generation"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def build_metadata(
    card: CheckpointCard,
    evaluation: Evaluation | None,
    name: str,
    base_model: str,
    licence: str,
    fingerprint: str,
    dataset: Manifest | None = None,
    is_text_only: bool = False,
) -> str:
    """The YAML header with its two `---` lines.

    `is_text_only` says whether it is a language model that reads no images.
    `fingerprint` is the exported checkpoint's; it finds the checkpoint's row in `evaluation`. `base_model` and
    `dataset` are named only where they are on the Hub.
    """
    from huggingface_hub import ModelCardData

    task = TEXT_TASK if is_text_only else TASK
    results = build_eval_results(evaluation, fingerprint, dataset, task) if evaluation else []
    is_on_hub = HUB_ID.fullmatch(base_model) is not None
    location = card.healing.dataset_location if card.healing else None
    extra: dict[str, Any] = {"base_model_relation": "finetune"} if is_on_hub else {}
    data = ModelCardData(
        base_model=base_model if is_on_hub else None,
        datasets=[location] if location else None,
        license=licence,
        library_name="transformers",
        pipeline_tag=task,
        tags=["interlace", "layer-pruning"],
        model_name=name.split("/")[-1] if results else None,
        eval_results=results or None,
        **extra,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def build_eval_results(
    evaluation: Evaluation, fingerprint: str, dataset: Manifest | None, task: str = TASK
) -> list[EvalResult]:
    """The checkpoint's score and retention on the held-out samples, and its benchmark scores, all in percent."""
    from huggingface_hub import EvalResult

    found: list[EvalResult] = []
    own = next((result for result in evaluation.results if result.fingerprint == fingerprint), None)
    if own is not None:
        found += _describe_result(own, evaluation, dataset, task)
    row = (
        next((r for r in evaluation.benchmarks.rows if r.fingerprint == fingerprint), None)
        if evaluation.benchmarks
        else None
    )
    if row is not None and evaluation.benchmarks is not None:
        found += [
            EvalResult(
                task_type=task,
                dataset_name=name,
                dataset_type=_to_slug(name),
                metric_type="accuracy",
                metric_name=f"score ({evaluation.benchmarks.harness})",
                metric_value=round(score, 2),
            )
            for name, score in row.scores.items()
        ]
    return found


def _describe_split(own: Result, evaluation: Evaluation) -> str:
    seen = max(own.trained_on, own.calibrated_on)
    return f"{seen} of {sum(evaluation.samples.values())} samples seen in training" if seen else "held out"


def _describe_result(own: Result, evaluation: Evaluation, dataset: Manifest | None, task: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    metric = "exact_match" if evaluation.is_exact_match else "accuracy"
    source = dataset.source if dataset else "held-out samples"
    about: dict[str, Any] = {
        "task_type": task,
        "dataset_name": f"{source}, {_describe_split(own, evaluation)}",
        "dataset_type": (dataset.location if dataset else None) or _to_slug(source),
        "dataset_revision": dataset.revision if dataset else None,
    }
    found = [EvalResult(metric_type=metric, metric_name="score", metric_value=round(100 * own.score, 2), **about)]
    if own.retention is not None:
        first = evaluation.results[0].name
        found.append(
            EvalResult(
                metric_type="retention",
                metric_name=f"percent of the {first} model's score",
                metric_value=round(own.retention, 2),
                **about,
            )
        )
    return found


def _to_slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "results"
