"""Recall at K of dual encoders such as CLIP and SigLIP, as on Flickr30K and COCO (Radford et al. 2021, section 3.1).

Image to text: an image counts as 1 if one of its own texts is among the K texts most similar to it. Text to image: the
same the other way round.

Shape legend: N images, M texts; Q queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interlace_cli.data.batches import to_model
from interlace_cli.data.prefetch import cut
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.io.datasets import load_images
from interlace_cli.runtime.processes import find_processes, gather, shard

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

RANKS = (1, 5, 10)
"""The values of K."""


def is_dual_encoder(model: PreTrainedModel) -> bool:
    """Whether the model embeds images and texts and cannot generate."""
    return hasattr(model, "get_text_features") and hasattr(model, "get_image_features") and not model.can_generate()


def measure_recall(
    model: PreTrainedModel, processor: Any, folder: Path, samples: Sequence[Sample], batch_size: int, advance: Advance
) -> tuple[list[str], Points]:
    """`(kinds, points)` with one entry of 0 or 1 per query and K: 3 N entries for images, then 3 M for texts.

    A kind is called "image to text R@5". The texts of an image are the references of all samples with that image;
    only the first image of a sample counts.
    """
    names = list(dict.fromkeys(sample.image[0] for sample in samples if sample.image))
    asked = {name: next(sample for sample in samples if sample.image[:1] == [name]) for name in names}
    pairs = sorted({(name, text) for s in samples if s.image for name in s.image[:1] for text in s.references})
    texts, owners = [text for _, text in pairs], [names.index(name) for name, _ in pairs]
    images_ND = _embed_images(model, processor, folder, [asked[name] for name in names], batch_size, advance)
    texts_MD = _embed_texts(model, processor, texts, batch_size)
    similarity_NM = images_ND @ texts_MD.T
    owned_NM = torch.tensor(owners)[None] == torch.arange(len(names))[:, None]
    kinds: list[str] = []
    points: list[float] = []
    for title, scores, own in (
        ("image to text", similarity_NM, owned_NM),
        ("text to image", similarity_NM.T, owned_NM.T),
    ):
        ranks = find_ranks(scores, own)
        for rank in RANKS:
            kinds += [f"{title} R@{rank}"] * len(ranks)
            points += [float(found < rank) for found in ranks]
    return kinds, Points(points)


def find_ranks(scores_QC: Tensor, own_QC: Tensor) -> list[int]:
    """The 0-based rank of each query's best own candidate, a list of length Q; ties count against it.

    `scores_QC` are similarities, `own_QC` says which candidates belong to the query. Example: scores (0.9, 0.5, 0.7)
    with only the last one its own: rank 1, so it counts for R@5 but not for R@1.
    """
    best_Q = scores_QC.masked_fill(~own_QC, float("-inf")).amax(1, keepdim=True)
    ranks: list[int] = ((scores_QC >= best_Q) & ~own_QC).sum(1).tolist()
    return ranks


@torch.inference_mode()
def _embed_images(
    model: PreTrainedModel, processor: Any, folder: Path, samples: Sequence[Sample], batch_size: int, advance: Advance
) -> Tensor:
    parts = []
    for batch in shard(cut(samples, batch_size)):
        pixels = processor(images=[load_images(folder, sample)[0] for sample in batch], return_tensors="pt")
        parts.append(_normalize(model.get_image_features(**to_model(pixels, model))))
        advance(len(batch) * find_processes().size)
    return torch.cat(gather(parts))


@torch.inference_mode()
def _embed_texts(model: PreTrainedModel, processor: Any, texts: Sequence[str], batch_size: int) -> Tensor:
    longest = model.config.get_text_config().max_position_embeddings
    parts = []
    for chosen in shard(cut(texts, batch_size)):
        batch = processor(
            text=chosen,
            # SigLIP was trained on texts that are all padded to the full length.
            padding="max_length",
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        parts.append(_normalize(model.get_text_features(**to_model(batch, model))))
    return torch.cat(gather(parts))


def _normalize(features: Any) -> Tensor:
    """Unit vectors [N, width], float32 on the CPU. Newer transformers return a whole output object, not a tensor."""
    vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()
