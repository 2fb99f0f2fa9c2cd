"""The analysis against a slow, obvious reference that keeps every layer's input in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import make_analysis
from tiny import TINY

from interlace_cli.data.batches import Batcher
from interlace_cli.families.modules import find_image_token, find_layers
from interlace_cli.importance.rows import count_patches
from interlace_cli.importance.similarity import SpanHook
from interlace_cli.io.arrays import load_arrays
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_model, load_processor
from interlace_cli.io.score_files import load_scores


def reference(model: Any, inputs: dict[str, torch.Tensor], image_token: int) -> dict[str, np.ndarray]:
    """Similarities [batch, spans] by modality and span length, from all hidden states at once."""
    layers, states = find_layers(model), []
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: states.append((*args, *kwargs.values())[0]), with_kwargs=True
        )
        for layer in layers
    ]
    handles.append(layers[-1].register_forward_hook(lambda _, args, out: states.append(out)))
    with torch.inference_mode():
        model(**inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    x = [state.double() for state in states]
    real = inputs["attention_mask"].bool()
    is_image = inputs["input_ids"] == image_token
    result = {}
    for name, mask in (("all", real), ("image", real & is_image), ("text", real & ~is_image)):
        last = torch.stack([state[:, -1] for state in x], dim=1)
        cosine = torch.cosine_similarity(last[:, :, None], last[:, None], dim=-1).clamp(-1, 1)
        result["angles"] = (torch.arccos(cosine) / torch.pi).numpy()
        for p in (1, 2, 3):
            rows = []
            for row in range(len(real)):
                cosines = [
                    torch.cosine_similarity(x[i][row], x[i + p][row], dim=-1) for i in range(len(layers) - p + 1)
                ]
                rows.append([float(cosine[mask[row]].mean()) for cosine in cosines])
            result[f"{name}_s{p}"] = np.array(rows)
    return result


@pytest.mark.parametrize("name", TINY)
def test_one_pass_equals_the_reference_for_every_family(name: str) -> None:
    tiny = TINY[name]
    model, inputs = tiny.build_model(), tiny.build_inputs()
    inputs["attention_mask"][1, :3] = 0
    wanted = reference(model, inputs, 5)
    with SpanHook(find_layers(model)) as tap:
        found = tap.run(model, inputs, inputs["input_ids"] == 5).numpy()
    for m, modality in enumerate(("all", "image", "text")):
        for p in (1, 2, 3):
            spans = wanted[f"{modality}_s{p}"]
            np.testing.assert_allclose(found[p - 1, : spans.shape[1], :, m].T, spans, atol=2e-6)
            assert not found[p - 1, spans.shape[1] :].any(), "no span ends behind the last layer"
    off_diagonal = ~np.eye(len(wanted["angles"][0]), dtype=bool)
    np.testing.assert_allclose(tap.angles.numpy()[:, off_diagonal], wanted["angles"][:, off_diagonal], atol=2e-4)


@pytest.mark.parametrize("name", TINY)
def test_the_image_token_and_the_patches_are_found_for_every_family(name: str) -> None:
    tiny = TINY[name]
    model, inputs = tiny.build_model(), tiny.build_inputs()
    assert find_image_token(model) == 5
    tiles = 2 if name in ("llava_next", "llava_onevision") else 1
    per_image = 16 if name.startswith("qwen") else 4 * tiles
    assert count_patches(inputs, model.config) == 2 * per_image


@pytest.fixture(scope="module")
def analyzed(chain_model: Path, small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysis")
    out, scores = folder / "analysis.json", folder / "scores"
    make_analysis(chain_model, small_dataset, out, samples=20, batch_size=8, write_scores=scores)
    return folder


def test_the_command_equals_the_reference_sample_by_sample(
    analyzed: Path, chain_model: Path, small_dataset: Path
) -> None:
    model = load_model(chain_model)
    batcher = Batcher(load_processor(chain_model), small_dataset)
    arrays = load_arrays(analyzed / "analysis.safetensors")
    samples = load_split(small_dataset, "calibration")[:20]
    for index, sample in enumerate(samples):
        wanted = reference(model, batcher.build_prompts([sample]), 5)
        for name, values in wanted.items():
            if name == "angles":
                continue
            np.testing.assert_allclose(arrays[name][index], values[0], atol=1e-5, err_msg=f"{name} of sample {index}")


def test_means_over_samples_are_those_of_the_arrays(analyzed: Path) -> None:
    analysis = json.loads((analyzed / "analysis.json").read_text())
    arrays = load_arrays(analyzed / "analysis.safetensors")
    for key, modality in (("similarity", "all"), ("image", "image"), ("text", "text")):
        for p in (1, 2, 3):
            np.testing.assert_allclose(analysis[key][f"s{p}"], arrays[f"{modality}_s{p}"].astype(float).mean(0))


def test_released_score_files_hold_what_was_measured_but_for_the_last_layer(analyzed: Path) -> None:
    scores = load_scores([analyzed / f"scores/pack{p}_hidden_state_similarities.json" for p in (1, 2, 3)])
    analysis = json.loads((analyzed / "analysis.json").read_text())
    assert scores.num_layers == 8
    for p, values in enumerate((scores.s1, scores.s2, scores.s3), start=1):
        np.testing.assert_allclose(values, analysis["similarity"][f"s{p}"][:-1], atol=1e-12)


def test_batch_size_moves_nothing_but_rounding_and_same_call_gives_same_bytes(
    analyzed: Path, chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    for name, batch_size in (("same", 8), ("other", 3)):
        make_analysis(chain_model, small_dataset, tmp_path / f"{name}.json", samples=20, batch_size=batch_size)
    for suffix in (".json", ".safetensors"):
        assert (tmp_path / f"same{suffix}").read_bytes() == (analyzed / f"analysis{suffix}").read_bytes()
    ours, others = (load_arrays(path) for path in (tmp_path / "same.safetensors", tmp_path / "other.safetensors"))
    for name, values in ours.items():
        np.testing.assert_allclose(values, others[name], atol=1e-5)


def test_the_whole_conversation_has_more_tokens_than_the_prompt(
    chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    found = [
        make_analysis(chain_model, small_dataset, tmp_path / f"{text}.json", samples=6, text=text)
        for text in ("prompt", "conversation")
    ]
    assert found[0].calibration.tokens < found[1].calibration.tokens
    assert found[0].calibration.image_tokens == found[1].calibration.image_tokens == 16
    assert found[0].calibration.vision_patches == 64


def test_norm_and_head_are_not_computed(chain_model: Path) -> None:
    model = load_model(chain_model)
    touched = []
    for module in (model.lm_head, model.model.language_model.norm):
        module.register_forward_pre_hook(lambda *_: touched.append(1))
    inputs = {"input_ids": torch.arange(10, 20)[None], "attention_mask": torch.ones(1, 10)}
    with SpanHook(find_layers(model)) as tap:
        tap.run(model, inputs, torch.zeros(1, 10, dtype=torch.bool))
    assert not touched
    model(**inputs)
    assert len(touched) == 2, "hooks are gone and the model runs to its end again"
