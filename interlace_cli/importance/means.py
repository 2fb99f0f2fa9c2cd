"""Per-sample measurements -> means over all samples, by modality, by source and by kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interlace_cli.domain.analysis import Group, SpanSimilarity

if TYPE_CHECKING:
    import numpy as np

    from interlace_cli.domain.dataset import Sample

Arrays = dict[str, "np.ndarray"]
"""By name. Of the similarities: `sample` [N] (index in the split), `tokens`, `image_tokens` [N], `all_s1` [N, L],
`image_s1`, ... `text_s3` [N, L-2]. Of the losses, over the first M samples: `loss_dense` [M], `loss_single` [L, M] (NaN
for a layer that cannot be dropped), `taylor_activation` [L, M], sums over each sample's answer tokens, of which there
are `loss_tokens` and `taylor_tokens` [M]."""


def average_spans(arrays: Arrays, modality: str, members: np.ndarray | None = None) -> SpanSimilarity | None:
    """Mean over the samples (those of `members`, a mask, if given) that have tokens of the modality; None if there is
    none."""
    import numpy as np

    image = arrays["image_tokens"]
    counts = {"all": arrays["tokens"], "image": image, "text": arrays["tokens"] - image}[modality]
    present = counts > 0 if members is None else (counts > 0) & members
    if not present.any():
        return None
    means = [arrays[f"{modality}_s{p}"][present].mean(0, dtype=np.float64).tolist() for p in (1, 2, 3)]
    return SpanSimilarity(s1=means[0], s2=means[1], s3=means[2])


def average_angles(total: np.ndarray, samples: int) -> list[list[float]]:
    """`total` [L+1, L+1], summed over samples -> `angular[n-1][i]` between the states in front of layers i and i+n."""
    layers = len(total) - 1
    return [[float(total[i, i + n] / samples) for i in range(layers - n + 1)] for n in range(1, layers + 1)]


def build_groups(arrays: Arrays, samples: Sequence[Sample], by: Sequence[str]) -> list[Group]:
    """A group for each source or kind that occurs, as `by` says, in the order of their names."""
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
    if "taylor_activation" not in arrays:
        return None
    chosen = members[: arrays["taylor_activation"].shape[1]]
    tokens = arrays["taylor_tokens"][chosen].sum()
    return [float(value) for value in arrays["taylor_activation"][:, chosen].sum(1) / tokens] if tokens else None
