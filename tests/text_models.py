"""A tiny random Llama with a tokenizer of its own, and conversations without images: every step can run on them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from interlace_cli.io.models import import_transformers

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As language models' templates are: it joins texts, and prints a list of parts as Python does."""
THINGS = ("tea", "salt", "glass", "paper", "rubber", "silk", "amber", "cork")
PLACES = ("China", "the sea", "sand", "wood", "a tree", "a worm", "resin", "an oak")


def iter_conversations(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Records as `prepare` reads them, each with a question of its own."""
    rng = random.Random(seed)
    for number in range(count):
        thing = rng.randrange(len(THINGS))
        question = f"Question {number}: where does {THINGS[thing]} come from?"
        answer = f"It comes from {PLACES[thing]}."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        yield {"id": f"text-{number}", "conversations": turns}


def write_conversations(folder: Path, count: int = 40) -> Path:
    """A file of `count` records."""
    path = folder / "talk.json"
    path.write_text(json.dumps(list(iter_conversations(count))))
    return path


def build_tokenizer(template: str | None = CHAT_TEMPLATE) -> Any:
    """Byte-level BPE of some hundred words; without a `template`, that of a base model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.dumps(record) for record in iter_conversations(40)], trainer)
    end = "<|im_end|>" if template else "<|endoftext|>"
    fast = import_transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    return fast


def save_language_model(folder: Path, layers: int = 8, template: str | None = CHAT_TEMPLATE) -> None:
    """A random Llama `layers` deep, as `save_pretrained` leaves it, with its tokenizer."""
    transformers = import_transformers()
    tokenizer = build_tokenizer(template)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
