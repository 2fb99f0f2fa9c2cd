"""The verdicts of published metrics on `metric_replies`, by lmms-eval and pycocoevalcap, which have to be installed.

`python tests/published_metrics.py` writes them into `golden/published_metrics.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metric_replies import build_answers, build_captions, build_choices, build_yes_no

GOLDEN = Path(__file__).parent / "golden/published_metrics.json"
PACKAGES = ("lmms-eval", "pycocoevalcap")


def _find_choices() -> list[int | None]:
    """MMMU's parser. Where it draws a letter at random it has found none: None."""
    from lmms_eval.tasks._task_utils import mmmu_mcq_utils

    class Drawn:
        @staticmethod
        def choice(letters: list[str]) -> None:
            return None

    plain, mmmu_mcq_utils.random = mmmu_mcq_utils.random, Drawn
    try:
        found = []
        for item in build_choices():
            letters = [chr(65 + index) for index in range(len(item["choices"]))]
            texts = dict(zip(letters, item["choices"], strict=True))
            letter = mmmu_mcq_utils.parse_mmmu_multi_choice_response(item["reply"], letters, texts)
            found.append(None if letter is None else letters.index(letter))
        return found
    finally:
        mmmu_mcq_utils.random = plain


def _match_exactly() -> list[float]:
    """RealWorldQA's open answers."""
    from lmms_eval.tasks.realworldqa.utils import realworldqa_process_results as score

    return [score({"answer": one["answer"]}, [one["reply"]])["exact_match"] for one in build_answers()]


def _match_relaxed() -> list[float]:
    """ChartQA's relaxed correctness."""
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    return [float(relaxed_correctness(one["reply"], one["answer"])) for one in build_answers()]


def _compute_anls() -> list[float]:
    """DocVQA's ANLS, against all that the ten people said."""
    from lmms_eval.api.metrics import anls

    return [round(float(anls(one["answers"], [one["reply"]])["anls"]), 9) for one in build_answers()]


def _compute_vqa() -> list[float]:
    """TextVQA's accuracy over ten people."""
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results as score

    docs = [({"answers": list(one["answers"]), "question_id": 0}, one["reply"]) for one in build_answers()]
    return [round(float(score(doc, [reply])["exact_match"]), 9) for doc, reply in docs]


def _say_yes_or_no() -> list[float]:
    """POPE's accuracy, reply by reply."""
    from lmms_eval.tasks.pope.utils import pope_process_results as score

    docs = [{"answer": one["answer"], "question_id": 0} for one in build_yes_no()]
    replies = [one["reply"] for one in build_yes_no()]
    return [score(doc, [reply])["pope_accuracy"]["score"] for doc, reply in zip(docs, replies, strict=True)]


def _compute_cider() -> list[float]:
    """CIDEr-D of captions that are split into words already."""
    from pycocoevalcap.cider.cider import Cider

    from interlace_cli.evaluation.metrics.cider import split_words

    items = build_captions()
    right = {i: [" ".join(split_words(text)) for text in item["references"]] for i, item in enumerate(items)}
    said = {i: [" ".join(split_words(item["reply"]))] for i, item in enumerate(items)}
    return [round(float(value), 9) for value in Cider().compute_score(right, said)[1]]


PUBLISHED: dict[str, Callable[[], list[Any]]] = {
    "multiple_choice": _find_choices,
    "exact_match": _match_exactly,
    "relaxed_accuracy": _match_relaxed,
    "anls": _compute_anls,
    "vqa_accuracy": _compute_vqa,
    "yes_no_accuracy": _say_yes_or_no,
    "cider": _compute_cider,
}


def _main() -> None:
    found = {name: make() for name, make in PUBLISHED.items()}
    golden = {"packages": {name: version(name) for name in PACKAGES}, "verdicts": found}
    GOLDEN.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    from interlace_cli.io.models import import_transformers

    # lmms-eval imports torchvision, whose build may not fit torch's.
    import_transformers()
    _main()
