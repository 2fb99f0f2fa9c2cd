"""Artifacts as small as can be, for rules that need no files."""

from __future__ import annotations

from typing import Any

from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.io.artifacts import build_origin

SETTINGS: dict[str, Any] = {"ratio": 0.25, "layers": [3, 5], "tune": None}
INPUTS = {"model": "a" * 64, "drop": "3, 5"}
FACTS: dict[str, Any] = {
    "name": "tiny",
    "location": "/models/tiny",
    "fingerprint": "a" * 64,
    "model_type": "tiny",
    "layer_parameters": [1] * 8,
    "layer_bytes": [4] * 8,
    "embedding_parameters": 0,
    "head_parameters": 0,
    "rest_parameters": 0,
    "total_bytes": 32,
    "attention_width": 1,
    "deepstack_layers": 0,
    "is_tied": False,
}


def build_card(**fields: Any) -> CheckpointCard:
    return CheckpointCard.model_validate(
        {
            "kind": CheckpointCard.KIND,
            "schema": 1,
            "created_by": build_origin("prune", SETTINGS),
            "inputs": INPUTS,
            "stage": "pruned",
            "base": FACTS,
            "strategy": "by hand",
            "ratio": 0.25,
            "dense_index": [0, 1, 2, 4, 6, 7],
            "dropped": [3, 5],
            "tune": [2],
            **fields,
        }
    )


def build_evaluation(**fields: Any) -> Evaluation:
    return Evaluation.model_validate(
        {
            "kind": Evaluation.KIND,
            "schema": Evaluation.SCHEMA,
            "created_by": build_origin("eval", SETTINGS),
            "inputs": INPUTS,
            **fields,
        }
    )


def build_manifest(**fields: Any) -> Manifest:
    splits = {
        split: {"samples": count, "images": count, "sha256": "0"}
        for split, count in (("train", 3), ("calibration", 1), ("heldout", 0))
    }
    return Manifest.model_validate(
        {
            "kind": Manifest.KIND,
            "schema": Manifest.SCHEMA,
            "created_by": build_origin("prepare", {"source": "vqa.json", "holdout": 0.3, "seed": 0}),
            "inputs": {},
            "source": "vqa.json",
            "splits": splits,
            "kinds": {},
            "skipped": {},
            "skipped_records": [],
            **fields,
        }
    )
