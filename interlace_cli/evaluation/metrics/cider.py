"""CIDEr-D of captions (Vedantam et al. 2015, section 6), in 0 ... 10. Tables often print 100 times that.

CIDEr-D compares the n-grams of a caption with those of people's captions; n-grams that are rare among the images count
more. For each n = 1 ... 4:

- n-gram counts become tf-idf vectors; counts above the reference's are clipped to it;
- the similarity is their cosine, times exp(-d^2 / 72), where d is the difference in length.

The score is 10 times the mean over n and over references. The idf comes from the references of the samples at hand, so
scores of different sets of samples cannot be compared.

Source: pycocoevalcap 1.2, the same for captions that are split into words. Here words consist of letters, digits and
inner apostrophes; the published scripts use Stanford's tokenizer instead.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points

LONGEST, SIGMA = 4, 6.0
Gram = tuple[str, ...]


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation. Example: "A dog's ball." -> ["a", "dog's", "ball"]."""
    return re.findall(r"\w+(?:'\w+)*", text.lower())


def compute_cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption, in 0 ... 10.

    `references[i]` are the references of caption i. All texts are already split: words with one space between.
    """
    counted = [[_count_grams(text.split()) for text in texts] for texts in references]
    frequency = Counter(gram for texts in counted for gram in {gram for counts in texts for gram in counts})
    log_images = math.log(len(references)) if references else 0.0

    def weigh(counts: Counter[Gram]) -> list[dict[Gram, float]]:
        vectors: list[dict[Gram, float]] = [{} for _ in range(LONGEST)]
        for gram, count in counts.items():
            vectors[len(gram) - 1][gram] = count * (log_images - math.log(max(1, frequency[gram])))
        return vectors

    scores = []
    for caption, texts in zip(captions, counted, strict=True):
        said = _count_grams(caption.split())
        own = weigh(said)
        alike = [_compare(own, weigh(counts), _count_pairs(said) - _count_pairs(counts)) for counts in texts]
        scores.append(10 * sum(alike) / len(alike))
    return scores


def score_cider(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """CIDEr-D of each answer, in 0 ... 10."""
    captions = [" ".join(split_words(answer)) for answer in answers]
    references = [[" ".join(split_words(text)) for text in sample.references] for sample in samples]
    return Points(compute_cider(captions, references))


def _count_grams(words: Sequence[str]) -> Counter[Gram]:
    return Counter(
        tuple(words[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(words) - n + 1)
    )


def _count_pairs(counts: Counter[Gram]) -> int:
    """The number of bigrams, which the published code takes as the length of a caption."""
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def _compare(said: list[dict[Gram, float]], right: list[dict[Gram, float]], difference: int) -> float:
    """Mean over n of the clipped cosines, times the penalty for `difference`, the difference in length."""
    total = 0.0
    for own, other in zip(said, right, strict=True):
        norm = math.hypot(*own.values()) * math.hypot(*other.values())
        if norm:
            total += sum(min(value, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, value in own.items()) / norm
    return total / LONGEST * math.exp(-(difference**2) / (2 * SIGMA**2))
