"""Answers against greedy decoding by hand, one argmax after another, whatever the model's files say; where an answer
ends, by what its chat template puts there."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo
from transformers import GenerationConfig
from workspaces import call, change, succeed

from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.end_of_turn import count_answer_tokens, find_stop_ids, find_template_stop
from interlace_cli.data.templates import ChatTemplate
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.errors import CheckpointError
from interlace_cli.evaluation.fidelity import _generates_alike
from interlace_cli.evaluation.generation import (
    Generator,
    Reply,
    build_greedy_config,
    build_timed_config,
    cut_prompt,
    find_stop_set,
    generate,
)
from interlace_cli.evaluation.speed import measure_speed
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor

FIELDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "repetition_penalty": {"repetition_penalty": 3.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "lengths": {"min_length": 80, "max_length": 90, "min_new_tokens": 5, "max_time": 1e-9},
    "stop_strings": {"stop_strings": ["e"]},
    "beams": {"num_beams": 3, "length_penalty": -2.0, "early_stopping": True},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 3, "typical_p": 0.1},
    "words": {"bad_words_ids": [[40], [41]], "suppress_tokens": list(range(30, 60)), "begin_suppress_tokens": [35]},
    "forced": {"forced_eos_token_id": 9, "forced_bos_token_id": 9, "sequence_bias": [[[35], 20.0]]},
    "guidance": {"guidance_scale": 4.0, "exponential_decay_length_penalty": [1, 9.0]},
    "assisted": {"assistant_early_exit": 2, "prompt_lookup_num_tokens": 3},
    "output": {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "of tomorrow": {"a_field_of_tomorrow": 7},
}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(CHECKPOINT)


@pytest.fixture(scope="module")
def batcher(small_dataset: Path) -> Batcher:
    return Batcher(load_processor(CHECKPOINT), small_dataset)


@pytest.fixture(scope="module")
def prompts(batcher: Batcher, small_dataset: Path) -> Any:
    return batcher.build_prompts(load_split(small_dataset, "heldout")[:4])


@torch.inference_mode()
def decode_by_hand(model: Any, inputs: dict[str, torch.Tensor], stops: set[int], limit: int) -> list[list[int]]:
    """The tokens of each row up to one in `stops`: the argmax of plain forward passes without a cache."""
    inputs, said = dict(inputs), []
    for _ in range(limit):
        chosen = model(**inputs, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        said.append(chosen)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], chosen], 1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.full_like(chosen, value)], 1)
    rows = torch.cat(said, 1).tolist()
    return [row[: next((i for i, token in enumerate(row) if token in stops), limit)] for row in rows]


@pytest.fixture(scope="module")
def by_hand(model: Any, batcher: Batcher, prompts: Any) -> list[str]:
    stop = batcher.tokenizer.convert_tokens_to_ids("<|im_end|>")
    return [batcher.tokenizer.decode(row).strip() for row in decode_by_hand(model, prompts, {stop}, 8)]


@pytest.mark.parametrize("name", FIELDS)
def test_greedy_is_the_argmax_whatever_the_file_says(
    name: str, model: Any, batcher: Batcher, prompts: Any, by_hand: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = GenerationConfig(**{"eos_token_id": 2, **FIELDS[name]})
    monkeypatch.setattr(model, "generation_config", own)
    replies = Generator(model, batcher).reply(prompts, 8)
    assert [reply.text for reply in replies] == by_hand
    assert model.generation_config is own, "put back"
    assert all(by_hand)


def test_the_models_own_way_follows_its_file(
    model: Any, batcher: Batcher, prompts: Any, by_hand: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(seed: int = 0, **fields: Any) -> list[str]:
        monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=2, **fields))
        generator = Generator(model, batcher, "model", seed)
        assert generator.describe().fields == fields
        return [one.text for one in generator.reply(prompts, 8)]

    assert reply() == by_hand
    own = GenerationConfig(
        eos_token_id=2, pad_token_id=batcher.tokenizer.pad_token_id, suppress_tokens=[*range(30, 60)]
    )
    own.max_new_tokens = 8
    wanted = model.generate(**prompts, generation_config=own)[:, prompts["input_ids"].shape[1] :]
    assert reply(suppress_tokens=[*range(30, 60)]) == [
        text.strip() for text in batcher.tokenizer.batch_decode(wanted, skip_special_tokens=True)
    ]
    sampled = [reply(seed, do_sample=True, temperature=3.0) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert reply(stop_strings=["e"]) == by_hand, "each is one token, and ends there"
    with pytest.raises(CheckpointError, match="cannot generate by this model's generation_config"):
        reply(penalty_alpha=0.6, top_k=4)
    with pytest.raises(CheckpointError, match="cannot generate by this model's generation_config"):
        reply(guidance_scale=2.0)


def test_a_cut_reply_is_told_from_one_that_ended(model: Any, batcher: Batcher, prompts: Any) -> None:
    generator = Generator(model, batcher)
    whole, cut = generator.reply(prompts, 8), generator.reply(prompts, 1)
    assert not any(reply.is_cut for reply in whole)
    assert all(reply.is_cut for reply in cut)


def test_timings_generate_as_many_tokens_as_they_say(
    model: Any, batcher: Batcher, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=2, stop_strings=["e"], num_beams=2))
    seen: list[GenerationConfig] = []
    plain = type(model).generate

    def watch(*arguments: Any, generation_config: GenerationConfig, **more: Any) -> Any:
        seen.append(generation_config)
        found = plain(model, *arguments, generation_config=generation_config, **more)
        assert found.shape[1] - more["input_ids"].shape[1] == generation_config.max_new_tokens
        return found

    monkeypatch.setattr(model, "generate", watch)
    one = {name: value[:1] for name, value in prompts.items() if name != "pixel_values"}
    grid = prompts["image_grid_thw"][0].prod()
    one["pixel_values"] = prompts["pixel_values"][:grid]
    for way, beams in (("greedy", 1), ("model", 2)):
        seen.clear()
        (speed,) = measure_speed([model], one, 1, way, 3)
        assert speed.new_tokens == 3
        assert {config.num_beams for config in seen} == {beams}
        assert {config.max_new_tokens for config in seen} == {1, 3}


def test_verification_generates_by_no_file(model: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=2, stop_strings=["e"]))
    assert _generates_alike(model, prompts)


@pytest.mark.parametrize("name", ["florence2", "blip", "blip-2"])
def test_replies_begin_where_the_architecture_begins_them(name: str) -> None:
    """An encoder-decoder by its start tokens; a language model inside another has a generation config of its own."""
    config = zoo.build_config(name)
    model, inputs = zoo.build_model(config), zoo.build_inputs(name, config)
    start = model.config.is_encoder_decoder
    if start:
        model.generation_config.decoder_start_token_id, model.generation_config.forced_bos_token_id = 3, 7
    for part in model.modules():
        if getattr(part, "generation_config", None) is not None:
            part.generation_config.update(repetition_penalty=5.0, num_beams=2, no_repeat_ngram_size=1)
    given = {key: value for key, value in inputs.items() if key != "decoder_input_ids"}
    tokenizer = SimpleNamespace(
        pad_token_id=0, all_special_ids=[], decode=lambda tokens: " ".join(map(str, tokens)), added_tokens_decoder={}
    )
    generator = Generator(model, SimpleNamespace(tokenizer=tokenizer, stop_ids=()))  # type: ignore[arg-type]
    replies = generator.reply(given, 4)
    if start:
        ids = torch.tensor([[3, 7]] * 2)
        for _ in range(3):
            logits = model(**given, decoder_input_ids=ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
        wanted = ids[:, 1:].tolist()
    elif name == "blip":
        # Its `generate` takes the last token for the end of the tokenizer's, and puts its own first.
        ids = given["input_ids"][:, :-1].clone()
        ids[:, 0] = config.text_config.bos_token_id
        given["input_ids"], given["attention_mask"] = ids, given["attention_mask"][:, :-1]
        wanted = decode_by_hand(model, given, set(), 4)
    else:
        wanted = decode_by_hand(model, given, set(), 4)
    assert replies == [Reply(" ".join(map(str, row)), True) for row in wanted]


# --- where an answer ends

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0].text }}<|im_end|>\n{% endfor %}",
        "<|im_end|>",
    ),
    "text alone": ("{% for m in messages %}<a>{{ m.role + m.content }}<z>{% endfor %}", "<z>"),
    "the next turn": ("{% for m in messages %}<{{ m.role }}>{{ m.content[0].text }}{% endfor %}", "<user>"),
    "words": ("{% for m in messages %}{{ m.role }}: {{ m.content[0].text }}\n{% endfor %}", None),
    "one turn": (
        "{% if messages|length > 2 %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m.content[0].text }}<z>{% endfor %}",
        "<z>",
    ),
    "none": (None, None),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_ends_where_its_template_ends_it(name: str) -> None:
    template, wanted = TEMPLATES[name]
    processor: Any = load_processor(CHECKPOINT)
    tokenizer = processor.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<z>", "<user>", "<assistant>"]})
    tokenizer.eos_token = "<|endoftext|>"
    processor.chat_template = tokenizer.chat_template = template
    found = find_template_stop(ChatTemplate(processor))
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == wanted
    assert find_stop_ids(ChatTemplate(processor))[-1] == tokenizer.eos_token_id


def test_labels_end_with_the_turn(small_dataset: Path) -> None:
    """Also where it is not the tokenizer's eos that ends it."""
    processor: Any = load_processor(CHECKPOINT)
    samples = load_split(small_dataset, "train")[:3]
    before = Batcher(processor, small_dataset).build_conversations(samples)["labels"]
    processor.tokenizer.eos_token = "<|endoftext|>"
    labels = Batcher(processor, small_dataset).build_conversations(samples)["labels"]
    assert torch.equal(labels, before)
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert [[token for token in row if token != IGNORE][-1] for row in labels.tolist()] == [end] * 3
    assert count_answer_tokens([5, end, 9, end], (end,)) == 2
    assert count_answer_tokens([5, 9], (end,)) == 2


