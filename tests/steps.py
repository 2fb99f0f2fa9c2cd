"""A chain of commands on the demo."""

from __future__ import annotations

from pathlib import Path

STEPS: dict[str, list[str]] = {
    "prepare": ["prepare", "demo", "--max-samples", "300", "--calibration", "0.2", "--holdout", "0.1"],
    "analyze": ["analyze", "demo", "--importance", "loss", "--loss-samples", "8", "--search-ratio", "0.1"],
    "plan": ["plan", "--ratio", "0.25"],
    "prune": ["prune"],
    "finetune": ["finetune", "--batch-size", "16", "--grad-accum", "1", "--save-every", "2", "--lr", "5e-4"],
    "eval": ["eval", "--no-speed"],
    "export": ["export"],
}


def list_files(space: Path) -> dict[str, bytes]:
    """Everything in the workspace, hidden files too."""
    return {path.relative_to(space).as_posix(): path.read_bytes() for path in space.rglob("*") if path.is_file()}
