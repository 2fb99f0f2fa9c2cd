"""An analysis -> the scores that strategies choose by: over all samples, or weighted by groups of samples
(`--weight`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from interlace_cli.domain.analysis import Analysis, Group, SpanSimilarity
from interlace_cli.domain.scores import Scores
from interlace_cli.errors import UsageError

MODALITY = "modality"
"""`Group.by` of the groups that are modalities."""
MODALITIES = ("image", "text")
"""Modalities that can be weighted."""


def build_scores(analysis: Analysis) -> Scores:
    """Everything that was measured, over all samples; what was not is empty."""
    spans, loss, taylor = analysis.similarity, analysis.loss, analysis.taylor
    return Scores(
        analysis.model.num_layers,
        spans.s1,
        spans.s2,
        spans.s3,
        angular=analysis.angular or (),
        loss_increase=loss.loss_increase if loss else (),
        taylor_activation=taylor.taylor_activation if taylor else (),
        taylor_weight=taylor.taylor_weight if taylor else (),
        path=[step.layer for step in loss.path] if loss else (),
        unsearched=frozenset(loss.protected) if loss else frozenset(),
    )


def weigh_scores(analysis: Analysis, weights: Mapping[str, float]) -> Scores:
    """Scores as a weighted mean over groups of samples. `weights`: name of a group -> weight, at least 0; groups that
    are not named have weight 0. A name is a modality (`image`, `text`), a source or a kind; `source:text` is a source
    that is called text.

    What was measured over all samples at once (angular distances, `taylor_weight`, the greedy search) has no mean over
    groups and is left empty. So are losses if a modality is named, since a loss belongs to answers. Raises UsageError
    for an unknown or ambiguous name, and if no weight is above 0.

    Example: {"text": 2, "image": 1} -> s1 = (2 s1 of text + s1 of image) / 3.
    """
    groups = _list_groups(analysis)
    # In one order: sums are the same bits however the weights were written.
    chosen = [(_find_group(groups, name), weight) for name, weight in sorted(weights.items())]
    total = sum(weight for _, weight in chosen)
    if total <= 0 or min(weights.values()) < 0:
        raise UsageError("--weight needs weights of at least 0, and one that is more.", "Such as --weight text=2.")
    shares = [weight / total for _, weight in chosen]
    spans = [group.similarity for group, _ in chosen]
    increases = [group.loss_increase for group, _ in chosen]
    estimates = [group.taylor_activation for group, _ in chosen]
    return Scores(
        analysis.model.num_layers,
        _mean([span.s1 for span in spans], shares),
        _mean([span.s2 for span in spans], shares),
        _mean([span.s3 for span in spans], shares),
        loss_increase=_mean([[_to_float(value) for value in one or ()] for one in increases], shares)
        if all(increases)
        else (),
        taylor_activation=_mean([one or () for one in estimates], shares) if all(estimates) else (),
    )


def _list_groups(analysis: Analysis) -> list[Group]:
    modalities: list[tuple[str, SpanSimilarity | None]] = [("image", analysis.image), ("text", analysis.text)]
    samples = analysis.calibration.samples
    found = [Group(by=MODALITY, name=name, samples=samples, similarity=spans) for name, spans in modalities if spans]
    return [*found, *analysis.groups]


def _find_group(groups: Sequence[Group], name: str) -> Group:
    found = [group for group in groups if name in (group.name, f"{group.by}:{group.name}")]
    if len(found) == 1 or (found and found[0].by == MODALITY):
        return found[0]
    if found:
        names = " or ".join(f"{group.by}:{group.name}" for group in found)
        raise UsageError(f"--weight {name} may be more than one group.", f"Write {names}.")
    known = ", ".join(group.name for group in groups[:12]) + (" ..." if len(groups) > 12 else "")
    raise UsageError(
        f"--weight names {name!r}, and the analysis knows {known}.",
        "Run `interlace analyze --by source,kind` for those of the dataset.",
    )


def _mean(values: Sequence[Sequence[float]], shares: Sequence[float]) -> list[float]:
    """The weighted mean of the lists, entry by entry; `shares` sum to 1."""
    return [
        sum(share * value for share, value in zip(shares, column, strict=True)) for column in zip(*values, strict=True)
    ]


def _to_float(value: float | None) -> float:
    return float("inf") if value is None else value
