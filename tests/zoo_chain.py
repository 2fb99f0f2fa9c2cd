"""An architecture of the zoo on disk, with a processor and samples for it, and every step that there is, run on them in
this process. transformers' own processors need files that we lack, so one stands in for them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import zoo
from making import make_analysis, make_cut, make_dataset, make_healed, make_planned_cut
from PIL import Image
from torch import Tensor

from interlace_cli.domain.progress import Silent
from interlace_cli.errors import InterlaceError, UnsupportedModelError
from interlace_cli.io.models import import_transformers
from interlace_cli.io.text_processor import TextProcessor

WORDS = [f"w{number}" for number in range(10, 50)]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}"
    "{{ c.text }}{% endif %}{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)

TEXT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Of a language model, whose turns are texts."""


def build_tokenizer() -> Any:
    """A token for each of WORDS, with the ids 10 to 49; and the template's marks."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    marks = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>"]
    vocabulary = {mark: number for number, mark in enumerate(marks)}
    vocabulary |= {word: number for number, word in enumerate(WORDS, start=10)}
    vocabulary["<image>"] = zoo.IMAGE
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = import_transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>", "<image>"],
        padding_side="left",
    )
    made.chat_template = TEMPLATE
    return made


class ZooProcessor:
    """Text is tokenized, padded on the left, with the pictures' inputs of `zoo.INPUTS`; where a picture takes tokens,
    it gets them."""

    def __init__(self, name: str, config: Any) -> None:
        self.name, self.config = name, config
        model = import_transformers().AutoModelForImageTextToText._model_mapping[type(config)]
        # As their processors do, for models that ask for the kinds of tokens.
        self.kinds = [one for one in inspect.signature(model.forward).parameters if one.endswith("token_type_ids")]
        self.tokenizer = build_tokenizer()
        self.image_processor = SimpleNamespace(size=None)
        self.image_token, self.chat_template = "<image>", TEMPLATE

    def apply_chat_template(self, messages: Any, tokenize: bool = False, **options: Any) -> Any:
        assert not tokenize
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def __call__(self, text: Any = None, images: Any = None, **options: Any) -> dict[str, Tensor]:
        del images
        count = zoo.IMAGE_TOKENS.get(self.name, lambda config: 0)(self.config)
        texts = [one.replace("<image>", "<image> " * count) for one in text]
        inputs = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        made = zoo.add_inputs(
            self.name, self.config, {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        )
        if "qformer_input_ids" in made:
            made["qformer_input_ids"] = torch.full((len(texts), 5), 11)
            made["qformer_attention_mask"] = torch.ones(len(texts), 5, dtype=torch.long)
        for field in self.kinds:
            made[field] = (made["input_ids"] == zoo.IMAGE).long()
        if "decoder_input_ids" in made and "input_ids" in made:
            made.pop("decoder_input_ids")
        return made

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        return list(self.tokenizer.batch_decode(ids, **options))


def build_processor(name: str, config: Any) -> Any:
    """Stands in for the processor of the architecture; a language model's is the tokenizer."""
    if name not in zoo.TEXT_NAMES:
        return ZooProcessor(name, config)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEXT_TEMPLATE
    return TextProcessor(tokenizer)


def write_samples(folder: Path, has_pictures: bool) -> Path:
    """Questions and answers of different lengths, each with a picture, or none."""
    folder.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for number in range(30):
        question = " ".join(WORDS[(number * 7 + i * 3) % 40] for i in range(4 + number % 5))
        answer = " ".join(WORDS[(number * 5 + i) % 40] for i in range(1 + number % 3))
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append({"id": str(number), "conversations": turns})
        if has_pictures:
            Image.new("RGB", (16, 16), (8 * number, 40, 90)).save(folder / f"{number}.png")
            turns[0]["value"] = f"<image>{question}"
            records[-1]["image"] = f"{number}.png"
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


def make_zoo_dataset(folder: Path, has_pictures: bool) -> Path:
    make_dataset(write_samples(folder / "source", has_pictures), folder / "dataset", calibration=0.2, holdout=0.2)
    return folder / "dataset"


STEPS = ("similarity", "loss", "taylor", "plan", "prune", "compensate", "ce", "distill", "anchor", "local", "eval")
TOGETHER = {"similarity": ("similarity", "loss", "taylor"), "distill": ("distill", "anchor", "local")}
"""Steps that are one call; each is made alone only if that call fails."""