def test_a_model_learns_to_end_an_answer_that_its_template_leaves_open(small_dataset: Path) -> None:
    processor: Any = load_processor(CHECKPOINT)
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    parts = "{% for p in m.content %}{{ p.text if p.type == 'text' else '" + picture + "' }}{% endfor %}"
    processor.chat_template = (
        "{% for m in messages %}{{ '\nUser: ' if m.role == 'user' else '\nAssistant: ' }}" + parts + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nAssistant: ' }}{% endif %}"
    )
    samples = load_split(small_dataset, "train")[:2]
    batcher = Batcher(processor, small_dataset)
    assert batcher.stop_ids == (processor.tokenizer.eos_token_id,)
    for sample, row in zip(samples, batcher.build_conversations(samples)["labels"].tolist(), strict=True):
        assert processor.tokenizer.decode([token for token in row if token != IGNORE]) == sample.answer + "<|im_end|>"


def test_ids_of_a_config_class_are_no_ends_of_another_tokenizer(model: Any, batcher: Batcher) -> None:
    tokenizer = batcher.tokenizer
    word, end, pad = tokenizer.encode("red")[0], 2, tokenizer.pad_token_id

    def find(own: GenerationConfig, text: Any, top: Any = None) -> tuple[int, ...]:
        config = SimpleNamespace(eos_token_id=top, get_text_config=lambda decoder: SimpleNamespace(eos_token_id=text))
        return find_stop_set(SimpleNamespace(generation_config=own, config=config), tokenizer, ())  # type: ignore[arg-type]

    default = GenerationConfig(eos_token_id=word)
    default._from_model_config = True
    assert find(default, word) == ()
    assert find(GenerationConfig(eos_token_id=word), None) == (word,)
    assert find(GenerationConfig(eos_token_id=[word, end]), pad) == (word, end, pad)
    assert find(GenerationConfig(), None, [end, word]) == (end,)
    assert find(GenerationConfig(eos_token_id=[-1, end]), -1) == (end,)
    timed = build_timed_config(model, "greedy", 4)
    assert (timed.eos_token_id, timed.min_new_tokens, timed.max_new_tokens) == ([end], 4, 4)


