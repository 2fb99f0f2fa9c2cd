"""Checkpoints from strangers: headers that lie, indices that lead elsewhere, configs that cannot be."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcome import call, refuse

from interlace_cli.demo import CHECKPOINT

Header = dict[str, Any]
DATA = b"\0" * 64
WEIGHT = "model.language_model.layers.0.mlp.up_proj.weight"


def pack(header: Any, data: bytes = DATA, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def one(**changes: Any) -> Header:
    entry = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    return {"x": {**entry, **changes}}


def two(first: list[int], second: list[int]) -> Header:
    return {"x": {"dtype": "U8", "shape": [first[1] - first[0]], "data_offsets": first}} | {
        "y": {"dtype": "U8", "shape": [second[1] - second[0]], "data_offsets": second}
    }


HEADERS: dict[str, bytes] = {
    "no bytes": b"",
    "seven bytes": b"1234567",
    "a length and nothing else": (8).to_bytes(8, "little"),
    "a length of 2**64 - 1": b"\xff" * 8 + b"{}",
    "a length of 2**63": (1 << 63).to_bytes(8, "little") + b"{}",
    "a length one too many": pack(one(), b"", len(json.dumps(one())) + 1),
    "text": b"this is no safetensors file, but a page that says 404 not found" * 10,
    "HTML": b"<!DOCTYPE html><html><body>Sign in</body></html>" * 10,
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n" * 3,
    "not JSON": pack(b"{not json}"),
    "not UTF-8": pack(b'{"\xff\xfe": 1}'),
    "JSON cut off": pack(b'{"x": {"dtype": "F32"'),
    "a list": pack([1, 2, 3]),
    "a number": pack(7),
    "null": pack(None),
    "a text in its place": pack("F32"),
    "lists 5000 deep": pack(b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "objects 900 deep": pack(b'{"x": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}"),
    "an entry that is a list": pack({"x": [1, 2]}),
    "an entry that is null": pack({"x": None}),
    "no dtype": pack({"x": {"shape": [4, 4], "data_offsets": [0, 64]}}),
    "no shape": pack({"x": {"dtype": "F32", "data_offsets": [0, 64]}}),
    "no offsets": pack({"x": {"dtype": "F32", "shape": [4, 4]}}),
    "a dtype that is a number": pack(one(dtype=32)),
    "a dtype that is null": pack(one(dtype=None)),
    "a shape that is a text": pack(one(shape="44")),
    "a negative shape": pack(one(shape=[-4, -4])),
    "a shape of a fraction": pack(one(shape=[4.5, 4])),
    "a shape with true": pack(one(shape=[True, 16])),
    "a shape of another size": pack(one(shape=[4, 5])),
    "an enormous shape": pack(one(shape=[1 << 40, 1 << 40])),
    "a shape beyond 64 bits": pack(one(shape=[10**30])),
    "a shape of ten thousand axes": pack(one(shape=[1] * 10_000)),
    "zero times enormous": pack(one(shape=[0, 1 << 60])),
    "offsets beyond the end": pack(one(shape=[1 << 20], data_offsets=[0, 4 << 20])),
    "offsets beyond 64 bits": pack(one(data_offsets=[0, 10**25])),
    "negative offsets": pack(one(data_offsets=[-64, 0])),
    "offsets that run backwards": pack(one(data_offsets=[64, 0])),
    "offsets that are texts": pack(one(data_offsets=["0", "64"])),
    "offsets that are fractions": pack(one(data_offsets=[0.0, 64.0])),
    "one offset": pack(one(data_offsets=[64])),
    "three offsets": pack(one(data_offsets=[0, 32, 64])),
    "offsets into the header": pack(one(data_offsets=[-8, 56])),
    "ranges that overlap": pack(two([0, 40], [24, 64])),
    "the same range twice": pack(two([0, 64], [0, 64])),
    "a gap between two": pack(two([0, 24], [40, 64])),
    "a gap in front": pack(two([8, 24], [24, 64])),
    "bytes behind the last": pack(one(), DATA + b"more"),
    "data cut off": pack(one(), DATA[:-1]),
    "no data": pack(one(), b""),
    "one name twice": pack(
        b'{"x": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]},'
        b' "x": {"dtype": "U8", "shape": [8, 8], "data_offsets": [0, 64]}}'
    ),
    "metadata that are a list": pack({"__metadata__": ["pt"], **one()}),
    "metadata of numbers": pack({"__metadata__": {"format": 1}, **one()}),
    "metadata of metadata": pack({"__metadata__": {"a": {"b": "c"}}, **one()}),
    "no tensors": pack({}, b""),
    "only metadata": pack({"__metadata__": {"format": "pt"}}, b""),
    "an empty name": pack({"": one()["x"]}),
    "a name with a path in it": pack({"../../etc/passwd": one()["x"]}),
    "a name with control characters": pack({"x\u0000\u001b[31m\n": one()["x"]}),
    "a name of a megabyte": pack({"n" * (1 << 20): one()["x"]}),
    "a number of a layer beyond counting": pack({f"model.layers.{'9' * 5000}.w": one()["x"]}),
    "another model's tensors": pack({"transformer.h.0.attn.weight": one()["x"]}),
    "superscripts for numbers": pack({"model.language_model.layers.\u00b2.w": one()["x"]}),
    "digits of another script": pack({"model.language_model.layers.\u0663.w": one()["x"]}),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo's folder, with everything but weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in CHECKPOINT.iterdir():
        if path.suffix != ".safetensors" and path.is_file():
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def whole(model: Path) -> Path:
    shutil.copy(CHECKPOINT / "model.safetensors", model)
    return model


def cut(model: Path, out: str = "out", layers: str = "3,6") -> list[str | Path]:
    return ["prune", model, "--drop-layers", layers, "--out", model.parent / out, "-q"]


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies(name: str, model: Path) -> None:
    (model / "model.safetensors").write_bytes(HEADERS[name])
    refuse(*cut(model), names=str(model))
    assert not (model.parent / "out").exists()


def test_a_header_of_a_hundred_megabytes_is_not_read(model: Path) -> None:
    with (model / "model.safetensors").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)
    refuse(*cut(model), names="not a whole safetensors file")


def test_a_header_of_blanks_near_the_limit_is_read_in_bounded_time(model: Path) -> None:
    raw = b"{}" + b" " * 50_000_000
    (model / "model.safetensors").write_bytes(pack(raw, b""))
    refuse(*cut(model), names="no language tensors")


def put_index(model: Path, weight_map: Any, **more: Any) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map, **more}))


INDICES: dict[str, Any] = {
    "up and out": {WEIGHT: "../../../../../../etc/passwd"},
    "an absolute path": {WEIGHT: "/etc/passwd"},
    "out and in again": {WEIGHT: "../outside.safetensors"},
    "a folder below": {WEIGHT: "sub/../../outside.safetensors"},
    "a name with a zero byte": {WEIGHT: "a\u0000.safetensors"},
    "an empty name": {WEIGHT: ""},
    "the folder itself": {WEIGHT: "."},
    "a name of 5000 letters": {WEIGHT: "a" * 5000 + ".safetensors"},
    "a file that is not there": {WEIGHT: "model-00001-of-00002.safetensors"},
    "the config": {WEIGHT: "config.json"},
    "a pickle": {WEIGHT: "pytorch_model.bin"},
    "a number": {WEIGHT: 1},
    "null": {WEIGHT: None},
    "a list of files": {WEIGHT: ["weights.safetensors"]},
    "a list": ["weights.safetensors"],
    "nothing": {},
    "no map": None,
    "a tensor that no file has": {"model.ghost": "weights.safetensors"},
    "a home": {WEIGHT: "~/model.safetensors"},
    "a device": {WEIGHT: "/dev/zero"},
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_leads_elsewhere(name: str, whole: Path) -> None:
    (whole.parent / "outside.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    (whole / "model.safetensors").rename(whole / "weights.safetensors")
    put_index(whole, INDICES[name])
    refuse(*cut(whole), names=str(whole))
    assert not (whole.parent / "out").exists()


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"weight_map": {"a": "b"', "\ufeff{}", '"weight_map"'])
def test_an_index_that_is_none(text: str, whole: Path) -> None:
    (whole / "model.safetensors").rename(whole / "weights.safetensors")
    (whole / "model.safetensors.index.json").write_text(text)
    refuse(*cut(whole), names="model.safetensors.index.json")


def test_a_tensor_in_two_files(whole: Path) -> None:
    shutil.copy(whole / "model.safetensors", whole / "again.safetensors")
    (whole / "model.safetensors").rename(whole / "weights.safetensors")
    put_index(whole, {WEIGHT: "weights.safetensors", "y": "again.safetensors"})
    refuse(*cut(whole), names="again.safetensors")


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"],
)
@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "../secret", "loop"])
def test_links_out_of_the_folder_are_not_followed(name: str, target: str, whole: Path) -> None:
    """Or a secret would lie in what is exported, and published."""
    (whole.parent / "secret").write_text("hf_secret")
    (whole / name).unlink(missing_ok=True)
    os.symlink(name if target == "loop" else target, whole / name)
    refuse(*cut(whole), names=name)
    assert not (whole.parent / "out").exists()


@pytest.mark.parametrize("target", ["/dev/zero", "../pipe", "../folder", "../ghost", "../text"])
def test_weights_that_are_links_to_no_weights(target: str, whole: Path) -> None:
    (whole.parent / "folder").mkdir()
    os.mkfifo(whole.parent / "pipe")
    (whole.parent / "text").write_text("hf_secret")
    (whole / "model.safetensors").unlink()
    os.symlink(target, whole / "model.safetensors")
    found = refuse(*cut(whole), names="model.safetensors")
    assert "hf_secret" not in found.err
    assert not (whole.parent / "out").exists()


def test_a_linked_folder_that_an_index_leads_through(whole: Path) -> None:
    """The name is that of a file in the folder, and the file lies elsewhere."""
    (whole.parent / "elsewhere").mkdir()
    (whole / "model.safetensors").rename(whole.parent / "elsewhere/weights.safetensors")
    os.symlink("../elsewhere", whole / "sub")
    put_index(whole, {WEIGHT: "sub/weights.safetensors"})
    refuse(*cut(whole), names="sub/weights.safetensors leads out of the folder")


def test_what_is_not_carried_may_be_a_link_to_anywhere(whole: Path) -> None:
    (whole.parent / "secret").write_text("hf_secret")
    for name, target in (("logs", "/"), ("notes.txt", "../secret"), ("loop", "loop"), ("checkpoint-9", "../ghost")):
        os.symlink(target, whole / name)
    found = call(*cut(whole))
    assert found.code == 0, found.err
    assert not {"logs", "notes.txt", "loop", "checkpoint-9"} & {path.name for path in (whole.parent / "out").iterdir()}


def test_a_snapshot_of_the_hub_has_its_weights_in_the_cache(whole: Path) -> None:
    """What a stranger uploaded cannot lead to a file outside of the cache; a folder of one's own can."""
    snapshot = whole.parent / "models--a--b/snapshots/0123"
    snapshot.parent.mkdir(parents=True)
    (whole / "model.safetensors").rename(whole.parent / "outside.safetensors")
    os.symlink(whole.parent / "outside.safetensors", whole / "model.safetensors")
    shutil.copytree(whole, snapshot, symlinks=True)
    refuse("prune", snapshot, "--drop-layers", "3", "--out", whole.parent / "out", names="leads out of the folder")
    found = call("prune", whole, "--drop-layers", "3", "--out", whole.parent / "out")
    assert found.code == 0, found.err
    assert "Weights are read from elsewhere" in found.err


