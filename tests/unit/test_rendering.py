"""Answers are learnt from the prompts that their generation would have: the truth is plain transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.rendering import RenderingError, TextPart, render_sequences
from interlace_cli.data.rows import EncodedSteps
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.dataset import Sample
from interlace_cli.errors import CheckpointError
from interlace_cli.families.packing import find_positions
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor

PARTS = (
    "{%- macro say(m) -%}{%- for p in m.content -%}{%- if p.type == 'image' -%}"
    "<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ p.text }}{%- endif -%}{%- endfor -%}{%- endmacro -%}"
)
BODY = "{{ say(m) }}<|im_end|>\n{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n"
PLAIN = PARTS + "{%- for m in messages -%}<|im_start|>{{ m.role }}\n" + BODY + "{% endif -%}"
DROPS_THOUGHTS = (
    PARTS
    + "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
    + "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    + BODY
    + "<think>\n{% endif -%}"
)
"""As Qwen3.5's: the last answer has its thoughts, earlier ones have none."""
OPENS_THOUGHTS = PARTS + "{%- for m in messages -%}<|im_start|>{{ m.role }}\n" + BODY + "<think>\n{% endif -%}"
"""As Qwen3-Thinking's and GLM-4.1V's: the generation prompt opens thoughts, and no rendered answer has them."""
STRIPS_THOUGHTS = (
    PARTS
    + "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
    + "{{ say(m).split('</think>') | last }}<|im_end|>\n{% endfor -%}"
    + "{%- if add_generation_prompt -%}<|im_start|>assistant\n<think>\n{% endif -%}"
)


def build_batcher(template: str, dataset: Path) -> Batcher:
    processor = load_processor(CHECKPOINT)
    processor.chat_template = template
    processor.tokenizer.chat_template = None
    return Batcher(processor, dataset)


def talk(sample: Sample, *answers: str) -> Sample:
    turns = [
        t for a in answers for t in ({"from": "human", "value": f"What of {len(a)}?"}, {"from": "gpt", "value": a})
    ]
    return Sample.model_validate({**sample.model_dump(by_alias=True), "conversations": turns})


def read_answers(batcher: Batcher, batch: dict[str, Any]) -> list[str]:
    """The texts of runs of labels, first sequence of the batch."""
    texts: list[list[int]] = [[]]
    for label in batch["labels"][0].tolist():
        if label == IGNORE:
            texts.append([])
        else:
            texts[-1].append(label)
    return [batcher.tokenizer.decode(text) for text in texts if text]


@pytest.mark.parametrize(
    ("template", "answers", "wanted"),
    [
        (PLAIN, ["red", "17"], [["red<|im_end|>", "17<|im_end|>"]]),
        (DROPS_THOUGHTS, ["red"], [["\n</think>\n\nred<|im_end|>"]]),
        (DROPS_THOUGHTS, ["red", "17"], [["\n</think>\n\nred<|im_end|>"], ["\n</think>\n\n17<|im_end|>"]]),
        (OPENS_THOUGHTS, ["red", "17"], [["\n</think>\n\nred<|im_end|>"], ["\n</think>\n\n17<|im_end|>"]]),
        (STRIPS_THOUGHTS, ["<think>\nso\n</think>\n\nred"], [["so\n</think>\n\nred<|im_end|>"]]),
    ],
    ids=["plain", "one-turn", "two-turns", "opens", "strips"],
)
def test_each_answer_is_learnt_from_its_own_prompt(
    template: str, answers: list[str], wanted: list[list[str]], small_dataset: Path
) -> None:
    batcher = build_batcher(template, small_dataset)
    sample = talk(load_split(small_dataset, "train")[0], *answers)
    sequences = batcher.build_sequences(sample)
    assert [read_answers(batcher, sequence) for sequence in sequences] == wanted
    messages = batcher._to_messages(sample)
    asked = 0
    for sequence, learnt in zip(sequences, wanted, strict=True):
        ids, labels = sequence["input_ids"][0].tolist(), sequence["labels"][0].tolist()
        place = 0
        for answer in learnt:
            # What plain transformers would generate from, picture tokens included.
            prompt = batcher.processor.apply_chat_template(messages[: 2 * asked + 1], add_generation_prompt=True)
            start = next(i for i in range(place, len(labels)) if labels[i] != IGNORE)
            assert batcher.tokenizer.decode(ids[:start]).replace("<|image_pad|>" * 16, "<|image_pad|>") == prompt
            place = start + len(batcher.tokenizer.encode(answer))
            asked += 1
        assert sequence["pixel_values"].shape[0] == 64, "the picture goes with each sequence"


def test_the_first_prompt_is_plain_transformers_token_by_token(small_dataset: Path) -> None:
    from interlace_cli.io.datasets import load_images

    for template in (PLAIN, DROPS_THOUGHTS):
        batcher = build_batcher(template, small_dataset)
        sample = talk(load_split(small_dataset, "train")[0], "red", "17")
        messages = batcher._to_messages(sample)
        for message in messages:
            for part in message["content"]:
                if part["type"] == "image":
                    part["image"] = load_images(small_dataset, sample)[0]
        for number, sequence in enumerate(batcher.build_sequences(sample)):
            plain = batcher.processor.apply_chat_template(
                messages[: 2 * number + 1], add_generation_prompt=True, tokenize=True, return_dict=True
            )
            length = len(plain["input_ids"][0])
            assert sequence["input_ids"][0, :length].tolist() == list(plain["input_ids"][0])
            assert (sequence["labels"][0, :length] == IGNORE).all()
            assert sequence["labels"][0, length] != IGNORE


