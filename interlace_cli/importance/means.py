"""Means of per-sample measurements: over all samples, by modality, by source and by kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interlace_cli.domain.analysis import Group, SpanSimilarity
from interlace_cli.importance.span_lengths import SPAN_LENGTHS

if TYPE_CHECKING:
    import numpy as np

    from interlace_cli.domain.dataset import Sample

Arrays = dict[str, "np.ndarray"]
"""Name -> array, for L layers.

Similarities of N samples: `sample` [N] (index in the split); `tokens`, `image_tokens` [N] (counts); `{modality}_s{p}`
[N, L-p+1] for the modalities all, image and text and each span length p (cosines, -1 ... 1).

Losses of the first M samples, summed over each sample's answer tokens, in nats: `loss_dense` [M]; `loss_single` [L, M]
without layer l (NaN if it cannot be dropped); `taylor_activation` [L, M]. `loss_tokens` and `taylor_tokens` [M] are the
numbers of answer tokens."""


def average_spans(arrays: Arrays, modality: str, members: np.ndarray | None = None) -> SpanSimilarity | None:
    """S_1, S_2 and S_3 averaged over the samples that have tokens of the `modality` (all, image or text). `members` [N]
    is a mask of the samples to use; None for all. None if no sample has such tokens."""
    import numpy as np

    image = arrays["image_tokens"]
    counts = {"all": arrays["tokens"], "image": image, "text": arrays["tokens"] - image}[modality]
    present = counts > 0 if members is None else (counts > 0) & members
    if not present.any():
        return None
    s1, s2, s3 = (arrays[f"{modality}_s{p}"][present].mean(0, dtype=np.float64).tolist() for p in SPAN_LENGTHS)
    return SpanSimilarity(s1=s1, s2=s2, s3=s3)


def average_angles(total: np.ndarray, samples: int) -> list[list[float]]:
    """Mean angular distances. `total` [L+1, L+1] is summed over `samples`; returns `angular[n-1][i]`, 0 ... 1, between
    the states before layer i and before layer i + n."""
    layers = len(total) - 1
    return [[float(total[i, i + n] / samples) for i in range(layers - n + 1)] for n in range(1, layers + 1)]


def build_groups(arrays: Arrays, samples: Sequence[Sample], by: Sequence[str]) -> list[Group]:
    """A group for each value of the sample fields `by` (source, kind), sorted by name. Groups without tokens are left
    out."""
    import numpy as np

    groups = []
    for field in by:
        labels = np.array([getattr(sample, field) for sample in samples])
        for name in sorted(set(labels.tolist())):
            similarity = average_spans(arrays, "all", labels[arrays["sample"]] == name)
            if similarity is None:
                continue
            group = Group(
                by=field,
                name=name,
                samples=int((labels[arrays["sample"]] == name).sum()),
                similarity=similarity,
                loss_increase=_average_loss_increase(arrays, labels == name),
                taylor_activation=_average_taylor_activation(arrays, labels == name),
            )
            groups.append(group)
    return groups


def _average_loss_increase(arrays: Arrays, members: np.ndarray) -> list[float | None] | None:
    """Loss increase per answer token, in nats, for each layer; None for a layer that cannot be dropped. None if it was
    not measured on any of the `members`."""
    import numpy as np

    if "loss_single" not in arrays:
        return None
    chosen = members[: len(arrays["loss_dense"])]
    tokens = arrays["loss_tokens"][chosen].sum()
    if not tokens:
        return None
    rise = (arrays["loss_single"] - arrays["loss_dense"])[:, chosen].sum(1) / tokens
    return [None if np.isnan(value) else float(value) for value in rise]


def _average_taylor_activation(arrays: Arrays, members: np.ndarray) -> list[float] | None:
    """First-order estimate of the loss change per answer token, in nats, for each layer; None if it was not measured on
    any of the `members`."""
    if "taylor_activation" not in arrays:
        return None
    chosen = members[: arrays["taylor_activation"].shape[1]]
    tokens = arrays["taylor_tokens"][chosen].sum()
    return [float(value) for value in arrays["taylor_activation"][:, chosen].sum(1) / tokens] if tokens else None
