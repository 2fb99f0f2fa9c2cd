"""A row of a padded batch is what it is alone, or samples are run one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo
from making import make_dataset
from mllama import save_mllama_chain_model
from workspaces import write_source
from zoo_chain import ZooProcessor, build_processor, make_zoo_dataset

from interlace_cli.data.batches import Batcher
from interlace_cli.data.padding import HARMLESS, Padding, choose_padding, choose_trial, find_padding
from interlace_cli.demo import CHECKPOINT
from interlace_cli.errors import UnusableSampleError
from interlace_cli.evaluation.quality import measure_quality
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor

QUICK = {
    "llava": HARMLESS,
    "qwen3_vl": HARMLESS,
    "git": Padding(needs_positions=True),
    "hunyuan_vl": Padding(needs_positions=True),
    "mistral_large4": Padding(is_harmless=False),
}
"""An indexer that chooses tokens counts padding, whatever the positions say."""
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.zoo) for name in zoo.NAMES]


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_in_a_batch_what_it_is_alone(name: str) -> None:
    config = zoo.build_config(name)
    if config.is_encoder_decoder:
        pytest.skip("its decoder's rows are not padded")
    model, processor = zoo.build_model(config), ZooProcessor(name, config)
    texts = [f"<user><image> {' '.join(f'w{10 + i * 3 % 40}' for i in range(n))}<end><assistant>" for n in (17, 6)]
    alone, together = [processor(text=[text]) for text in texts], processor(text=texts)
    found = choose_padding(model, alone, together)
    assert found == QUICK.get(name, found)
    if not found.is_harmless:
        return
    with torch.inference_mode():
        logits = model(**found.complete(together), use_cache=False).logits
        for row, inputs in enumerate(alone):
            wanted = model(**found.complete(inputs), use_cache=False).logits[0]
            torch.testing.assert_close(logits[row, -len(wanted) :], wanted, atol=1e-4, rtol=1e-4)
            plain = model(**inputs, use_cache=False).logits[0]
            torch.testing.assert_close(wanted, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "is_said"), [("git", True), ("blip", True), ("hunyuan_vl", False), ("gpt2", False), ("llava", False)]
)
def test_a_reply_is_in_a_batch_what_it_is_alone(name: str, is_said: bool, tmp_path: Path) -> None:
    """GIT's and BLIP's own `generate` count padding."""
    config = zoo.build_config(name)
    model, folder = zoo.build_model(config), make_zoo_dataset(tmp_path, name in zoo.NAMES)
    batcher, samples, said = Batcher(build_processor(name, config), folder), load_split(folder, "train")[:10], []
    alone, together = (
        measure_quality(model, batcher, samples, size, 5, lambda *done: None, said.append) for size in (1, 8)
    )
    assert together.answers == alone.answers
    assert together.loss == pytest.approx(alone.loss, abs=1e-5)
    assert bool(said) is is_said


def test_samples_with_and_without_pictures_are_tried_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 3.2 Vision runs its cross-attention on a text beside a picture, and not on one alone. Here the longest and
    the shortest sample are texts."""
    save_mllama_chain_model(tmp_path / "model")
    make_dataset(write_source(tmp_path / "source", count=16, texts=8), tmp_path / "dataset")
    samples = load_split(tmp_path / "dataset", "train")
    texts, pictures = ([one for one in samples if bool(one.image) is kind] for kind in (False, True))
    question, answer = texts[0].conversations
    short = texts[0].model_copy(
        update={"conversations": [question.model_copy(update={"value": "?"}), answer], "id": "short"}
    )
    mixed = [short, pictures[0], texts[1]]
    assert [mixed[i].id for i in choose_trial(mixed)] == [texts[1].id, "short", pictures[0].id]
    assert len(choose_trial(pictures)) == len(choose_trial(texts)) == 2
    model, said = load_model(tmp_path / "model", "float32", "cpu"), []
    batcher = Batcher(load_processor(tmp_path / "model"), tmp_path / "dataset")
    assert find_padding(model, batcher, pictures, said.append) == HARMLESS
    assert find_padding(model, batcher, texts, said.append) == HARMLESS
    assert not said
    assert find_padding(model, batcher, mixed, said.append) == Padding(is_harmless=False)
    assert "samples are run one by one" in said.pop()

    # Some processors refuse such a batch.
    plain = batcher.build_prompts

    def build(chosen: list) -> dict[str, torch.Tensor]:
        if len({bool(one.image) for one in chosen}) > 1:
            raise UnusableSampleError(chosen[0].id, "mixed")
        return plain(chosen)

    monkeypatch.setattr(batcher, "build_prompts", build)
    assert find_padding(model, batcher, mixed, said.append) == Padding(is_harmless=False)
    assert "cannot encode them together" in said.pop()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory: samples are run one by one"),
        (ValueError("no batches here"), "no batches here: samples are run one by one"),
    ],
    ids=["shortage", "other"],
)
def test_a_batch_that_cannot_be_tried_is_not_taken_for_harmless(
    error: Exception, said: str, small_dataset: Path
) -> None:
    samples, lines = load_split(small_dataset, "train")[:8], []
    model, batcher = load_model(CHECKPOINT), Batcher(load_processor(CHECKPOINT), small_dataset)

    def look(model: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if len(kwargs["input_ids"]) > 1:
            raise error

    model.register_forward_pre_hook(look, with_kwargs=True)
    assert find_padding(model, batcher, samples, lines.append) == Padding(is_harmless=False)
    assert len(lines) == 1
    assert lines[0].endswith(said)
