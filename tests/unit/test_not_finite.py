"""NaN and infinity end a step at once, with a sentence that names the layer and says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from making import make_analysis, make_cut, make_healed

from interlace_cli.data.batches import Batcher
from interlace_cli.data.labels import keep_label_positions
from interlace_cli.data.prefetch import iter_calibration
from interlace_cli.errors import NotFiniteError, UsageError
from interlace_cli.evaluation.quality import compute_loss
from interlace_cli.families.modules import find_layers
from interlace_cli.families.ways import Way
from interlace_cli.importance.loss import Limits, search_by_loss
from interlace_cli.importance.search_state import SearchState
from interlace_cli.importance.taylor import measure_taylor
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import import_transformers, load_model, load_processor


def break_layer(folder: Path, out: Path, layer: int, factor: float, dtype: torch.dtype = torch.float16) -> Path:
    """The model with a layer whose output is too large for float16, or, with NaN, for any dtype."""
    transformers = import_transformers()
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        model.model.language_model.layers[layer].mlp.down_proj.weight.mul_(factor)
    model.to(dtype).save_pretrained(out)
    transformers.AutoProcessor.from_pretrained(folder).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def too_large(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return break_layer(chain_model, tmp_path_factory.mktemp("large") / "model", 3, 1e38, torch.bfloat16)


def test_the_layer_is_named_at_the_first_batch(too_large: Path, small_dataset: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"samples": 16, "batch_size": 4, "dtype": "float16"}
    pattern = r"NaN or infinite in float16: layer 3 is the first .* add --dtype bfloat16, or float32"
    with pytest.raises(NotFiniteError, match=pattern):
        make_analysis(too_large, small_dataset, tmp_path / "analysis.json", **options)
    assert not list(tmp_path.glob("analysis*"))
    broken = break_layer(too_large, tmp_path / "broken", 3, float("nan"), torch.bfloat16)
    with pytest.raises(NotFiniteError, match=r"in bfloat16: layer 3 .* Try --dtype float32"):
        make_analysis(broken, small_dataset, tmp_path / "analysis.json", samples=4, dtype="bfloat16")


def test_a_loss_that_is_not_finite_names_it_too(too_large: Path, small_dataset: Path) -> None:
    model = load_model(too_large, "float16", "cpu")
    batcher, samples = Batcher(load_processor(too_large), small_dataset), load_split(small_dataset, "calibration")[:4]
    batches = list(iter_calibration(batcher, samples, 2, model, keep_label_positions))
    limits, layers = Limits(frozenset(), frozenset(), 1), find_layers(model)
    with pytest.raises(NotFiniteError, match=r"the loss of .* layer 3 is the first"):
        search_by_loss(model, layers, "language", batches, limits, SearchState(), print, lambda *done: None, Way.DIRECT)
    with pytest.raises(NotFiniteError, match=r"the loss of .* layer 3 is the first"):
        measure_taylor(model, layers, batches, lambda *done: None)
    with pytest.raises(NotFiniteError, match=r"the loss of .* layer 3 is the first"):
        compute_loss(model, batches[0])


def test_a_compensation_names_it_too(too_large: Path, small_dataset: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"compensate": "linear", "dataset": small_dataset, "samples": 8, "dtype": "float16"}
    with pytest.raises(NotFiniteError, match="layer 3 is the first"):
        make_cut(too_large, [5], tmp_path / "pruned", **options)
    assert not (tmp_path / "pruned").exists()


def test_float16_is_no_dtype_to_heal_in_on_a_cpu(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    make_cut(chain_model, [4], tmp_path / "pruned")
    options: dict[str, Any] = {"device": "cpu", "tune_layers": (5,), "dtype": "float16"}
    with pytest.raises(UsageError, match=r"float16 needs a GPU.*bfloat16 or float32"):
        make_healed(tmp_path / "pruned", small_dataset, tmp_path / "healed", **options)
    assert not (tmp_path / "healed").exists()


def test_healing_stops_at_the_step_and_keeps_what_was_saved_before(
    chain_model: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlace_cli.healing.trainer import HealingTrainer

    make_cut(chain_model, [4], tmp_path / "pruned")
    steps = []
    plain = HealingTrainer._accumulate

    def accumulate(self: Any, model: Any, samples: Any) -> Any:
        steps.append(self.state.global_step)
        loss = plain(self, model, samples)
        return loss * float("nan") if len(steps) == 4 else loss

    monkeypatch.setattr(HealingTrainer, "_accumulate", accumulate)
    options: dict[str, Any] = {"tune_layers": (5,), "batch_size": 8, "grad_accum": 1, "save_every": 1}
    with pytest.raises(NotFiniteError, match="the loss at step 4 is not a finite number"):
        make_healed(tmp_path / "pruned", small_dataset, tmp_path / "healed", **options)
    assert steps == [0, 1, 2, 3]
    assert not (tmp_path / "healed").exists()
    kept = sorted(path.name for path in tmp_path.glob(".healed.healing-*/stage-0/checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-3"]
    make_healed(tmp_path / "pruned", small_dataset, tmp_path / "healed", **options)
    assert steps[4] == 3, "the same command goes on from there"


def test_weights_that_have_diverged_are_not_saved(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    make_cut(chain_model, [4], tmp_path / "pruned")
    options: dict[str, Any] = {"tune_layers": (5,), "batch_size": 8, "grad_accum": 1, "save_every": 1, "warmup": 0.0}
    with pytest.raises(NotFiniteError, match=r"training has diverged.*Use a smaller --lr"):
        make_healed(tmp_path / "pruned", small_dataset, tmp_path / "healed", lr=1e35, **options)
    assert not (tmp_path / "healed").exists()
