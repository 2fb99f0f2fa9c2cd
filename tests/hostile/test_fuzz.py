"""Bytes and values at random, into the readers that meet strangers' files."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace_cli.core.prune import draft
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.plan import Plan
from interlace_cli.errors import CheckpointError, InterlaceError
from interlace_cli.families.model_files import open_config
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.headers import read_header
from interlace_cli.io.models import import_transformers
from interlace_cli.io.score_files import load_scores
from interlace_cli.options import PruneOptions

SOME = settings(max_examples=150, deadline=None)
WHOLE = (CHECKPOINT / "model.safetensors").read_bytes()[: 8 + 40_000]
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)
counts = st.integers(-3, 80) | st.integers(-(2**70), 2**70)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "X1", ""]) | values,
        "shape": st.lists(counts, max_size=4) | values,
        "data_offsets": st.lists(counts, max_size=3) | values,
        "more": values,
    },
)
headers = st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), entries | values, max_size=5)


def read(data: bytes) -> None:
    """In success, or in an error of ours. A header that passes describes the file to the byte."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(data)
        try:
            tensors, metadata = read_header(path)
        except CheckpointError:
            return
        place = 8 + int.from_bytes(data[:8], "little")
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
            assert tensor.start == place
            place = tensor.end
        assert place == len(data)
        assert all(isinstance(value, str) for value in metadata.values())


@SOME
@given(st.binary(max_size=200))
def test_any_bytes_as_safetensors(data: bytes) -> None:
    read(data)


@SOME
@given(headers, st.integers(0, 80), st.integers(-2, 2))
def test_any_header(header: dict[str, Any], length: int, lie: int) -> None:
    try:
        raw = json.dumps(header).encode()
    except ValueError:
        return
    read(max(len(raw) + lie, 0).to_bytes(8, "little") + raw + b"\0" * length)


@SOME
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_byte_changed_in_a_real_header(place: int, change: int) -> None:
    data = bytearray(WHOLE)
    data[place] ^= change
    read(bytes(data))


@SOME
@given(
    st.sampled_from([Plan, Analysis, Manifest, Evaluation, CheckpointCard]),
    values,
    st.binary(max_size=80),
    st.booleans(),
)
def test_anything_as_an_artifact(cls: Any, value: Any, data: bytes, is_json: bool) -> None:
    if is_json:
        fields = {"kind": cls.KIND, "schema": 1, **(value if isinstance(value, dict) else {"inputs": value})}
        data = json.dumps(fields).encode(errors="surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(data)
        with pytest.raises(InterlaceError, match=r"x\.json"):
            load_artifact(path, cls)


@SOME
@given(st.dictionaries(st.sampled_from(["0", "1", "2", "3", "x"]), values | st.lists(st.floats(-1, 1)), max_size=4))
def test_anything_as_scores(value: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
        with pytest.raises(InterlaceError, match=r"x\.json"):
            load_scores([path, path, path])


CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
FIELDS = [(None, name) for name in CONFIG] + [
    (owner, name) for owner in ("text_config", "vision_config") for name in CONFIG[owner]
]
NAMES = (
    *("layer_types", "num_layers", "mlp_only_layers", "kv_source_layers", "num_kv_shared_layers", "ple_layer_ids"),
    *("cross_layer_interval", "layers_block_type", "attn_layer_period", "num_nextn_predict_layers", "per_layer_config"),
    *("deepstack_layer_map", "spatial_target_layers", "vision_feature_layer", "quantization_config", "indexer_types"),
    *("decoder_sparse_step", "max_window_layers", "moe_layer_end_index", "n_layers_per_attn_res_block", "decoder"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo; transformers is at hand, so that what a config leaves open is asked of it here."""
    import_transformers()
    return Path(shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("fuzz") / "model"))


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(FIELDS) | st.tuples(st.sampled_from([None, "text_config"]), st.sampled_from(NAMES)),
            values | st.integers(-20, 20) | st.lists(st.integers(-2, 20), max_size=18),
        ),
        min_size=1,
        max_size=2,
    )
)
def test_anything_in_a_config(model: Path, changes: list[tuple[tuple[str | None, str], Any]]) -> None:
    config = json.loads(json.dumps(CONFIG))
    for (owner, name), value in changes:
        inner = config if owner is None else config.get(owner)
        if isinstance(inner, dict):
            inner[name] = value
    text = json.dumps(config)
    (model / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    for stack in ("language", "vision"):
        try:
            open_config(model, stack)
            draft(PruneOptions(model=str(model), drop_layers=(3,), stack=stack))
        except InterlaceError:
            continue
