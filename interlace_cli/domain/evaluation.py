"""What an evaluation says of each checkpoint."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from interlace_cli.domain.record import Artifact, Record, Settings


class Speed(Record):
    """Medians over repeats of one prompt with one image, batch 1; the checkpoints taking turns (`in_turns`), or each by
    itself where their memory did not do for that.

    `peak_memory_bytes`: on a GPU what the allocator held at most; on a CPU the weights and the growth of the
    process while generating, None where the system does not tell.
    """

    ttft_ms: float
    tokens_per_second: float
    peak_memory_bytes: int | None
    repeats: int
    prompt_tokens: int
    new_tokens: int
    in_turns: bool = True


class Generation(Record):
    """How a checkpoint's answers were generated. `config`: `greedy`, or `model` for the model's own generation config,
    whose `fields` were then used. An answer ends at one of `stop_ids`, the tokens `stop_tokens`."""

    config: str
    stop_ids: list[int]
    stop_tokens: list[str]
    fields: Settings = {}


class Result(Record):
    """One checkpoint's figures. `kinds` holds the score of each kind by its metric, `score` their macro mean, `loss`
    the mean cross-entropy of a token of all answers, each behind the prompt that its generation would have (None for a
    model that generates nothing); `retention` is in percent of
    the first checkpoint, the mean over kinds of the ratio. `trained_on` and `calibrated_on`: how many of the samples it
    had seen so (`io/sample_keys.py`). `cut` of the answers came to `--max-new-tokens` before they ended, and `empty`
    hold no text; `generation` is None for a model that generates nothing."""

    name: str
    location: str
    revision: str | None = None
    fingerprint: str
    layers: int
    parameters: int
    bytes: int
    score: float
    loss: float | None
    kinds: dict[str, float]
    retention: float | None = None
    retention_interval: tuple[float, float] | None = None
    trained_on: int = 0
    calibrated_on: int = 0
    cut: int = 0
    empty: int = 0
    generation: Generation | None = None
    speed: Speed | None = None

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token in milliseconds, if it was measured."""
        return self.speed.ttft_ms if self.speed else None


class KeptAnswers(Record):
    """What a checkpoint answered, scored: `points` and `weights` by sample, the other fields as `Result` has them."""

    kinds: list[str]
    points: list[float]
    weights: list[float] | None
    loss: float | None
    cut: int
    empty: int
    generation: Generation | None


class UnfinishedEvaluation(Artifact):
    """The answers of those checkpoints that have answered, by the digests of their files."""

    KIND: ClassVar[str] = "interlace.answers"
    SCHEMA: ClassVar[int] = 1

    answers: dict[str, KeptAnswers] = {}


class KeptBatch(Record):
    """What a checkpoint (by the digests of its files) made of a batch: samples of task number `task` by their index.
    `replies` are `(text, whether it was cut)` of each sample; `losses` `(mean loss, tokens)` of each part that the
    batch was run in."""

    checkpoint: str
    task: int
    samples: list[int]
    replies: list[tuple[str, bool]]
    losses: list[tuple[float, int]]


class BenchmarkRow(Record):
    """One checkpoint's benchmarks, in 0 ... 100: `scores` of those that were run, `errors` their standard errors where
    the harness gives them, `categories` the means over the benchmarks of each that every checkpoint has, `average` that
    over all of those. `retention` is in percent of the first row, benchmark by benchmark, `relative` the mean of these
    ratios."""

    name: str
    fingerprint: str | None
    scores: dict[str, float]
    errors: dict[str, float] = {}
    categories: dict[str, float] = {}
    average: float | None = None
    retention: dict[str, float] = {}
    category_retention: dict[str, float] = {}
    relative: float | None = None


class Benchmarks(Record):
    """What outside harnesses found. `harness` -> what was asked of it; `categories`: category -> benchmarks;
    `not_run`: benchmark -> why there is no score, for one checkpoint at least."""

    harness: str
    version: str | None
    settings: dict[str, str]
    categories: dict[str, list[str]]
    rows: list[BenchmarkRow] = Field(min_length=1)
    not_run: dict[str, str] = {}


class Evaluation(Artifact):
    """Results in the order of the call; the first is what the others are compared with. `samples` and `metrics` are by
    kind; `categories`: category -> kinds, where tasks have them; `versions` of what computed
    them. `left_out` counts samples that a checkpoint cannot be given, by reason; `cautions` say where a figure says
    less than it seems to. There may be benchmarks and no results."""

    KIND: ClassVar[str] = "interlace.evaluation"
    SCHEMA: ClassVar[int] = 2

    device: str = ""
    dtype: str = ""
    versions: dict[str, str] = {}
    samples: dict[str, int] = {}
    left_out: dict[str, int] = {}
    cautions: list[str] = []
    metrics: dict[str, str] = {}
    categories: dict[str, list[str]] = {}
    results: list[Result] = []
    benchmarks: Benchmarks | None = None

    @property
    def is_exact_match(self) -> bool:
        """Whether every kind is scored by exact match."""
        return set(self.metrics.values()) <= {"exact_match"}
