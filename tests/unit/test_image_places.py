"""Images stand where their marks stand: in the stored form, and in what a model is given."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import make_dataset
from PIL import Image

from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.labels import keep_label_positions
from interlace_cli.domain.dataset import SPLITS, Sample, Turn
from interlace_cli.domain.image_marks import IMAGE_MARK, place_images, split_marks
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.datasets import load_images, load_manifest, load_split

SPEAKERS = ("human", "gpt")


def talk(*values: str) -> tuple[Turn, ...]:
    return tuple(Turn(speaker=SPEAKERS[i % 2], value=value) for i, value in enumerate(values))


def place(*values: str, images: int) -> list[str]:
    return [turn.value for turn in place_images(talk(*values), images)]


@pytest.mark.parametrize(
    ("values", "images", "stored"),
    [
        (["<image>\nWhat?", "A"], 1, ["What?", "A"]),
        (["What?", "A"], 2, ["What?", "A"]),
        ([" <image> <image>\n\nWhat? ", " A\n"], 2, ["What?", "A"]),
        (["What? <image>", "A"], 1, ["What? <image>", "A"]),
        (["Compare <image> with <image>.", "A"], 2, ["Compare <image> with <image>.", "A"]),
        (["<image>\nThis?", "A", "<image>And this?", "B"], 2, ["<image>\nThis?", "A", "<image>\nAnd this?", "B"]),
        (["<image><image>This?", "A", "And?", "B"], 2, ["This?", "A", "And?", "B"]),
        (["This?", "A", "<image> <image>And?", "B"], 2, ["This?", "A", "<image>\n<image>\nAnd?", "B"]),
        (["<image>\nThis, or <image>?", "A"], 2, ["<image>\nThis, or <image>?", "A"]),
    ],
)
def test_the_stored_form(values: list[str], images: int, stored: list[str]) -> None:
    assert place(*values, images=images) == stored
    assert place(*stored, images=images) == stored


@pytest.mark.parametrize(
    ("values", "images", "reason"),
    [
        (["<image><image><image>\nWhat?", "A"], 2, "3 <image> marks, 2 images"),
        (["<image>\nWhat?", "A"], 8, "1 <image> mark, 8 images"),
        (["What is <image> in HTML?", "A"], 0, "<image> in the text of a record without images"),
        (["What?", "<image> it is"], 1, "<image> in a system turn or an answer"),
        (["<image>", " "], 1, "a turn has no text"),
        (["What?", " "], 1, "a turn has no text"),
    ],
)
def test_a_place_that_cannot_be_told(values: list[str], images: int, reason: str) -> None:
    with pytest.raises(UnusableRecordError) as error:
        place(*values, images=images)
    assert str(error.value) == reason


letters = st.text("ab \n", max_size=6)
questions = st.lists(st.one_of(st.none(), letters.map(lambda text: f"x{text}x")), min_size=1, max_size=6)


@given(st.lists(questions, min_size=1, max_size=4))
def test_what_goes_in_comes_out(turns: list[list[str | None]]) -> None:
    """Texts that begin and end with a letter: nothing of them is white space around a mark."""
    values, images = [], sum(parts.count(None) for parts in turns)
    for parts in turns:
        parts += [] if any(parts) else ["x"]
        values += ["".join(IMAGE_MARK if part is None else part for part in parts), "yes"]
    stored = place_images(talk(*values), images)
    sample = Sample(id="", image=["i"] * images, conversations=list(stored), source="")
    for asked, found in zip(turns, sample.parts[::2], strict=True):
        assert list(join_texts(found)) == list(join_texts(asked))
    assert sum(parts.count(None) for parts in sample.parts) == images
    assert place_images(stored, images) == stored


def join_texts(parts: list[str | None]) -> list[str | None]:
    """Neighbouring texts as one."""
    joined: list[str | None] = []
    for part in parts:
        if part is not None and joined and joined[-1] is not None:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


@given(st.text("<image>\n a", max_size=30))
def test_splitting_keeps_every_mark(text: str) -> None:
    parts = split_marks(text)
    assert parts.count(None) == text.count(IMAGE_MARK)
    kept = "".join(part or IMAGE_MARK for part in parts)
    assert kept.replace(" ", "").replace("\n", "") == text.replace(" ", "").replace("\n", "")


TALKS: dict[str, tuple[list[str], list[int]]] = {
    "first": (["<image>\nWhat shape is at a1?", "red circle"], [0]),
    "no image": (["How many circles are there?", "three"], []),
    "later": (["<image>\nWhat is there?", "a red circle", "<image>\nAnd what is left of it?", "a blue circle"], [0, 1]),
    "only later": (["How many?", "two", "How many circles are in <image> and <image>?", "none", "And?", "17"], [1, 2]),
    "alone": (["<image>\n", "a circle", "<image>\n", "a square"], [1, 0]),
    "between": (["Is <image> left of <image>?", "no", "What color?", "blue"], [2, 0]),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conversations above, prepared, and prepared once more from what came of it."""
    folder = tmp_path_factory.mktemp("places")
    for number, size in enumerate([(64, 64), (96, 64), (64, 128)]):
        Image.effect_noise(size, 90).convert("RGB").save(folder / f"{number}.png")
    records = [
        {
            "id": name,
            "image": [f"{number}.png" for number in images],
            "conversations": [{"from": SPEAKERS[i % 2], "value": value} for i, value in enumerate(values)],
        }
        for name, (values, images) in TALKS.items()
    ]
    (folder / "data.json").write_text(json.dumps(records))
    make_dataset(folder / "data.json", folder / "dataset", calibration=0.0, holdout=0.0)
    return folder / "dataset"


