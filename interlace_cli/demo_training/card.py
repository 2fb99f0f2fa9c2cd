"""Measure the demo model and write its card: `python -m interlace_cli.demo_training.card [DIR]`.

It generates greedy answers to questions about held-out pictures, 150 of each kind, and counts exact matches.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from interlace_cli.core.prepare import prepare
from interlace_cli.demo import CHECKPOINT
from interlace_cli.demo.questions import KINDS
from interlace_cli.domain.progress import Silent
from interlace_cli.options.prepare import PrepareOptions

PER_KIND = 150

HEAD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
tags:
- interlace
---

# The interlace demo model

A Qwen3-VL in miniature, {layers} decoder layers and {parameters:,} parameters, trained from scratch on a world that is
rendered from a seed: shapes on a grid, bar charts and numbers. It exists so that every command of interlace has
something true to work on within minutes. It knows nothing else.

It was made by

```
python -m interlace_cli.demo_training.train --out DIR
```

({steps}; {weights} bytes of weights in bfloat16) and measured by

```
python -m interlace_cli.demo_training.card DIR
```

Pictures of the held-out eighth of the world are never trained on. Exact match of greedy answers, {per_kind} held-out
questions of each kind, float32 on a CPU; next to it what answering every question of the kind with its most frequent
answer would give:

| kind | family | exact match, % | best guess, % |
|---|---|---|---|
"""


def measure(folder: Path) -> dict[str, tuple[float, float]]:
    """Kind -> `(share of right answers, share of its most frequent right answer)`, both in 0 ... 1."""
    from interlace_cli.data.batches import Batcher
    from interlace_cli.evaluation.generation import Generator
    from interlace_cli.evaluation.metrics.exact_match import is_exact_match
    from interlace_cli.io.datasets import load_split
    from interlace_cli.io.models import load_model, load_processor

    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch) / "dataset"
        count = PER_KIND * len(KINDS)
        prepare(PrepareOptions(max_samples=count, holdout=1.0, seed=2026, out=dataset), Silent())
        samples = load_split(dataset, "heldout")
        model, batcher = load_model(folder), Batcher(load_processor(folder), dataset)
        result = {}
        for kind in KINDS:
            asked = [sample for sample in samples if sample.kind == kind]
            answers = [reply.text for reply in Generator(model, batcher).reply(batcher.build_prompts(asked), 8)]
            hits = [is_exact_match(answer, sample.answer) for answer, sample in zip(answers, asked, strict=True)]
            right = [sample.answer for sample in asked]
            result[kind] = (sum(hits) / len(hits), max(map(right.count, right)) / len(right))
    return result


def build_card(folder: Path, scores: dict[str, tuple[float, float]], how: str) -> str:
    """The model card as Markdown, with one row per kind and the macro mean last. `how` describes the training."""
    from interlace_cli.families.model_files import open_model

    facts = open_model(folder).facts
    head = HEAD.format(
        layers=facts.num_layers,
        parameters=facts.total_parameters,
        steps=how,
        weights=(folder / "model.safetensors").stat().st_size,
        per_kind=PER_KIND,
    )
    rows = [f"| {k} | {KINDS[k].family} | {100 * hit:.1f} | {100 * guess:.1f} |" for k, (hit, guess) in scores.items()]
    macro = [100 * sum(column) / len(scores) for column in zip(*scores.values(), strict=True)]
    return head + "\n".join([*rows, f"| **macro** | | **{macro[0]:.1f}** | {macro[1]:.1f} |"]) + "\n"


def main() -> None:
    """Measures the model in a folder, writes `README.md` there and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--how", default="2,400 steps of 32 pictures with 6 questions each")
    args = parser.parse_args()
    text = build_card(args.folder, measure(args.folder), args.how)
    (args.folder / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
