"""An answer's tokens get, in every field that has a value for each token, what the processor itself gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mllama import build_mllama_processor

from interlace_cli.data.batches import Batcher
from interlace_cli.data.rows import build_rows, encode
from interlace_cli.data.token_fields import Continuation, TokenFields, stack_left
from interlace_cli.demo import CHECKPOINT
from interlace_cli.demo.model import build_processor
from interlace_cli.errors import UnsupportedModelError
from interlace_cli.io.datasets import load_images, load_split
from interlace_cli.io.models import load_processor


@pytest.mark.parametrize("build", [build_processor, build_mllama_processor])
def test_whole_conversations_are_those_that_the_processor_encodes(build: Any, small_dataset: Path) -> None:
    processor = build()
    samples = sorted(load_split(small_dataset, "train")[:12], key=lambda sample: len(sample.conversations[0].value))
    samples = [samples[0], samples[-1]]
    batch = Batcher(processor, small_dataset).build_conversations(samples)
    roles = {"human": "user", "gpt": "assistant"}
    texts = []
    for sample in samples:
        messages: list[dict[str, Any]] = [
            {"role": roles[turn.speaker], "content": [{"type": "text", "text": turn.value}]}
            for turn in sample.conversations
        ]
        messages[0]["content"].insert(0, {"type": "image"})
        texts.append(processor.apply_chat_template(messages, tokenize=False))
    images = [load_images(small_dataset, sample) for sample in samples]
    wanted = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
    batch.pop("labels")
    assert not batch["attention_mask"].all(), "one is padded"
    is_real = wanted["attention_mask"].bool()
    for name, value in wanted.items():
        # What stands at padding is masked, and processors differ in it.
        per_token = value.ndim > 1 and value.shape[:2] == is_real.shape
        torch.testing.assert_close(
            batch[name][is_real] if per_token else batch[name], value[is_real] if per_token else value
        )
    assert batch.keys() == dict(wanted).keys()


class Grown:
    """Encodings of text `length` long, with fields of many kinds."""

    def encode(self, row: int, is_longer: bool) -> dict[str, torch.Tensor]:
        length = 7 + 3 * is_longer
        ids = torch.arange(length)[None] + row
        kinds = torch.ones(1, length, dtype=torch.long)
        kinds[:, 7:] = 0
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "kinds": kinds,
            "positions": torch.arange(length)[None] * 1,
            "attends": torch.tensor([[0.0, 1.0]]).expand(1, length, 2),
            "as_long_by_chance": torch.zeros(1, 7),
            "pixels": torch.zeros(4, 5),
        }


def test_fields_are_told_by_their_growth_and_not_by_their_name() -> None:
    fields, batch = TokenFields("A"), Grown().encode(0, False)
    fields.learn(batch, Grown().encode)
    assert fields.names(batch) == ["input_ids", "attention_mask", "kinds", "positions", "attends"]
    assert fields.extend("kinds", batch["kinds"][0], 2).tolist() == [1] * 7 + [0, 0]
    assert fields.extend("positions", batch["positions"][0], 2).tolist() == list(range(9))
    assert fields.extend("attends", batch["attends"][0], 2).tolist() == [[0, 1]] * 9
    assert fields.found["as_long_by_chance"] is None


def test_a_field_that_follows_no_rule_is_refused() -> None:
    class Odd(Grown):
        def encode(self, row: int, is_longer: bool) -> dict[str, torch.Tensor]:
            made = super().encode(row, is_longer)
            made["odd"] = made["input_ids"] ** 2
            return made

    with pytest.raises(UnsupportedModelError, match="Odd gives every token values in the field odd"):
        TokenFields("Odd").learn(Odd().encode(0, False), Odd().encode)


def test_rows_of_different_sizes_end_at_the_same_place() -> None:
    found = stack_left([torch.ones(2, 1, 3), torch.ones(3, 2, 1)], 7)
    assert found.shape == (2, 3, 2, 3)
    assert (found[0, 0] == 7).all()
    assert found[0, 1:].sum() == 6
    assert found[1].sum() == 6
    assert Continuation(None).build(torch.zeros(0, 2), 3).shape == (3, 2)


def test_a_sample_without_a_picture_shares_no_row_with_one_that_has_some(small_dataset: Path) -> None:
    """Its row would be given the first sample's fields alone."""
    batcher = Batcher(load_processor(CHECKPOINT), small_dataset)
    samples = load_split(small_dataset, "train")[:4]
    samples = [samples[0].model_copy(update={"image": []}), *samples[1:]]
    encoded = [
        encode(sample, batcher, lambda inputs: torch.arange(inputs["input_ids"].shape[1])[None, None])
        for sample in samples
    ]
    for is_packed in (True, False):
        rows = build_rows(encoded, is_packed, 4096, 8)
        patches = sum(len(row.inputs.get("pixel_values", [])) for row in rows)
        assert patches == sum(len(sample.whole.get("pixel_values", [])) for sample in encoded)
        assert sum("pixel_values" not in row.inputs for row in rows) == 1
