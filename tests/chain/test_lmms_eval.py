"""lmms-eval itself, offline, on a task and data of our own. Runs where it is installed (extra `lmms-eval`)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interlace_cli.io.datasets import load_split, open_reader

pytestmark = [
    pytest.mark.harness,
    pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed"),
]

TASK = """
task: demo_world
dataset_path: parquet
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_messages: !function utils.doc_to_messages
doc_to_target: answer
generation_kwargs: {max_new_tokens: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}]
"""
UTILS = """
import io
from PIL import Image


def doc_to_visual(doc):
    image = doc["image"]
    image = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image["bytes"]))
    return [image.convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    content = [{"type": "image", "url": doc_to_visual(doc)[0]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]
"""


def test_a_local_task_is_run_and_read(small_dataset: Path, tmp_path: Path) -> None:
    reader = open_reader(small_dataset)
    samples = load_split(small_dataset, "heldout")[:20]
    pictures = [{"bytes": reader.load_image(sample.image[0])} for sample in samples]
    rows = [{"image": p, "question": s.question, "answer": s.answer} for p, s in zip(pictures, samples, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/demo_world.yaml").write_text(TASK.replace("DATA", str(tmp_path / "test.parquet")))
    (tmp_path / "tasks/utils.py").write_text(UTILS)
    words = ["eval", "demo", "-w", tmp_path / "w", "--harness", "lmms-eval", "--tasks", "demo_world", "--json"]
    words += ["--include-path", tmp_path / "tasks"]
    # Pictures as the demo was trained on, and no word of a system that it never heard.
    for given in ("device=cpu", "device_map=cpu", "min_pixels=4096", "max_pixels=4096", "system_prompt="):
        words += ["--harness-arg", given]
    done = subprocess.run(
        [sys.executable, "-m", "interlace_cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["benchmarks"]["rows"]
    assert 60 <= row["scores"]["demo_world"] <= 100
    assert row["errors"]["demo_world"] > 0