@dataclass(frozen=True)
class Chain:
    """Every step of one architecture, in `folder`."""

    name: str
    folder: Path
    dataset: Path

    def save_model(self) -> Any:
        config = zoo.build_config(self.name)
        zoo.build_model(config).save_pretrained(self.folder / "dense")
        return config

    def run(self) -> dict[str, Exception | None]:
        """Step -> what it raised, or None."""
        found: dict[str, Exception | None] = {}
        for step in STEPS:
            if step in found:
                continue
            if step in TOGETHER and _try(getattr(self, f"_all_of_{step}")) is None:
                found |= dict.fromkeys(TOGETHER[step])
            else:
                found[step] = _try(getattr(self, f"_{step}"))
        return found

    def _all_of_similarity(self) -> None:
        self._analyze("loss", "taylor")

    def _all_of_distill(self) -> None:
        self._heal("local,distill+anchor", epochs=0.5)

    def _similarity(self) -> None:
        self._analyze()

    def _loss(self) -> None:
        self._analyze("loss")

    def _taylor(self) -> None:
        self._analyze("taylor")

    def _analyze(self, *importance: str) -> None:
        make_analysis(
            self.folder / "dense",
            self.dataset,
            self.folder / "analysis.json",
            batch_size=3,
            by=("kind",),
            importance=("similarity", *importance),
            search_ratio=0.25,
            loss_samples=4,
        )

    def _plan(self) -> None:
        from interlace_cli.core.plan import plan
        from interlace_cli.options import PlanOptions

        plan(PlanOptions(drop=1, selection="optimal", workspace=self.folder), Silent())

    def _prune(self) -> None:
        """As planned; where no single layer can be dropped, the first pair that can."""
        if (self.folder / "plan.json").exists():
            make_planned_cut(None, self.folder / "plan.json", self.folder / "pruned")
            return
        for first in range(2, zoo.LAYERS - 2):
            try:
                make_cut(self.folder / "dense", [first, first + 1], self.folder / "pruned")
            except UnsupportedModelError as error:
                refusal = error
            else:
                return
        raise refusal

    def _compensate(self) -> None:
        make_cut(
            self.folder / "dense",
            self._read_card()["dropped"],
            self.folder / "compensated",
            compensate="linear",
            dataset=self.dataset,
            samples=4,
            batch_size=2,
        )

    def _read_card(self) -> Any:
        return json.loads((self.folder / "pruned" / "interlace.json").read_text())

    def _ce(self) -> None:
        self._heal("ce")

    def _distill(self) -> None:
        self._heal("distill")

    def _anchor(self) -> None:
        self._heal("ce+anchor")

    def _local(self) -> None:
        self._heal("local")

    def _heal(self, objective: str, epochs: float = 0.25) -> None:
        behind = max(self._read_card()["dropped"]) + 1
        make_healed(
            self.folder / "pruned",
            self.dataset,
            self.folder / f"healed-{objective}",
            objective=objective,
            tune_layers=(behind,),
            batch_size=4,
            grad_accum=1,
            epochs=epochs,
            warmup=0.0,
            lr=1e-3,
        )

    def _eval(self) -> None:
        from interlace_cli.core.evaluate import evaluate
        from interlace_cli.options import EvaluateOptions

        named = (str(self.folder / "dense"), str(self.folder / "pruned"))
        options = EvaluateOptions(
            checkpoints=named,
            dataset=self.dataset,
            workspace=self.folder,
            out=self.folder / "eval.json",
            samples=4,
            batch_size=2,
            max_new_tokens=2,
            speed=False,
            allow_overlap=True,
        )
        evaluate(options, Silent())


def _try(step: Callable[[], None]) -> Exception | None:
    try:
        step()
    except Exception as error:
        return error
    return None


def describe(found: dict[str, Exception | None]) -> str:
    """The architecture's row of the table: what works, and why the rest does not."""
    cells = ["yes" if found[step] is None else "no" for step in STEPS]
    reasons: dict[str, list[str]] = {}
    for step, error in found.items():
        if error is not None:
            assert isinstance(error, InterlaceError), f"{step} failed: {error!r}"
            reasons.setdefault(_generalize(error.what), []).append(step)
    why = " ".join(f"{', '.join(steps)}: {reason}" for reason, steps in reasons.items())
    return f"| {' | '.join([*cells, why])} |"


def _generalize(reason: str) -> str:
    """Without what belongs to one random model: its classes and folder, and which of its layers were taken."""
    reason = re.sub(r"/\S*/", "", reason.replace("ZooProcessor", "its processor"))
    reason = re.sub(r"[A-Z]\w+For\w+", "the model", reason)
    return re.sub(r"\blayer \d+", "a layer", reason).replace("|", "/")
