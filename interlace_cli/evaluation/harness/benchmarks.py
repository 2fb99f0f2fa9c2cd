"""The twelve benchmarks of INTERLACE (arXiv 2511.19676, main results table) and their names in two harnesses. Pure.

To add a benchmark, add a `HarnessBenchmark` to `PAPER`. lmms-eval has no MMBench V1.1; `mmbench_en_dev_static` is used
instead: the English dev set, scored without a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from interlace_cli.errors import UsageError

ResultLayout = Literal["overall", "hrbench", "ocrbench", "pope", "mia"]
"""How VLMEvalKit lays out a result file; `vlmevalkit.py` has a reader for each."""


@dataclass(frozen=True)
class HarnessBenchmark:
    """One benchmark of the paper, and how both harnesses name and score it.

    For lmms-eval: `task`, its `metric`, and the factor `scale` that turns the score into percent. For VLMEvalKit:
    `dataset`, its Python class `dataset_class`, the `layout` of the result file, and the factor `kit_scale` to percent.
    `is_judged`: an LLM judge scores the answers, so an API key is needed.
    """

    name: str
    category: str
    task: str
    metric: str
    scale: float
    dataset: str
    dataset_class: str
    layout: ResultLayout
    kit_scale: float
    is_judged: bool = False


TEXT, GENERAL, PERCEPTION, SCIENCE = "Text/Chart", "GVQA", "Perception", "Inst&Sci"
MCQ = "ImageMCQDataset"
PAPER = (
    HarnessBenchmark("AI2D", TEXT, "ai2d", "exact_match", 100, "AI2D_TEST", MCQ, "overall", 100),
    HarnessBenchmark(
        "ChartQA", TEXT, "chartqa", "relaxed_overall", 100, "ChartQA_TEST", "ImageVQADataset", "overall", 1
    ),
    HarnessBenchmark("OCRBench", TEXT, "ocrbench", "ocrbench_accuracy", 100, "OCRBench", "OCRBench", "ocrbench", 1),
    HarnessBenchmark(
        "TextVQA", TEXT, "textvqa_val", "exact_match", 100, "TextVQA_VAL", "ImageVQADataset", "overall", 1
    ),
    HarnessBenchmark(
        "MMBench", GENERAL, "mmbench_en_dev_static", "gpt_eval_score", 1, "MMBench_DEV_EN_V11", MCQ, "overall", 100
    ),
    HarnessBenchmark("POPE", GENERAL, "pope", "pope_f1_score", 100, "POPE", "ImageYORNDataset", "pope", 1),
    HarnessBenchmark("RealWorldQA", GENERAL, "realworldqa", "exact_match", 100, "RealWorldQA", MCQ, "overall", 100),
    HarnessBenchmark(
        "HRBench4K", PERCEPTION, "hrbench4k", "average", 100, "HRBench4K", "HRBenchDataset", "hrbench", 100
    ),
    HarnessBenchmark(
        "HRBench8K", PERCEPTION, "hrbench8k", "average", 100, "HRBench8K", "HRBenchDataset", "hrbench", 100
    ),
    HarnessBenchmark("V*", PERCEPTION, "vstar_bench", "vstar_overall_acc", 1, "VStarBench", MCQ, "overall", 100),
    HarnessBenchmark("MIABench", SCIENCE, "mia_bench", "gpt_eval_score", 100, "MIA-Bench", "MIABench", "mia", 1, True),
    HarnessBenchmark("ScienceQA", SCIENCE, "scienceqa_img", "exact_match", 100, "ScienceQA_TEST", MCQ, "overall", 100),
)
JUDGE_KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_API_KEY")


@dataclass(frozen=True)
class Asked:
    """One benchmark to run.

    `known` is the entry of `PAPER`, or None for a task that only the harness knows; then `metric` names the score to
    read, and None takes the first one.
    """

    name: str
    category: str
    known: HarnessBenchmark | None = None
    metric: str | None = None


def choose_benchmarks(text: str) -> list[Asked]:
    """The benchmarks that `--tasks` names, without repeats, in the order given.

    `text` is a comma-separated list. Each part is `paper` (all twelve), a name of the table, or a task of the harness
    itself; `task:metric` chooses one of its scores. Example: `POPE,mmmu_val:mmmu_acc`. Raises UsageError for an empty
    list.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    asked: list[Asked] = []
    for name in names:
        if name == "paper":
            asked += [Asked(one.name, one.category, one) for one in PAPER]
            continue
        known = find_benchmark(name)
        task, _, metric = name.partition(":")
        asked.append(Asked(known.name, known.category, known) if known else Asked(task, "tasks", None, metric or None))
    if not asked:
        raise UsageError("--tasks names no benchmark.", "Give `paper`, or names with commas between.")
    return list(dict.fromkeys(asked))


def find_benchmark(name: str) -> HarnessBenchmark | None:
    """The entry of `PAPER` whose name, lmms-eval task or VLMEvalKit dataset is `name`, ignoring case; else None."""
    lowered = name.lower()
    return next((one for one in PAPER if lowered in (one.name.lower(), one.task.lower(), one.dataset.lower())), None)


def group_by_category(asked: Sequence[Asked]) -> dict[str, list[str]]:
    """Category -> names of its benchmarks, both in the order of `asked`."""
    categories: dict[str, list[str]] = {}
    for one in asked:
        categories.setdefault(one.category, []).append(one.name)
    return categories
