"""Which samples one model can be given: every sample is rendered once, before the first step.

- A sample that the chat template or the processor cannot take is left out, with the reason.
- With a bound on length, a sample without a token of an answer within it is left out: it teaches nothing. A sample with
  a part of its answers within is kept; it loses the rest, and is counted.

If all samples fail alike, the model's files are at fault, not the data. Texts are kept by the `Batcher`. A processor
makes as many tokens of pictures of the same sizes, so it runs once for each combination of sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interlace_cli.data.batches import Batcher
from interlace_cli.data.found import Found, FoundFile
from interlace_cli.data.rendering import TextPart, TextSequence
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Advance, Progress
from interlace_cli.errors import CheckpointError, DatasetError, UnusableSampleError
from interlace_cli.io.datasets import list_image_headers
from interlace_cli.io.samples import choose
from interlace_cli.runtime.exchange import gather_values
from interlace_cli.runtime.gather_bytes import gather_bytes
from interlace_cli.runtime.processes import Processes, find_processes

if TYPE_CHECKING:
    import numpy as np

MOST_SIZES = 1 << 16
"""Combinations of sizes of pictures that are remembered: of photographs, each may have sizes of its own."""


@dataclass(frozen=True, eq=False)
class Usable:
    """`samples` can be used; `left_out` counts the others by reason. `shortened` of the used ones lose the end of an
    answer to the bound on length. `tokens` and `labels` of each used sample, within that bound; empty where there is
    none: uint32 [N]."""

    samples: Sequence[Sample]
    left_out: dict[str, int]
    shortened: int
    tokens: np.ndarray
    labels: np.ndarray

    def describe(self, what: str, max_length: int | None) -> str:
        """What a user has to know, `what` being the name of the samples; empty if all are used whole."""
        count = sum(self.left_out.values())
        total, sentences = count + len(self.samples), []
        bound = describe_bound(max_length)
        if unlabelled := self.left_out.get(bound, 0):
            sentences.append(f"{unlabelled} of {total} {what} have {bound} and are left out; raise --max-length.")
        others = {reason: n for reason, n in self.left_out.items() if reason != bound}
        if others:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in others.items())
            sentences.append(f"{sum(others.values())} of {total} {what} are left out: {reasons}.")
        if self.shortened:
            sentences.append(
                f"{self.shortened} of {total} {what} lose the end of an answer to --max-length {max_length}."
            )
        return " ".join(sentences)


def find_usable(
    batcher: Batcher,
    samples: Sequence[Sample],
    what: str,
    progress: Progress,
    is_dealt: bool = False,
    kept: FoundFile | None = None,
) -> Usable:
    """The samples that the model can be given, in their order; `progress` is told which are not, `what` being their
    name. `is_dealt`: all processes of this command call it, so each looks at its share and they tell each other.
    `kept`: where the first process has what an earlier call has found, or keeps it. Raises CheckpointError if none can
    and the reason is always the same, and DatasetError if there are several reasons, or if `--max-length` is too small
    for all."""
    here = find_processes() if is_dealt else Processes()
    known = None if kept is None else _recall(kept, len(samples), here)
    found = known or _look_together(batcher, samples, here, progress)
    usable = _choose(batcher, samples, found, what)
    if kept is not None and known is None and here.is_main:
        kept.save(found)
    if warning := usable.describe(what, batcher.max_length):
        progress.say(warning)
    return usable


def _recall(kept: FoundFile, count: int, here: Processes) -> Found | None:
    """What the first process finds there, in all of them."""
    known = kept.load(count) if here.is_main else None
    if here.size == 1:
        return known
    is_known = gather_values("whether it is known which samples can be used", known is not None)[0]
    return _gather(known or Found()) if is_known else None


def _look_together(batcher: Batcher, samples: Sequence[Sample], here: Processes, progress: Progress) -> Found:
    start, end = (len(samples) * rank // here.size for rank in (here.rank, here.rank + 1))
    found = Found()
    with progress.task("render", end - start, "samples") as advance:
        _look(batcher, samples[start:end], found, advance)
    return _gather(found) if here.size > 1 else found


def _look(batcher: Batcher, samples: Sequence[Sample], found: Found, advance: Advance) -> None:
    lengths = PromptLengths(batcher)
    for sample in samples:
        tokens = labels = 0
        is_used = False
        try:
            measured = [_measure(batcher, lengths, sample, sequence) for sequence in batcher.render(sample)]
        except UnusableSampleError as error:
            found.left_out[error.reason] += 1
        else:
            is_used = any(reach.share > 0 for reach in measured)
            if is_used:
                tokens, labels = sum(reach.tokens for reach in measured), sum(reach.labels for reach in measured)
                found.shortened += min(reach.share for reach in measured) < 1
            else:
                found.left_out[describe_bound(batcher.max_length)] += 1
        found.used.append(is_used)
        found.tokens.append(tokens)
        found.labels.append(labels)
        advance()


def _choose(batcher: Batcher, samples: Sequence[Sample], found: Found, what: str) -> Usable:
    import numpy as np

    is_used = np.frombuffer(bytes(found.used), bool)
    if not is_used.any():
        _refuse(batcher, found.left_out, what)
    tokens, labels = (np.array(values, np.uint32)[is_used] for values in (found.tokens, found.labels))
    if batcher.max_length is None:
        tokens, labels = tokens[:0], labels[:0]
    return Usable(choose(samples, is_used), dict(sorted(found.left_out.items())), found.shortened, tokens, labels)


def _gather(own: Found) -> Found:
    """What all processes have found, in the order of the samples."""
    whole, topic = Found(), "which samples can be used"
    for left_out, shortened in gather_values(topic, [own.left_out, own.shortened]):
        whole.left_out.update(left_out)
        whole.shortened += shortened
    for part in gather_bytes(topic, bytes(own.used)):
        whole.used += part
    for values, known in ((whole.tokens, own.tokens), (whole.labels, own.labels)):
        for part in gather_bytes(topic, known.tobytes()):
            values.frombytes(part)
    return whole


def describe_bound(max_length: int | None) -> str:
    """The reason for which a sample is left out that has no answer within the bound."""
    return f"no answer within {max_length} tokens"


class PromptLengths:
    """The number of tokens of prompts, pictures included."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        # Headers of pictures -> tokens beyond those of the text.
        self._surplus: dict[tuple[object, ...], int] = {}

    def count(self, sample: Sample, sequence: TextSequence) -> int:
        """Tokens of the sequence's first prompt. Raises UnusableSampleError if the processor cannot take it."""
        headers = tuple(list_image_headers(self.batcher.folder, sample, sequence.pictures))
        length = self.batcher.count_text(sequence.prompt)
        if headers not in self._surplus:
            if len(self._surplus) >= MOST_SIZES:
                self._surplus.clear()
            self._surplus[headers] = self.batcher.count_prompt(sample, sequence) - length
        return length + self._surplus[headers]


