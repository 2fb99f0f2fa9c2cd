"""The built-in world and the model that was trained on it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from interlace_cli.data.batches import Batcher
from interlace_cli.demo import CHECKPOINT
from interlace_cli.demo.model import build_config, build_processor
from interlace_cli.demo.questions import KINDS
from interlace_cli.demo.world import FAMILIES, SIZE, build_picture, draw, is_heldout
from interlace_cli.demo_training.train import Curriculum, Packer, compute_losses, init_weights, sample_batch, schedule
from interlace_cli.evaluation.aggregation import Points, score_kinds, score_macro
from interlace_cli.evaluation.generation import Generator
from interlace_cli.evaluation.metrics.exact_match import is_exact_match
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor


def test_there_are_kinds_enough_in_three_families() -> None:
    assert len(KINDS) >= 12
    assert {kind.family for kind in KINDS.values()} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_one_picture_and_pictures_differ(family: str) -> None:
    pictures = [build_picture(family, random.Random(seed)) for seed in range(200)]
    assert pictures == [build_picture(family, random.Random(seed)) for seed in range(200)]
    assert len(set(pictures)) > 150
    pixels = [draw(picture).tobytes() for picture in pictures]
    assert len(set(pixels)) == len(set(pictures)), "what differs also looks different"
    assert draw(pictures[0]).size == (SIZE, SIZE)


def test_an_eighth_of_the_world_is_held_out() -> None:
    rng = random.Random(0)
    share = sum(is_heldout(build_picture(rng.choice(FAMILIES), rng)) for _ in range(4000)) / 4000
    assert 0.10 < share < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_is_answered_by_one_guess(kind: str) -> None:
    rng = random.Random(kind)
    answers = Counter(KINDS[kind].ask(build_picture(KINDS[kind].family, rng), rng)[1] for _ in range(1000))
    assert answers.most_common(1)[0][1] < 620


def test_every_question_and_answer_has_an_encoding_that_comes_back() -> None:
    tokenizer = build_processor().tokenizer
    rng = random.Random(0)
    for kind in KINDS.values():
        question, answer = kind.ask(build_picture(kind.family, rng), rng)
        for text in (question, answer, "Zürich, naïve & 漢字"):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_questions_that_share_a_picture_do_not_see_each_other() -> None:
    """The packed rows of the training give each answer the loss that it has alone, through the real processor."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    processor = build_processor()
    model = AutoModelForImageTextToText.from_config(build_config(), attn_implementation="eager").eval()
    init_weights(model)
    picture = build_picture("shapes", random.Random(1))
    asked = [(name, *KINDS[name].ask(picture, random.Random(2))) for name in ("what_at", "where", "exists")]
    packed = compute_losses(model, Packer(processor).build([picture], [asked]))
    alone = []
    for _, question, answer in asked:
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        prompt = processor(text=[text], images=[draw(picture)], return_tensors="pt")
        reply = [*processor.tokenizer.encode(answer), processor.tokenizer.eos_token_id]
        ids = torch.cat([prompt["input_ids"], torch.tensor([reply])], 1)
        types = torch.nn.functional.pad(prompt["mm_token_type_ids"], (0, len(reply)))
        with torch.inference_mode():
            logits = model(
                input_ids=ids,
                mm_token_type_ids=types,
                pixel_values=prompt["pixel_values"],
                image_grid_thw=prompt["image_grid_thw"],
            ).logits[0]
        start = prompt["input_ids"].shape[1] - 1
        alone.append(torch.nn.functional.cross_entropy(logits[start:-1], torch.tensor(reply), reduction="none"))
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=0)


def test_the_curriculum_asks_more_of_what_is_hard() -> None:
    curriculum = Curriculum()
    for _ in range(500):
        for kind in KINDS:
            curriculum.update(kind, 1.0 if kind == "where" else 0.0)
    rng = random.Random(0)
    drawn = Counter(curriculum.sample_kinds("shapes", 2000, rng))
    assert drawn["where"] > 5 * drawn["count"] > 0


def test_training_never_draws_a_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    packer, seen = Packer(build_processor()), []
    monkeypatch.setattr(packer, "build", lambda pictures, asked: seen.extend(pictures))
    for step in range(40):
        sample_batch(packer, Curriculum(), random.Random(step), 32, 1)
    assert len(seen) == 40 * 32
    assert not any(map(is_heldout, seen))


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    assert schedule(0.01) == pytest.approx(0.5)
    assert schedule(0.3) == 1.0
    assert schedule(1.0) == 0.0


def test_the_shipped_folder_is_complete_and_plain_transformers_loads_it() -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    names = {path.name for path in CHECKPOINT.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "chat_template.jinja",
        "README.md",
    } <= names
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 6_000_000
    model, report = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.model_type == "qwen3_vl"
    assert model.config.text_config.num_hidden_layers >= 16
    assert (
        AutoProcessor.from_pretrained(CHECKPOINT).tokenizer.vocab_size
        == AutoTokenizer.from_pretrained(CHECKPOINT).vocab_size
    )


def test_the_shipped_model_answers_held_out_questions(small_dataset: Path) -> None:
    """On few samples here; `interlace run` measures it on many, and the folder's README says what it got."""
    samples = load_split(small_dataset, "heldout")
    batcher = Batcher(load_processor(CHECKPOINT), small_dataset)
    replies = Generator(load_model(CHECKPOINT), batcher).reply(batcher.build_prompts(samples), 8)
    answers = [reply.text for reply in replies]
    hits = [is_exact_match(answer, sample.answer) for answer, sample in zip(answers, samples, strict=True)]
    assert score_macro(score_kinds(Points(hits), [sample.kind for sample in samples])) > 0.85
