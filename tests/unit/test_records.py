"""A record is read whole, in the forms that other tools write it in, or left out with a reason."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finevision import make_image
from hypothesis import given
from hypothesis import strategies as st
from making import make_dataset
from PIL import Image

from interlace_cli.data.columns import NO_TALK, build_conversation, find_images
from interlace_cli.data.content import NEXT, read_content
from interlace_cli.data.filters import find_low_rating
from interlace_cli.data.pictures import PictureReader
from interlace_cli.domain.dataset import SPLITS, Sample, Turn
from interlace_cli.domain.image_marks import place_images, split_marks
from interlace_cli.errors import UnusableRecordError
from interlace_cli.io.datasets import load_images, load_manifest, load_split
from interlace_cli.io.file_records import IMAGES, FileRecorder

PNG = [make_image(number) for number in range(3)]
CODES = [base64.b64encode(data).decode() for data in PNG]
ADDRESS = f"data:image/png;base64,{CODES[0]}"
ASK, SAY = {"type": "text", "text": "Which?"}, {"role": "assistant", "content": "Red."}


def ask(*parts: Any, answer: Any = SAY) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, answer]}


def said(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def said_by(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(roles, ("Which?", "Red."), strict=True)]


ONE: dict[str, dict[str, Any]] = {
    "transformers path": ask({"type": "image", "path": "0.png"}, ASK),
    "transformers url": ask({"type": "image", "url": "0.png"}, ASK),
    "transformers base64": ask({"type": "image", "base64": CODES[0]}, ASK),
    "Qwen": ask({"type": "image", "image": "file://FOLDER/0.png", "min_pixels": 784, "max_pixels": 50176}, ASK),
    "a file of this machine": ask({"type": "image", "image": "file://localhostFOLDER/0.png"}, ASK),
    "Qwen base64": ask({"type": "image", "image": f"data:image;base64,{CODES[0]}"}, ASK),
    "Qwen-VL": ask({"image": "0.png"}, {"text": "Which?"}),
    "base64 alone": ask({"type": "image", "image": CODES[0]}, ASK),
    "OpenAI": ask({"type": "image_url", "image_url": {"url": ADDRESS, "detail": "low"}}, ASK),
    "OpenAI address": ask({"type": "image_url", "image_url": "0.png"}, ASK),
    "OpenAI responses": ask({"type": "input_image", "image_url": ADDRESS}, {"type": "input_text", "text": "Which?"}),
    "Anthropic": ask(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": CODES[0]}},
        {**ASK, "cache_control": {"type": "ephemeral"}},
    ),
    "TRL": {**ask({"type": "image"}, ASK), "images": ["0.png"]},
    "TRL texts": {"messages": [{"role": "user", "content": "Which?"}, SAY], "images": ["0.png"]},
    "TRL twice": {**ask({"type": "image", "image": "0.png"}, ASK), "images": ["0.png"]},
    "TRL pair": {
        "prompt": [{"role": "user", "content": [{"type": "image"}, ASK]}],
        "completion": [SAY],
        "images": ["0.png"],
    },
    "filled with null": ask(
        {"type": "image", "text": None, "image": {"bytes": None, "path": "0.png"}, "video": None},
        {"type": "text", "text": "Which?", "image": None, "video": None},
        answer={**SAY, "tool_calls": None, "name": None, "weight": 1},
    ),
    "LLaMA-Factory": {
        "conversations": said("<image>Which?", "Red."),
        "images": ["0.png"],
        "system": "",
        "tools": "[]",
    },
    "ms-swift": {"messages": [{"role": "user", "content": "<image>Which?"}, SAY], "images": [{"path": "0.png"}]},
    "ms-swift pair": {"query": "<image>Which?", "response": "Red.", "history": [], "images": ["0.png"]},
    "Alpaca": {"instruction": "Which?", "input": "", "output": "Red.", "image": "0.png"},
    "VQA": {"question": "Which?", "answer": "Red.", "image": "0.png", "question_id": 7},
    "LLaVA": {"id": "000", "image": "0.png", "conversations": said("<image>\nWhich?", "Red.")},
    "roles under conversations": {"conversations": ask(ASK)["messages"], "image": "0.png"},
    "from under messages": {"messages": said("Which?", "Red."), "image": "0.png"},
    "an empty system turn": {
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Which?"}, SAY],
        "image": "0.png",
    },
    "a system turn of empty parts": {
        "messages": [{"role": "system", "content": [{"type": "text", "text": ""}]}, *said_by("user", "assistant")],
        "image": "0.png",
    },
    "lists of fields": {"texts": {"user": ["Which?"], "assistant": ["Red."]}, "images": ["0.png"]},
    "lists of roles": {"messages": {"role": ["user", "assistant"], "content": ["Which?", "Red."]}, "images": ["0.png"]},
    "JSON in text": {"messages": json.dumps(ask(ASK)["messages"]), "images": '["0.png"]'},
    "one object": {"texts": {"user": "Which?", "assistant": "Red."}, "images": ["0.png"]},
    "two columns that agree": {"messages": ask(ASK)["messages"], "texts": [{"user": "Which?", "assistant": "Red."}]}
    | {"image": "0.png", "images": ["0.png"]},
    "metadata": {
        **ask({"type": "image", "image": "0.png"}, ASK),
        "source": "x",
        "score": 0.5,
        "image_name": "0.png",
        "tags": ["a"],
        "meta": {"split": "a", "boxes": [[1, 2]]},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number, data in enumerate(PNG):
        (tmp_path / f"in/{number}.png").write_bytes(data)
    return tmp_path / "in"


def prepare(folder: Path, records: list[Any]) -> tuple[dict[str, Sample], dict[str, str]]:
    """The samples by id, and the reasons of the others."""
    path = folder / "data.json"
    path.write_text(json.dumps(records).replace("FOLDER", str(folder)))
    make_dataset(path, folder / "out", calibration=0.0, holdout=0.0)
    return list_samples(folder / "out")


def list_samples(out: Path) -> tuple[dict[str, Sample], dict[str, str]]:
    manifest = load_manifest(out)
    splits = [load_split(out, split) for split in SPLITS if manifest.splits[split].samples]
    reasons = {skipped.record: skipped.reason for skipped in manifest.skipped_records}
    return {sample.id: sample for split in splits for sample in split}, reasons


def test_one_picture_before_one_question_in_the_forms_of_all_tools(folder: Path) -> None:
    found, reasons = prepare(folder, [{**record, "id": name} for name, record in ONE.items()])
    assert reasons == {}
    assert found.keys() == ONE.keys()
    for name, sample in found.items():
        assert [turn.value for turn in sample.conversations] == ["Which?", "Red."], name
        assert sample.image == found["LLaVA"].image, name


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PART = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", PICTURE)])


def test_bytes_inside_the_parts_of_a_parquet_file(tmp_path: Path) -> None:
    """As Unsloth's and datasets' users build it; the rows have every field of every part."""
    message = pa.struct([("role", pa.string()), ("content", pa.list_(PART))])
    held = [{"type": "image", "image": {"bytes": data, "path": f"{i}.png"}} for i, data in enumerate(PNG)]
    rows = [
        [
            {"role": "user", "content": [held[0], ASK]},
            {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
            {"role": "user", "content": [{"type": "text", "text": "And "}, held[2], held[1], ASK]},
            {"role": "assistant", "content": [{"type": "text", "text": "Blue."}]},
        ]
    ]
    pq.write_table(pa.table({"messages": pa.array(rows, pa.list_(message))}), tmp_path / "train.parquet")
    make_dataset(tmp_path / "train.parquet", tmp_path / "out")
    found, reasons = list_samples(tmp_path / "out")
    (sample,) = found.values()
    assert reasons == {}
    asked = ["<image>\nWhich?", "Red.", "And <image><image>Which?", "Blue."]
    assert [turn.value for turn in sample.conversations] == asked
    shown = [image.tobytes() for image in load_images(tmp_path / "out", sample)]
    assert shown == [decode(data) for data in (PNG[0], PNG[2], PNG[1])]


def decode(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).tobytes()


SEVERAL: dict[str, tuple[dict[str, Any], list[str], list[int]]] = {
    "a system field": (
        {"system": "Be brief.", "conversations": said("<image>Which?", "Red."), "images": ["1.png"]},
        ["Be brief.", "Which?", "Red."],
        [1],
    ),
    "a developer's turn": (
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Which?"}, SAY]},
        ["Be brief.", "Which?", "Red."],
        [],
    ),
    "history": (
        {"query": "<image>And?", "response": "B", "history": [["<image>Which?", "A"]], "images": ["2.png", "0.png"]},
        ["<image>\nWhich?", "A", "<image>\nAnd?", "B"],
        [2, 0],
    ),
    "input": (
        {"instruction": "Name it.", "input": "In French.", "output": "Rouge."},
        ["Name it.\nIn French.", "Rouge."],
        [],
    ),
    "parts with and without a picture": (
        {
            **ask({"type": "image"}, ASK, {"type": "image", "image": "2.png"}, {"type": "image"}),
            "images": ["1.png", "0.png"],
        },
        ["<image>\nWhich?<image><image>", "Red."],
        [1, 2, 0],
    ),
    "the pictures of a list": (
        {"messages": [{"role": "user", "content": "Which?"}, SAY], "images": [CODES[1], {"bytes": CODES[2]}]},
        ["Which?", "Red."],
        [1, 2],
    ),
    "texts one after the other": (
        ask({"type": "text", "text": "Which"}, {"type": "text", "text": " one?"}),
        ["Which one?", "Red."],
        [],
    ),
    "OpenAI's file": (
        {
            "messages": [
                {"role": "system", "content": "You are an assistant that identifies uncommon cheeses."},
                {"role": "user", "content": "What is this cheese?"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ADDRESS}}]},
                {"role": "assistant", "content": "Danbo"},
            ]
        },
        ["You are an assistant that identifies uncommon cheeses.", "What is this cheese?\n<image>", "Danbo"],
        [0],
    ),
    "an image before its question": (
        {
            "messages": [{"role": "user", "content": "<image>"}, {"role": "user", "content": "Which?"}, SAY],
            "image": "1.png",
        },
        ["Which?", "Red."],
        [1],
    ),
    "an image alone": (
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "1.png"}]}, SAY]},
        ["<image>\n", "Red."],
        [1],
    ),
    "images alone, and another": (
        {"conversations": said("<image>\n<image>", "Red.", "<image>", "Blue."), "images": ["1.png", "0.png", "2.png"]},
        ["<image>\n<image>\n", "Red.", "<image>\n", "Blue."],
        [1, 0, 2],
    ),
    "an image and its caption": (
        {"image": "1.png", "caption": " A dog. ", "kind": "x"},
        ["Describe this image in one sentence.", "A dog."],
        [1],
    ),
    "several captions": (
        {"image": "1.png", "text": ["A dog.", "A cat."]},
        ["Describe this image in one sentence.", "A dog."],
        [1],
    ),
    "a number": ({"question": "How many?", "answer": 3, "image": "1.png"}, ["How many?", "3"], [1]),
    "choices that the question says": (
        {"question": "Which: (A) red, (B) blue?", "options": ["red", "blue"], "A": "red", "answer": "red"},
        ["Which: (A) red, (B) blue?", "red"],
        [],
    ),
    "a word of HTML": (
        {"question": "What is an <img> or <img src='x'> tag?", "answer": "An image."},
        ["What is an <img> or <img src='x'> tag?", "An image."],
        [],
    ),
    "a right answer of several": ({"question": "Which?", "answers": ["Red.", "Rot."]}, ["Which?", "Red."], []),
}


def test_what_goes_in_comes_out_in_its_place(folder: Path) -> None:
    found, reasons = prepare(folder, [{**record, "id": name} for name, (record, _, _) in SEVERAL.items()])
    assert reasons == {}
    names = find_names(folder)
    for name, (_, values, images) in SEVERAL.items():
        assert [turn.value for turn in found[name].conversations] == values
        assert found[name].image == [names[number] for number in images], name
    assert found["a right answer of several"].references == ["Red.", "Rot."]
    one, several = found["an image and its caption"], found["several captions"]
    assert (one.metric, one.references, one.kind) == ("cider", ["A dog."], "x")
    assert (several.metric, several.references) == ("cider", ["A dog.", "A cat."])


def find_names(folder: Path) -> list[str]:
    """What prepare calls the three pictures."""
    record = {"id": "all", "conversations": said("Which?", "Red."), "images": [f"{n}.png" for n in range(3)]}
    (folder / "all.json").write_text(json.dumps([record]))
    make_dataset(folder / "all.json", folder / "all", calibration=0.0, holdout=0.0)
    return list_samples(folder / "all")[0]["all"].image


PLAIN = {"messages": [{"role": "user", "content": "Which?"}, SAY]}
MARK = "an image mark of another form than <image>: {}"
WEB = "image is on the web: download it and name the file, or add --allow-download"
PART_UNREAD, TURN_UNREAD = (
    "a content part has a field {}, which is not read",
    "a turn has a field {}, which is not read",
)
KIND = "field {} is of a kind that is not read"
LEFT_OUT: list[tuple[dict[str, Any], str]] = [
    (ask({"type": "video", "video": "a.mp4"}, ASK), "a content part of type video is not read"),
    (ask({"type": "input_audio", "input_audio": {"data": "x"}}, ASK), "a content part of type input_audio is not read"),
    (ask({"video": "a.mp4"}, ASK), PART_UNREAD.format("video")),
    (ask({"type": "image", "image": "0.png", "bbox": [1, 2]}, ASK), PART_UNREAD.format("bbox")),
    (ask({"type": "image", "image": "0.png", "url": "1.png"}, ASK), "a content part names more than one image"),
    (ask({"type": "image", "file_id": "x"}, ASK), PART_UNREAD.format("file_id")),
    (ask({"type": "text", "text": "Which?", "image": "0.png"}), PART_UNREAD.format("image")),
    (ask({"text": "Which?", "image": "0.png"}), PART_UNREAD.format("image")),
    (ask("Which?"), "a content part is not an object"),
    (ask({"type": "image", "image": ["0.png"]}, ASK), "an image part is not one picture"),
    (ask({"type": "image"}, ASK), "<image> in the text of a record without images"),
    ({**ask({"type": "image"}, {"type": "image"}, ASK), "images": ["0.png"]}, "2 <image> marks, 1 image"),
    ({**ask({"type": "image", "image": "0.png"}, ASK), "images": ["1.png"]}, "1 places for images, 2 images"),
    (
        ask({"type": "image", "image": "0.png"}, {"type": "text", "text": "An <image>?"}),
        "<image> in the text beside image parts",
    ),
    (
        ask(ASK, answer={**SAY, "content": [{"type": "image", "image": "0.png"}, ASK]}),
        "<image> in a system turn or an answer",
    ),
    (ask({"type": "image", "image": "https://x.y/z.png"}, ASK), WEB),
    ({**PLAIN, "image": "s3://b/z.png"}, "image is at a s3:// address: download it and name the file"),
    ({**PLAIN, "image": "data:image/png,abc"}, "a data: address of an image is not base64"),
    ({**PLAIN, "image": "data:image/png;base64,a%c"}, "the base64 of an image is broken"),
    ({**PLAIN, "image": "file:///etc/passwd"}, "image path leads out of the folder"),
    (ask(ASK, answer={**SAY, "tool_calls": [{"id": "x"}]}), TURN_UNREAD.format("tool_calls")),
    (ask(ASK, answer={**SAY, "reasoning_content": "Hm."}), TURN_UNREAD.format("reasoning_content")),
    (ask(ASK, answer={**SAY, "weight": 0}), TURN_UNREAD.format("weight")),
    (ask(ASK, answer={**SAY, "train": False}), TURN_UNREAD.format("train")),
    (
        {"messages": [*PLAIN["messages"], {"role": "tool", "content": "3"}]},
        "a turn is of tool, and not of user, assistant or system",
    ),
    ({**PLAIN, "tools": [{"name": "x"}]}, KIND.format("tools")),
    ({**PLAIN, "tools": '[{"name": "x"}]'}, KIND.format("tools")),
    ({**PLAIN, "videos": ["a.mp4"]}, KIND.format("videos")),
    ({**PLAIN, "audio": "a.wav"}, KIND.format("audio")),
    ({**PLAIN, "objects": {"bbox": [[1, 2]], "ref": ["x"]}}, KIND.format("objects")),
    ({**PLAIN, "rejected_response": "Blue."}, KIND.format("rejected_response")),
    ({**PLAIN, "prompt": PLAIN["messages"][:1]}, KIND.format("prompt")),
    ({**PLAIN, "depth": {"bytes": "x", "path": "d.png"}}, KIND.format("depth")),
    ({**PLAIN, "image_path": "0.png"}, "field image_path names an image and is not read"),
    ({**PLAIN, "image": "0.png", "image_2": "1.png"}, "field image_2 names an image and is not read"),
    ({**PLAIN, "image": "0.png", "images": ["1.png"]}, "fields images and image differ"),
    ({**PLAIN, "texts": [{"user": "Which?", "assistant": "Blue."}]}, "fields messages and texts are two conversations"),
    (
        {**PLAIN, "system": "a", "messages": [{"role": "system", "content": "b"}, *PLAIN["messages"]]},
        "a system turn is not the first",
    ),
    (
        {"question": "Which?", "answer": "Red.", "options": ["Red.", "Blue."]},
        "field options belongs to the question and is not in it",
    ),
    ({"question": "Which?", "query": "What?", "answer": "Red."}, "fields question and query are both there"),
    ({"question": "Which?", "answer": 0.5}, "a question or its answer is neither text nor a whole number"),
    ({"question": "Which?", "answer": True}, "a question or its answer is neither text nor a whole number"),
    (
        {"question": "Which? 0: red, 1: blue", "choices": ["red", "blue"], "answer": 1},
        "a number is the answer beside field choices: give the text of the choice",
    ),
    (
        {"question": "Which of 12?", "choices": ["1", "2"], "answer": "1"},
        "field choices belongs to the question and is not in it",
    ),
    ({"image": "0.png", "caption": "A dog.", "text": "A cat."}, "fields caption and text are two captions"),
    ({"images": ["0.png", "1.png"], "caption": "Two dogs."}, "a caption of several images"),
    ({"image": "0.png", "caption": "A dog.", "question": "Who?"}, "field question beside a caption is not read"),
    ({"text": "A text alone."}, NO_TALK),
    (
        {"messages": [*PLAIN["messages"], {"role": "user", "content": "And?"}]},
        "the last turn is a question without an answer",
    ),
    ({"query": "<video>What happens?", "response": "Much."}, "a mark of a kind that is not read: <video>"),
    ({"query": "<|audio_pad|>Who?", "response": "He."}, "a mark of a kind that is not read: <|audio_pad|>"),
    ({"image": "0.png", "text": '{"question": "Who?", "chosen": "A dog."}'}, "field text is JSON, and no caption"),
    ({"image": "0.png", "caption": " "}, NO_TALK),
    (
        {"question": "Which?", "A": "Red.", "B": "Blue.", "answer": "A"},
        "field A belongs to the question and is not in it",
    ),
    ({"prompt": "Which?", "chosen": "Red.", "rejected": "Blue."}, KIND.format("chosen")),
    (
        {"prompt": "Which?", "completion": "Blue.", "label": False},
        "field label says that the answer is not to be learnt",
    ),
    ({**PLAIN, "weight": 0.0}, "field weight says that the answer is not to be learnt"),
    ({"conversations": said("<|image_1|>\nWhich?", "Red."), "image": "0.png"}, MARK.format("<|image_1|>")),
    ({"conversations": said("Picture 1: <img>0.png</img>", "Red.")}, MARK.format("<img>")),
    ({"conversations": said("<image 1> Which?", "Red."), "image": "0.png"}, MARK.format("<image 1>")),
    ({"messages": [PLAIN["messages"][0], *PLAIN["messages"]]}, "turns do not alternate, human first"),
    ({**PLAIN, "images": [f"{number}.png" for number in range(65)]}, "more than 64 images"),
    ({"messages": "[{"}, "field messages is text, and not JSON"),
    ({"messages": {"role": ["user"], "content": []}}, "field messages is missing or empty"),
    ({**PLAIN, "answers": ["\ud800"]}, "text with half of a character (a lone surrogate)"),
    ({"messages": [{"role": "user", "content": "\ud83d?"}, SAY]}, "text with half of a character (a lone surrogate)"),
]


def test_what_would_lose_something_is_left_out_with_a_reason(folder: Path) -> None:
    """NaN, and halves of characters as Python's json writes them, cost no more than their record."""
    records = [*(record for record, _ in LEFT_OUT), {**PLAIN, "id": "good", "score": float("nan")}]
    found, reasons = prepare(folder, records)
    assert found.keys() == {"good"}
    assert reasons == {f"record {number}": reason for number, (_, reason) in enumerate(LEFT_OUT)}