def test_the_links_of_the_hubs_cache_are_followed(whole: Path) -> None:
    """`snapshots/<commit>/x` is a link to `blobs/<hash>` beside."""
    cache = whole.parent / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "0123").mkdir(parents=True)
    for number, path in enumerate(whole.iterdir()):
        shutil.copy(path, cache / "blobs" / str(number))
        os.symlink(f"../../blobs/{number}", cache / "snapshots" / "0123" / path.name)
    found = call("prune", cache / "snapshots" / "0123", "--drop-layers", "3", "--out", whole.parent / "out", "-q")
    assert found.code == 0, found.err
    assert not any(path.is_symlink() for path in (whole.parent / "out").iterdir())


class Boom:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("pickled-code-ran",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_is_refused_and_not_loaded(name: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    (model / name).write_bytes(pickle.dumps(Boom()))
    refuse(*cut(model), names=name)
    refuse("analyze", model, "--dataset", model.parent, "-w", model.parent / "w", names=name)
    assert not (model.parent / "pickled-code-ran").exists()


def test_a_pickle_that_is_called_safetensors(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    (model / "model.safetensors").write_bytes(pickle.dumps(Boom()) + b"\0" * 500)
    refuse(*cut(model), names="model.safetensors")
    assert not (model.parent / "pickled-code-ran").exists()


def test_code_beside_the_weights_is_not_run(whole: Path, tmp_path: Path, small_dataset: Path) -> None:
    """`auto_map` asks transformers to import it."""
    config = json.loads((whole / "config.json").read_text())
    names = {"AutoConfig": "evil.EvilConfig", "AutoModelForImageTextToText": "evil.EvilModel"}
    config |= {"auto_map": names, "model_type": "evil", "architectures": ["EvilModel"]}
    (whole / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "code-ran"
    (whole / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass EvilConfig: pass\nclass EvilModel: pass\n")
    call("plan", "--model", whole, "--ratio", "0.25", "-w", tmp_path / "w")
    words = ("analyze", whole, "--dataset", small_dataset, "-w", tmp_path / "w", "--samples", "2")
    refuse(*words, names="code from a checkpoint is never run")
    call(*cut(whole), "--verify")
    assert not mark.exists()


def change(config: dict[str, Any], path: str, value: Any) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        config = config[owner]
    if value is DELETE:
        del config[name]
    else:
        config[name] = value


DELETE = object()
DEEP: Any = 1
for _ in range(400):
    DEEP = {"a": DEEP}
CONFIGS: list[tuple[str, Any]] = [
    *[("text_config.num_hidden_layers", value) for value in (0, 1, -16, 15, 17, 1000, 10**9, 10**30, 16.5)],
    *[("text_config.num_hidden_layers", value) for value in ("16x", [16], {"n": 16}, True, False)],
    *[("text_config", value) for value in (None, [], 3, "text", {}, [{}], DELETE, {"model_type": 3})],
    *[("vision_config.deepstack_visual_indexes", value) for value in (3, True, "01", ["a"], [None], [[0]], [0.5])],
    *[("model_type", value) for value in (None, 3, [], {}, "", DELETE)],
    *[("text_config.layer_types", value) for value in (3, [3] * 16, [["a"]] * 16, [None] * 16, {"a": 1})],
    *[("text_config.mlp_only_layers", value) for value in (["a"], [None], 3, {"a": 1}, "3")],
    *[("text_config.num_nextn_predict_layers", value) for value in ("a", [1], -3, 10**12)],
    ("text_config.kv_source_layers", ["a"] * 16),
    ("text_config.ple_layer_ids", [None]),
    ("text_config.per_layer_config", {"first": {}}),
    ("text_config.per_layer_config", 7),
    ("deepstack_layer_map", [[1]]),
    ("deepstack_layer_map", 5),
    ("spatial_target_layers", "all"),
    ("cross_layer_interval", 0),
    ("anything", DEEP),
    ("text_config.anything", [DEEP]),
]


def name_value(value: Any) -> str:
    return "deleted" if value is DELETE else str(value)[:24]


@pytest.mark.parametrize(("path", "value"), CONFIGS, ids=name_value)
def test_a_config_that_cannot_be(path: str, value: Any, whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    change(config, path, value)
    (whole / "config.json").write_text(json.dumps(config))
    refuse(*cut(whole), names=str(whole) if path != "model_type" else "model_type")
    assert not (whole.parent / "out").exists()
    call("plan", "--model", whole, "--ratio", "0.25", "-w", whole.parent / "w")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"null", b"3", b'"x"', b"{", b'{"a": 1}}', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{'a': 1}"),
        *(b'{"a": NaN}', b"[" * 100_000, b"\0" * 100, b'{"model_type": "\xed\xa0\x80"}'),
    ],
    ids=lambda data: repr(data)[:20],
)
def test_a_config_that_is_none(data: bytes, whole: Path) -> None:
    (whole / "config.json").write_bytes(data)
    refuse(*cut(whole), names=str(whole))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_in_place_of_a_file(name: str, whole: Path) -> None:
    (whole / name).unlink()
    (whole / name).mkdir()
    found = call(*cut(whole))
    assert (found.code == 0) is (name == "tokenizer.json")


@pytest.mark.parametrize(
    "layers", ["", "a", "3-", "-3", "3,,6", "99", "3-1", "0-15", "3.5", "1e9", "0-99999999999", "³"]
)
def test_layers_that_cannot_be(layers: str, whole: Path) -> None:
    found = call("prune", whole, f"--drop-layers={layers}", "--out", whole.parent / "out", "-q")
    assert (found.code == 0) is (layers == "3,,6"), found.err
