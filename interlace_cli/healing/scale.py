"""What scales the losses in float16: torch's GradScaler, or DeepSpeed's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def read_scale(scaler: Any, zero: Any) -> dict[str, dict[str, Any]]:
    """The state of `scaler`, None where there is none, or of that of DeepSpeed's optimizer `zero`."""
    if zero is not None:
        own = getattr(zero, "loss_scaler", None)
        return {"deepspeed": {k: v for k, v in vars(own).items() if isinstance(v, (int, float))} if own else {}}
    return {"torch": scaler.state_dict() if scaler is not None else {}}


def restore_scale(scaler: Any, zero: Any, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Takes up what `read_scale` returned. Another engine begins with its own scale, which it finds in a few steps."""
    if zero is not None and getattr(zero, "loss_scaler", None) is not None:
        vars(zero.loss_scaler).update(saved.get("deepspeed", {}))
    elif scaler is not None and saved.get("torch"):
        scaler.load_state_dict(saved["torch"])