def test_all_sequences_of_a_sample_are_trained(small_dataset: Path) -> None:
    batcher = build_batcher(DROPS_THOUGHTS, small_dataset)
    first, second, *_ = load_split(small_dataset, "train")
    positions = find_positions(load_model(CHECKPOINT))
    steps = EncodedSteps([talk(first, "red", "17", "no"), second], [[0, 1], [0]], batcher, positions)
    assert len(steps[0]) == 4
    assert [one.length for one in steps[0][:3]] == [one.length for one in steps[1]]


WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=12).filter(
    str.strip
)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_every_answer_is_in_one_sequence_and_prompts_are_whole(
    turns: list[tuple[str, str]], drops: bool, opens: bool
) -> None:
    def render(messages: Any, is_prompt: bool) -> str:
        text = ""
        for number, message in enumerate(messages):
            is_last = number == len(messages) - 1
            thoughts = "<think></think>" if message["role"] == "assistant" and (is_last or not drops) else ""
            text += f"[{message['role']}]{thoughts}{message['content'].strip()}[end]"
        return text + ("[assistant]<think>" if opens else "[assistant]") * is_prompt

    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    sequences = render_sequences(messages, render)
    prompts = [render(messages[: 2 * i + 1], True) for i in range(len(turns))]
    seen = []
    for sequence in sequences:
        text = ""
        assert [part.is_answer for part in sequence.parts] == [False, True] * (len(sequence.parts) // 2)
        for part in sequence.parts:
            if part.is_answer:
                seen.append((text, part.text))
            text += part.text
    assert [prompt for prompt, _ in seen] == prompts
    for (_, answer), (_, own) in zip(seen, turns, strict=True):
        assert answer.endswith(f"</think>{own.strip()}[end]")
    assert len(sequences) == (len(turns) if drops else 1)


def test_a_later_picture_begins_a_sequence() -> None:
    def render(messages: Any, is_prompt: bool) -> str:
        parts = [p.get("text", "*") for m in messages for p in [*m["content"], {"text": ";"}]]
        return "".join(parts) + ">" * is_prompt

    def say(role: str, *parts: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": p} if p else {"type": "image"} for p in parts]}

    messages = [say("user", "", "a"), say("assistant", ">b"), say("user", "c"), say("assistant", ">d")]
    messages += [say("user", "e", ""), say("assistant", ">f")]
    first, second = render_sequences(messages, render)
    assert (first.pictures, second.pictures) == (1, 2)
    assert first.parts[0] == TextPart("*a;>", False)
    assert second.prompt.startswith("*a;>b;c;>d;e*;")


@pytest.mark.parametrize(
    ("template", "with_picture", "words"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", True, "prints the list"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", False, "prints the list"),
        ("{% for m in messages if m.content is string %}{{ m.content }}{% endfor %}", False, "a list of parts"),
        (
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
            True,
            "leaves out pict",
        ),
        (None, True, "no chat template"),
    ],
    ids=["repr", "repr-text", "strings", "no-pictures", "none"],
)
def test_a_template_that_no_sample_suits_is_the_models_fault(
    template: str | None, with_picture: bool, words: str, small_dataset: Path
) -> None:
    sample = load_split(small_dataset, "train")[0]
    if not with_picture:
        sample = sample.model_copy(update={"image": []})
    with pytest.raises(CheckpointError, match=words) as caught:
        build_batcher(template or "", small_dataset).build_prompts([sample])
    assert str(CHECKPOINT) in caught.value.what


def test_a_template_that_leaves_out_a_turn_is_not_used() -> None:
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    with pytest.raises(RenderingError, match="leaves out text of a user turn"):
        render_sequences(messages, lambda messages, is_prompt: "fixed")
    with pytest.raises(RenderingError, match="leaves out answers"):
        render_sequences(messages, lambda messages, is_prompt: "question")


def test_the_tokenizers_template_is_used_where_the_processor_has_none(small_dataset: Path) -> None:
    sample = load_split(small_dataset, "train")[0]
    processor = load_processor(CHECKPOINT)
    wanted = Batcher(processor, small_dataset).render(sample)
    other = load_processor(CHECKPOINT)
    other.tokenizer.chat_template, other.chat_template = other.chat_template, None
    assert Batcher(other, small_dataset).render(sample) == wanted


def test_thoughts_are_closed_where_the_whole_is_rendered_otherwise_than_the_prompt() -> None:
    """Something at the head that only prompts have: no answer is then to be found behind the prompt in the whole."""

    def render(messages: Any, is_prompt: bool) -> str:
        said = "".join(f"[{m['role']}]{m['content'][0]['text']}[end]" for m in messages)
        return f"(you answer) {said}[assistant]<think>\n" if is_prompt else said

    def say(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    answers = {"a": "\n</think>\n\na[end]", "<think>t</think>b": "t</think>b[end]", "t</think>c": "t</think>c[end]"}
    for own, wanted in answers.items():
        (sequence,) = render_sequences([say("user", "q"), say("assistant", own)], render)
        assert [part.text for part in sequence.parts] == ["(you answer) [user]q[end][assistant]<think>\n", wanted]
