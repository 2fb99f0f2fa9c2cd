"""What is published: the folder and its card read by the Hub's own library, the upload by a Hub on localhost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import Hub
from huggingface_hub import ModelCard
from making import make_cut

from interlace_cli.core.export import export as export_step
from interlace_cli.domain.checkpoint import CheckpointCard, Healing
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import MissingInputError, UsageError
from interlace_cli.io.artifacts import load_artifact
from interlace_cli.io.models import import_transformers
from interlace_cli.options import EvaluateOptions, ExportOptions
from interlace_cli.report.card_metadata import build_metadata


@pytest.fixture(scope="module")
def space(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose demo model lacks two layers, evaluated, with a benchmark beside it."""
    from interlace_cli.core.evaluate import evaluate

    folder = tmp_path_factory.mktemp("space")
    make_cut("demo", [5, 9], folder / "healed")
    shutil.copytree(small_dataset, folder / "dataset")
    pair = EvaluateOptions(checkpoints=("demo", str(folder / "healed")), workspace=folder, samples=44, speed=False)
    evaluate(pair, Silent())
    for name, score in (("demo", 80), ("healed", 72)):
        (folder / f"{name}.json").write_text(f'{{"AI2D": {score}}}')
    files = tuple((name, folder / f"{name}.json") for name in ("demo", "healed"))
    evaluate(replace(pair, import_results=files, samples=None, speed=True), Silent())
    return folder


def export(space: Path, out: Path, **options: Any) -> Path:
    export_step(ExportOptions(workspace=space, out=out, **options), Silent())
    return out


def test_the_card_is_read_by_the_hubs_own_library(space: Path, tmp_path: Path) -> None:
    folder = export(space, tmp_path / "out", base_model="someone/demo", license="apache-2.0", name="someone/short")
    data = ModelCard.load(folder / "README.md").data
    assert (data.base_model, data.license, data.library_name) == ("someone/demo", "apache-2.0", "transformers")
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert data.pipeline_tag == "image-text-to-text"
    assert set(data.tags) >= {"interlace", "layer-pruning"}
    assert data.model_name == "short"
    results = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    assert results["AI2D", "accuracy"] == 72.0
    assert 50 < results["demo, held out", "exact_match"] <= 100
    assert ("demo, held out", "retention") in results
    text = (folder / "README.md").read_text()
    assert "| vLLM | not tried | `vllm serve someone/short` |" in text
    assert "| transformers " in text
    assert "| AI2D | 80.0 | 72.0 (90.0%) |" in text


def test_the_data_that_healed_it_is_named_by_its_hub_id(space: Path, tmp_path: Path) -> None:
    card = load_artifact(space / "healed/interlace.json", CheckpointCard)
    fields = {"recipe": {}, "steps": 1, "samples": 1, "first_loss": 1.0, "last_loss": 1.0, "trained_parameters": 1}
    where = {"dataset": "finevision", "dataset_location": "HuggingFaceM4/FineVision", "dataset_revision": "abc"}
    healed = card.model_copy(update={"healing": Healing(**fields, **where, frozen_sha256="")})
    text = build_metadata(healed, None, "someone/short", "someone/demo", "other", "")
    assert ModelCard(f"{text}\n# x").data.datasets == ["HuggingFaceM4/FineVision"]
    assert "datasets" not in ModelCard(build_metadata(card, None, "x", "y", "other", "")).data.to_dict()


def test_the_folder_loads_with_plain_transformers(space: Path, tmp_path: Path) -> None:
    folder = export(space, tmp_path / "out")
    transformers = import_transformers()
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.text_config.num_hidden_layers == 14
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.shape[:2] == (1, 3)


def test_without_a_hub_id_no_base_model_is_claimed(space: Path, tmp_path: Path) -> None:
    data = ModelCard.load(export(space, tmp_path / "out") / "README.md").data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data


def push(hub: Hub, space: Path, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["export", "-w", space, "--out", folder / "out", "--push-to-hub", "someone/short", *words]
    return subprocess.run(
        [sys.executable, "-m", "interlace_cli", *map(str, command)],
        env={**hub.environment(folder / "home"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def find_visibility(hub: Hub) -> str:
    """Newer versions of the Hub's library say visibility, older ones private."""
    return hub.created.get("visibility") or ("private" if hub.created["private"] else "public")


@pytest.mark.long
def test_a_push_is_private_whole_and_silent_about_its_token(space: Path, tmp_path: Path) -> None:
    hub = Hub({})
    secret = "hf_abcdefghijklmnop"
    done = push(hub, space, tmp_path, HF_TOKEN=secret)
    assert done.returncode == 0, done.stderr
    assert find_visibility(hub) == "private"
    assert f"Bearer {secret}" in hub.tokens
    sent = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {name: data for name, data in hub.uploads.items() if name != ".gitattributes"} == sent
    assert secret not in done.stdout + done.stderr
    assert secret not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.*") if p.suffix in (".json", ".md"))
    hub.uploads.clear()
    before = (tmp_path / "out/README.md").stat().st_mtime_ns
    for name in ("nohup.out", ".env", "runs/events.out.tfevents.1", "runs/x/args.json"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("somebody's own")
    again = push(hub, space, tmp_path, "--public", HF_TOKEN=secret)
    assert again.returncode == 0, again.stderr
    assert "not pushed, as no part of the checkpoint: nohup.out, runs/" in again.stderr
    assert find_visibility(hub) == "public"
    assert (tmp_path / "out/README.md").stat().st_mtime_ns == before, "what lay there already was pushed"
    assert {name: data for name, data in hub.uploads.items() if name != ".gitattributes"} == sent


@pytest.mark.long
def test_a_push_that_fails_leaves_the_folder_and_one_sentence(space: Path, tmp_path: Path) -> None:
    hub = Hub({})
    hub.server.shutdown()
    hub.server.server_close()
    done = push(hub, space, tmp_path, HF_TOKEN="hf_secretsecret")
    assert done.returncode == 1
    assert "is complete, but could not be pushed to someone/short" in done.stderr
    assert "hf_secret" not in done.stderr
    assert (tmp_path / "out/README.md").exists()


def test_formats_by_other_tools_need_those_tools(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    with pytest.raises(MissingInputError, match=r"there is no llama\.cpp"):
        export(space, tmp_path / "out", format=("gguf",))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=r"--format does not take 'onnx'\. It takes hf or gguf"):
        export(space, tmp_path / "out", format=("onnx",))


@pytest.mark.harness
@pytest.mark.skipif("LLAMA_CPP" not in os.environ, reason="no llama.cpp here")
def test_gguf_is_converted_and_answers_in_llama_cpp(tmp_path: Path) -> None:
    """A random Qwen3-VL with Qwen's own vocabulary, taken from the vocabulary files that llama.cpp carries."""
    from tiny import save_qwen_with_real_words

    save_qwen_with_real_words(tmp_path / "dense", Path(os.environ["LLAMA_CPP"]))
    make_cut(tmp_path / "dense", [3], tmp_path / "healed")
    export(tmp_path, tmp_path / "out", format=("gguf",), name="tiny")
    assert {path.name for path in (tmp_path / "out/gguf").iterdir()} == {"tiny-f16.gguf", "mmproj-tiny-f16.gguf"}
    assert "tried: converted, and answered about a picture" in (tmp_path / "out/README.md").read_text()