def test_a_line_with_nan_is_read_and_a_broken_one_is_not(folder: Path) -> None:
    lines = [json.dumps({**PLAIN, "id": "nan", "score": float("inf")}), '{"id": nan}']
    (folder / "data.jsonl").write_text("\n".join(lines))
    make_dataset(folder / "data.jsonl", folder / "out", calibration=0.0, holdout=0.0)
    found, reasons = list_samples(folder / "out")
    assert (found.keys(), reasons) == ({"nan"}, {"line 2": "line is not JSON"})


words = st.text("ab <image>\n", max_size=8).filter(lambda text: "<image>" not in text)
numbers = st.integers(0, 9)


@given(st.lists(st.lists(st.one_of(words, numbers), min_size=1, max_size=5), min_size=1, max_size=3), st.booleans())
def test_parts_and_pictures_keep_their_order(turns: list[list[str | int]], in_column: bool) -> None:
    """Pictures are bytes in the parts, or all in a column; the text may be anything without a mark."""
    messages, column, wanted = [], [], []
    for parts in turns:
        content: list[dict[str, Any]] = [{"type": "text", "text": "x"}]
        for part in parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                content.append({"type": "image"} if in_column else {"type": "image", "image": bytes([part])})
                column.append(bytes([part]))
        messages += [{"role": "user", "content": [*content, {"type": "text", "text": "x"}]}, SAY]
        wanted.append(["x", *parts, "x"])
    if has_mark(wanted):
        with pytest.raises(UnusableRecordError, match="<image>"):
            place(messages, column if in_column else [])
        return
    placed, images = place(messages, column if in_column else [])
    left = iter(images)
    for turn, own in zip(placed[::2], wanted, strict=True):
        parts = split_marks(turn.value) if images else [turn.value]
        shown = [next(left)[0] if part is None else part for part in parts]
        assert join(shown) == join(own)
    assert next(left, None) is None


