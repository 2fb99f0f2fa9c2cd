"""Defaults that differ for one model: data, by the names that `run` has for its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEMO = "demo"
RUN: Mapping[str, Any] = {"ratio": 0.25}
"""What `run` drops where nobody says how much."""
RECIPES: Mapping[str, Mapping[str, Any]] = {
    # Two million parameters need a larger learning rate than the paper's 1e-5.
    DEMO: {"lr": 5e-4, "epochs": 2.0, "heal_batch_size": 32, "grad_accum": 1},
}
SAMPLES: Mapping[str, Mapping[str, Any]] = {
    # More questions to judge by; its pictures cost nothing.
    DEMO: {"holdout": 0.2},
}
