"""The model card of an exported checkpoint: what it is, how it was made, its quality and speed, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interlace_cli import __version__
from interlace_cli.domain.checkpoint import CheckpointCard, Healing
from interlace_cli.domain.evaluation import Evaluation, Result
from interlace_cli.domain.layers import describe_layers
from interlace_cli.report.answers import describe_answers
from interlace_cli.report.caveats import describe_caution, describe_caveats, describe_overlap, describe_samples
from interlace_cli.report.cells import RESULT_COLUMNS, build_benchmark_lines, build_result_cells


@dataclass(frozen=True)
class ServingEngine:
    """A program that serves the exported files.

    `state` says whether it was tried with these files (`tried: ...` or `not tried`). In `command`, `{name}` stands for
    the model's name.
    """

    name: str
    state: str
    command: str


PAPER = "INTERLACE (CVPR 2026, arXiv:2511.19676)"


def build_card(
    card: CheckpointCard,
    evaluation: Evaluation | None,
    name: str,
    base_model: str,
    metadata: str,
    engines: Sequence[ServingEngine] = (),
    is_text_only: bool = False,
) -> str:
    """The card as Markdown.

    `is_text_only` says whether it is a language model that reads no images.
    `metadata` is the YAML header (`card_metadata.py`), `name` the exported model's name and `base_model` that of the
    dense one. `evaluation` None gives a card that says "Not evaluated."
    """
    parts = [
        metadata,
        f"# {name}",
        _introduction(card, base_model),
        _layers(card),
        _healing(card.healing, is_text_only),
        _table(evaluation),
        _benchmarks(evaluation),
        (_TEXT_USAGE if is_text_only else _USAGE).format(name=name),
        _serving(name, engines),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(card: CheckpointCard, base_model: str) -> str:
    dense, left = card.base.num_layers, len(card.dense_index)
    kind = "decoder" if card.stack == "language" else card.stack
    healed = "and healed by a short fine-tune" if card.healing else "and not healed"
    return (
        f"`{base_model}` with {left} of its {dense} {kind} layers, pruned by [interlace] {__version__} with"
        f" the method of {PAPER} {healed}. It is a plain checkpoint: transformers alone loads it.\n\n"
        "[interlace]: https://arxiv.org/abs/2511.19676"
    )


def _layers(card: CheckpointCard) -> str:
    tuned = [card.dense_index[position] for position in card.tune]
    rows = [
        "## Layers",
        "",
        "Layers are named by their 0-based index in the dense model.",
        "",
        "| | |",
        "|---|---|",
        f"| base model | {card.base.name}, {card.base.model_type}, {card.base.num_layers} layers |",
        f"| strategy | {card.strategy} |",
        f"| ratio | {card.ratio:.1%} |",
        f"| dropped | {describe_layers(card.dropped)} |",
        f"| tuned | {describe_layers(tuned)} |",
        f"| dense index of each position | {', '.join(map(str, card.dense_index))} |",
    ]
    return "\n".join([*rows, *("\n" + note for note in card.notes)])


def _healing(healing: Healing | None, is_text_only: bool) -> str:
    if healing is None:
        return ""
    settings = {name: value for name, value in healing.recipe.items() if not (is_text_only and "pixels" in name)}
    recipe = ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))
    at = f" at {healing.dataset_revision[:12]}" if healing.dataset_revision else ""
    data = (healing.dataset_location or healing.dataset) + at
    return (
        f"## Healing\n\nObjective {healing.recipe.get('objective', 'ce')} on {healing.samples} conversations ({data}),"
        f" {healing.steps} steps; loss {healing.losses[0]:.3f} → {healing.losses[1]:.3f};"
        f" {healing.trained_parameters:,} parameters trained; every other tensor is bit-identical."
        f"\n\nRecipe: {recipe}." + "".join(f"\n\n**{describe_caution(caution)}**" for caution in healing.cautions)
    )


def _table(evaluation: Evaluation | None) -> str:
    if evaluation is None or not evaluation.results:
        return "" if evaluation else "## What it cost\n\nNot evaluated."
    head = ["## What it cost", ""]
    head += [f"| | {' | '.join(RESULT_COLUMNS)} |", "|---" * (len(RESULT_COLUMNS) + 1) + "|"]
    count = sum(evaluation.samples.values())
    metrics = "exact match" if evaluation.is_exact_match else ", ".join(sorted(set(evaluation.metrics.values())))
    note = (
        f"Score: {metrics} of {describe_answers(evaluation)} in percent, macro mean over {len(evaluation.samples)}"
        f" kinds, on {count} {describe_samples(evaluation)}. Retention: mean over kinds of score / score of"
        f" {evaluation.results[0].name}."
        f" All rows were measured in one run on {evaluation.device}, {evaluation.dtype}."
    )
    warnings = [*describe_overlap(evaluation), *describe_caveats(evaluation)]
    return "\n".join([*head, *map(_row, evaluation.results), "", note, *(f"\n**{line}**" for line in warnings)])


def _row(result: Result) -> str:
    return f"| {' | '.join([result.name, *build_result_cells(result)])} |"


def _benchmarks(evaluation: Evaluation | None) -> str:
    found = evaluation.benchmarks if evaluation else None
    if found is None:
        return ""
    head = [f"| | {' | '.join(row.name for row in found.rows)} |", "|---" * (len(found.rows) + 1) + "|"]
    lines = [
        f"| {f'**{name}**' if is_mean else name} | {' | '.join(cells)} |"
        for name, is_mean, cells in build_benchmark_lines(found)
    ]
    note = f"{found.harness} {found.version or ''}".strip() + f"; in brackets: percent of {found.rows[0].name}'s score."
    return "\n".join(["## Benchmarks", "", *head, *lines, "", note])


def _serving(name: str, engines: Sequence[ServingEngine]) -> str:
    """A table of the commands that serve the model."""
    if not engines:
        return ""
    rows = [f"| {engine.name} | {engine.state} | `{engine.command.format(name=name)}` |" for engine in engines]
    return "\n".join(["## Serve", "", "| engine | with these files | command |", "|---|---|---|", *rows])


_USAGE = """## Use

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

path = "{name}"  # this folder, or its name on the Hub
processor = AutoProcessor.from_pretrained(path)
model = AutoModelForImageTextToText.from_pretrained(path)

image = Image.open("picture.png").convert("RGB")
content = [{{"type": "image", "image": image}}, {{"type": "text", "text": "What is this?"}}]
messages = [{{"role": "user", "content": content}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```"""
_TEXT_USAGE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "{name}"  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)

if tokenizer.chat_template:
    messages = [{{"role": "user", "content": "Where does tea come from?"}}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
else:
    inputs = tokenizer("Tea comes from", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