def list_samples(folder: Path) -> dict[str, Sample]:
    manifest = load_manifest(folder)
    return {s.id: s for name in SPLITS if manifest.splits[name].samples for s in load_split(folder, name)}


def test_a_prepared_dataset_read_again_gives_the_same_samples(dataset: Path, tmp_path: Path) -> None:
    assert make_dataset(dataset, tmp_path / "again", calibration=0.0, holdout=0.0).notes == []
    again, once = list_samples(tmp_path / "again"), list_samples(dataset)
    assert once.keys() == TALKS.keys()
    for name, sample in once.items():
        assert again[name].image == sample.image
        assert again[name].conversations == sample.conversations
        assert [image.size for image in load_images(dataset, sample)] == [
            [(64, 64), (96, 64), (64, 128)][number] for number in TALKS[name][1]
        ]


@cache
def build_processors() -> dict[str, Any]:
    """With the demo's words: the demo's own, LLaVA's, InternVL's, which cuts an image into tiles, and that of LLaVA
    OneVision, which does so unless a conversation has several."""
    from interlace_cli.demo.model import build_processor
    from interlace_cli.io.models import import_transformers

    transformers = import_transformers()
    demo = build_processor()
    template = demo.chat_template.replace("<|vision_start|>", "").replace("<|vision_end|>", "")
    tokenizer = copy.deepcopy(demo.tokenizer)
    names = {"start_image": "<|vision_start|>", "end_image": "<|vision_end|>", "context_image": "<|image_pad|>"}
    for name, token in {**names, "video": "<|video_pad|>"}.items():
        setattr(tokenizer, f"{name}_token", token)
        setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
    side = {"height": 32, "width": 32}
    onevision = transformers.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=[[32, 64], [64, 32]])
    tiles = transformers.GotOcr2ImageProcessor(size=side, min_patches=1, max_patches=4)
    clip = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side)
    words = {"image_token": "<|image_pad|>", "chat_template": template}
    # Some versions of transformers ask for it where they can build one.
    has_video = transformers.utils.is_torchvision_available()
    return {
        "demo": demo,
        "llava": transformers.LlavaProcessor(
            clip,
            demo.tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            **words,
        ),
        "llava_onevision": transformers.LlavaOnevisionProcessor(
            onevision,
            demo.tokenizer,
            transformers.LlavaOnevisionVideoProcessor() if has_video else None,
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            **words,
        ),
        "internvl": transformers.InternVLProcessor(
            tiles,
            tokenizer,
            transformers.InternVLVideoProcessor() if has_video else None,
            image_seq_length=4,
            chat_template=template,
        ),
    }