def place(messages: list[Any], column: list[bytes]) -> tuple[tuple[Turn, ...], tuple[Any, ...]]:
    turns, images = build_conversation({"messages": messages}, column)
    return place_images(turns, len(images)), images


def has_mark(turns: list[list[Any]]) -> bool:
    """Whether neighbouring texts make a mark between them."""
    return any("<image>" in part for parts in turns for part in join(parts) if isinstance(part, str))


def join(parts: list[Any]) -> list[Any]:
    joined: list[Any] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return joined


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text("a<image>/.:,", max_size=9), st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "text", "image", "image_url", "url", "path", "bytes", "role", "content", "from"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(json_values)
def test_content_of_any_kind_is_read_or_refused(value: Any) -> None:
    try:
        content = read_content(value)
    except UnusableRecordError:
        return
    assert content.text.count("<image>") == len(content.images)
    assert all(image is NEXT or isinstance(image, (str, bytes)) for image in content.images)


@given(
    st.dictionaries(st.sampled_from(["messages", "texts", "image", "images", "system", "x"]), json_values, max_size=4)
)
def test_a_row_of_any_kind_is_read_or_refused(row: dict[str, Any]) -> None:
    read = PictureReader(FileRecorder({IMAGES: Path("/nowhere")}), IMAGES)
    try:
        turns, images = build_conversation(row, find_images(row))
        place_images(turns, len(images))
        assert all(isinstance(read(image), bytes) for image in images)
    except UnusableRecordError:
        return


@pytest.mark.parametrize(
    ("rating", "reason"),
    [
        (float("nan"), "the rating of relevance is not a number"),
        (2, "relevance below 3"),
        ("4", None),
        (None, "no rating of relevance"),
    ],
)
def test_a_rating_that_is_no_number_is_none(rating: Any, reason: str | None) -> None:
    assert find_low_rating({"relevance_min": rating}, [("relevance", 3)]) == reason