def find_reach(prompt: int, pieces: Sequence[tuple[int, int]], max_length: int | None) -> float:
    """The share of the labels that lie within `max_length` tokens. `pieces`: after `prompt` tokens, for each piece its
    number of tokens, and how many of its first ones are labels (0 for what is no answer)."""
    if max_length is None:
        return 1.0
    start, within, total = prompt, 0, 0
    for tokens, labels in pieces:
        within += max(min(labels, max_length - start), 0)
        total += labels
        start += tokens
    return within / total if total else 0.0


@dataclass(frozen=True)
class _Reach:
    """The share of a sequence's labels that lie within the bound on length; its tokens and labels within it."""

    share: float
    tokens: int = 0
    labels: int = 0


def _measure(batcher: Batcher, lengths: PromptLengths, sample: Sample, sequence: TextSequence) -> _Reach:
    """Without a bound nothing but the prompt is counted."""
    prompt = lengths.count(sample, sequence)
    if batcher.max_length is None:
        return _Reach(1.0)
    pieces = [_count_piece(batcher, piece) for piece in sequence.parts[1:]]
    share = find_reach(prompt, pieces, batcher.max_length)
    total, labels = prompt + sum(tokens for tokens, _ in pieces), sum(count for _, count in pieces)
    return _Reach(share, min(total, batcher.max_length), round(share * labels))


def _count_piece(batcher: Batcher, piece: TextPart) -> tuple[int, int]:
    tokens, labels = batcher.tokenize(piece)
    return len(tokens), labels


def _refuse(batcher: Batcher, left_out: Counter[str], what: str) -> None:
    total = left_out.total()
    (reason, count), *others = left_out.most_common()
    if reason == describe_bound(batcher.max_length):
        raise DatasetError(f"{count} of {total} {what} have {reason}, and no other can be used.", "Raise --max-length.")
    if others:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in left_out.most_common())
        raise DatasetError(f"none of the {total} {what} can be given to this model: {reasons}.", "Look at the data.")
    raise CheckpointError(
        f"none of the {total} {what} can be given to this model: {reason}.",
        f"All fail alike, so look at the model's files in {batcher.template.folder}, not at the data: its chat template"
        " and its processor's settings.",
    )
