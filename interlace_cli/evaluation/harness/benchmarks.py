"""The paper's twelve benchmarks, and what two harnesses call them. Pure: a table, and how it is asked.

lmms-eval has no MMBench V1.1; its nearest, the English dev set answered without a judge, stands in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from interlace_cli.errors import UsageError

Layout = Literal["overall", "hrbench", "ocrbench", "pope", "mia"]


@dataclass(frozen=True)
class HarnessBenchmark:
    """`task` and `metric` are lmms-eval's, `scale` what makes its score percent; `dataset` is VLMEvalKit's, of the
    class
    `dataset_class`, its result file laid out as `layout`, `kit_scale` what makes that percent. `is_judged`: scored by
    another model, through a key."""

    name: str
    category: str
    task: str
    metric: str
    scale: float
    dataset: str
    dataset_class: str
    layout: Layout
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
    """One benchmark to run: of the paper's, or a task of the harness itself (`metric` None: its first)."""

    name: str
    category: str
    known: HarnessBenchmark | None = None
    metric: str | None = None


def choose_benchmarks(text: str) -> list[Asked]:
    """`paper`; or names with commas between: of the paper's table, or the harness's own, `task:metric` if it has
    several.

    Raises UsageError for an empty list.
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
    """By any of its names."""
    lowered = name.lower()
    return next((one for one in PAPER if lowered in (one.name.lower(), one.task.lower(), one.dataset.lower())), None)


def group_by_category(asked: Sequence[Asked]) -> dict[str, list[str]]:
    """Category -> names, both in the order of the call."""
    categories: dict[str, list[str]] = {}
    for one in asked:
        categories.setdefault(one.category, []).append(one.name)
    return categories