def test_thoughts_that_a_prompt_opens_or_special_tokens_mark_are_seen(
    model: Any, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor: Any = load_processor(CHECKPOINT)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    begin, end = processor.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    red = processor.tokenizer.encode("red")
    samples = load_split(small_dataset, "heldout")[:1]
    said: list[list[int]] = [[begin, *red, end, *red, 2]]
    monkeypatch.setattr(
        "interlace_cli.evaluation.generation.generate",
        lambda model, inputs, config: torch.cat([inputs["input_ids"], torch.tensor(said)], 1),
    )

    def reply(template: str) -> str:
        processor.chat_template = template
        batcher = Batcher(processor, small_dataset)
        return Generator(model, batcher).reply(batcher.build_prompts(samples), 20)[0].text.replace(" ", "")

    plain = processor.chat_template
    assert reply(plain) == "<think>red</think>red"
    said[0] = [*red, 2]
    assert reply(plain) == "red"
    assert reply(plain + "{% if add_generation_prompt %}<think>\n{% endif %}") == "<think>red"


def test_an_end_of_turn_that_is_not_eos_costs_nothing(small_dataset: Path, tmp_path: Path) -> None:
    """A tokenizer and a generation config whose eos the model never says, as after tuning a base model for chats."""
    other = tmp_path / "other"
    shutil.copytree(CHECKPOINT, other)
    change(other / "tokenizer_config.json", eos_token="<|endoftext|>")
    change(other / "generation_config.json", eos_token_id=0, repetition_penalty=3.0)
    common = ("--dataset", small_dataset, "--no-speed", "--samples", 22, "-w", tmp_path)
    succeed("eval", "demo", other, *common)
    found = load_artifact(tmp_path / "eval.json", Evaluation)
    plain, same = found.results
    assert same.kinds == plain.kinds
    assert (same.cut, same.empty) == (0, 0)
    assert same.generation is not None
    assert same.generation.config == "greedy"
    assert set(same.generation.stop_tokens) == {"<|im_end|>", "<|endoftext|>"}
    assert "ended by &lt;|im_end|&gt;" in (tmp_path / "report.html").read_text()

    own = call("eval", other, *common, "--generation-config", "model", "--max-new-tokens", 1, "--force")
    assert own.code == 0
    result = load_artifact(tmp_path / "eval.json", Evaluation).results[0]
    assert result.generation is not None
    assert result.generation.fields == {"repetition_penalty": 3.0}
    assert result.cut > 0
    assert f"other: {result.cut} of 22 answers were cut at the limit of tokens" in own.said
    assert "own generation config" in (tmp_path / "report.html").read_text()


def test_the_prompt_is_cut_where_it_stands() -> None:
    prompt, new = torch.tensor([[5, 6, 7], [5, 8, 7]]), torch.tensor([[1, 2], [3, 4]])
    whole = torch.cat([prompt, new], 1)
    assert torch.equal(cut_prompt(whole, prompt, False), new)
    assert torch.equal(cut_prompt(torch.cat([prompt[:, :2], new], 1), prompt, False), new)
    assert torch.equal(cut_prompt(new, prompt, False), new)
    assert torch.equal(cut_prompt(torch.cat([new, new], 1), prompt, False), torch.cat([new, new], 1))
    assert torch.equal(cut_prompt(torch.cat([prompt[:, :1], new], 1), prompt, True), new)


def test_a_greedy_config_holds_nothing_else(model: Any) -> None:
    config = build_greedy_config(model, (2,), 0, 8).to_diff_dict()
    config.pop("transformers_version", None)
    assert set(config) <= {"do_sample", "num_beams", "use_cache", "max_new_tokens", "eos_token_id", "pad_token_id"}
    assert generate.__doc__
