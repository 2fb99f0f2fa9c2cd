"""The words of a whole run that takes a few seconds, its three steps of healing too."""

from __future__ import annotations

from pathlib import Path

from workspaces import to_words

CHAIN = {
    "data": "demo",
    "max-samples": 48,
    "holdout": 0.2,
    "calibration": 0.34,
    "importance": "similarity,loss,taylor",
    "loss-samples": 8,
    "ratio": 0.25,
    "triplet-selection": "optimal",
    "compensate": "linear",
    "epochs": 1,
    "heal-batch-size": 8,
    "grad-accum": 1,
    "max-length": 256,
    "lr": 1e-3,
    "eval-samples": 6,
    "max-new-tokens": 4,
    "dtype": "float32",
    "no-speed": None,
}


def build_chain(model: Path, space: Path, device: str) -> list[str]:
    """`run` on the demo's samples."""
    return ["run", str(model), "-w", str(space), "--device", device, *to_words(CHAIN)]