PROCESSORS = ("demo", "llava", "llava_onevision", "internvl")


def encode_plainly(processor: Any, folder: Path, samples: list[Sample], is_prompt: bool) -> dict[str, torch.Tensor]:
    """By transformers alone, from messages written by hand."""
    texts, images = [], []
    for sample in samples:
        values, numbers = TALKS[sample.id]
        messages = []
        for index, value in enumerate(values[:1] if is_prompt else values):
            parts: list[dict[str, str]] = []
            for number, text in enumerate(value.replace("<image>\n", "<image>").split("<image>")):
                parts += [{"type": "image"}] if number else []
                parts += [{"type": "text", "text": text}] if text else []
            messages.append({"role": ("user", "assistant")[index % 2], "content": parts})
        texts.append(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt))
        shown = sum(part["type"] == "image" for message in messages for part in message["content"])
        images.append([Image.open(folder.parent / f"{n}.png").convert("RGB") for n in numbers[:shown]])
    words = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    return dict(processor(text=texts, images=images if any(images) else None, **words))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("chosen", [("later",), ("only later",), ("between",), tuple(TALKS)], ids=" ".join)
def test_a_model_is_given_what_transformers_makes_of_the_whole(
    name: str, chosen: tuple[str, ...], dataset: Path
) -> None:
    processor, found = build_processors()[name], list_samples(dataset)
    samples, batcher = [found[sample] for sample in chosen], Batcher(processor, dataset)
    prompts, whole = batcher.build_prompts(samples), batcher.build_conversations(samples)
    del whole["labels"]
    for batch, is_prompt in ((prompts, True), (whole, False)):
        plain = encode_plainly(processor, dataset, samples, is_prompt)
        assert batch.keys() == plain.keys()
        for field, value in plain.items():
            assert torch.equal(batch[field], value), (field, is_prompt)
    for sample in samples:
        labels = torch.cat([sequence["labels"][0] for sequence in batcher.build_sequences(sample)])
        said = processor.tokenizer.decode(labels[labels != IGNORE])
        assert said == "".join(f"{answer}<|im_end|>" for answer in TALKS[sample.id][0][1::2])


def test_the_loss_that_is_measured_has_each_answer_once(dataset: Path) -> None:
    """Also where a conversation becomes several sequences, since later turns have images: two truths, what healing
    learns of each sample alone, and the answers as they were written."""
    from interlace_cli.demo import CHECKPOINT
    from interlace_cli.evaluation.quality import compute_loss, measure_quality
    from interlace_cli.io.models import load_model

    samples, model = list(list_samples(dataset).values()), load_model(CHECKPOINT)
    batcher = Batcher(build_processors()["demo"], dataset)
    parts = [keep_label_positions(batch) for sample in samples for batch in batcher.build_sequences(sample)]
    assert len(parts) == len(samples) + 3
    losses = [compute_loss(model, part) for part in parts]
    found = measure_quality(model, batcher, samples, 3, 2, lambda count: None, print)
    assert found.tokens == sum(count for _, count in losses)
    assert found.tokens == sum(
        len(batcher.tokenizer(f"{answer}<|im_end|>")["input_ids"])
        for values, _ in TALKS.values()
        for answer in values[1::2]
    )
    assert found.loss == pytest.approx(sum(loss * count for loss, count in losses) / found.tokens, rel=1e-3)
