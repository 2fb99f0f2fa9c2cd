"""When a figure says less than it seems to: pure rules on counts and scores, each a sentence with what to do. They are
shown when the figure is made, and kept in its record."""

from __future__ import annotations

from collections.abc import Mapping

FEW_CALIBRATION = 16
"""Below so many calibration samples the order of layers depends much on which samples they are: the error of a mean
over 16 is a quarter of the spread between samples."""
FEW_HELDOUT = 30
"""Below so many samples the 95% interval of a score is wider than 35 points (0.5 +- 1.96 sqrt(0.25 / n))."""


def check_calibration(samples: int) -> list[str]:
    """On the number of samples that an analysis was made on."""
    if samples >= FEW_CALIBRATION:
        return []
    return [
        f"the analysis rests on {samples} calibration samples, and others may rank the layers otherwise: run `interlace"
        f" prepare` again with more records or a larger --calibration ({FEW_CALIBRATION} samples at least)."
    ]


def check_evaluation(samples: Mapping[str, int], first: str, scores: Mapping[str, float]) -> list[str]:
    """On the number of samples of each kind, and the scores of the checkpoint `first`, of which others retain a share.
    Example: `check_evaluation({"charts": 12}, "dense", {"charts": 0.0})`."""
    cautions, total = [], sum(samples.values())
    if total < FEW_HELDOUT:
        cautions.append(
            f"the scores rest on {total} samples, too few to tell checkpoints apart: run `interlace prepare` again with"
            f" more records or a larger --holdout ({FEW_HELDOUT} samples at least)."
        )
    zero = sorted(kind for kind, score in scores.items() if score == 0)
    if zero:
        which = "every kind" if len(zero) == len(scores) else ", ".join(zero)
        cautions.append(
            f"{first} scores 0 on {which}, so nothing can be retained there, and its retention leaves this out: look at"
            " its answers, the metric, and --max-new-tokens."
        )
    return cautions


def check_healing(is_changed: bool, lr: float, steps: int) -> list[str]:
    """On a healing after which the weights on disk are what they were before."""
    if is_changed:
        return []
    return [
        f"healing has changed no weight: {steps} steps at a learning rate of {lr:g} are too little for the dtype in"
        " which the checkpoint is stored. Raise --lr or --epochs, or give more training samples."
    ]


def check_compensation(gaps: int, changed: int) -> list[str]:
    """On `gaps` runs of dropped layers, of which `changed` are compensated. A run that begins with layer 0 is none."""
    if not gaps:
        return ["--compensate changed nothing: no dropped layer has a layer in front of it."]
    if not changed:
        return [
            f"--compensate changed nothing: for none of the {gaps} gaps did a linear map lower the loss of calibration"
            " samples that it was not fitted to. Heal with `interlace finetune`, or give more calibration samples."
        ]
    return []
