"""Every architecture, cut at random and loaded by plain transformers: it computes what the dense model computes with
the dropped layers bypassed, and generates the same with and without the cache."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from making import make_cut

from interlace_cli.errors import UnsupportedModelError
from interlace_cli.families.model_files import collect_stored, open_model
from interlace_cli.families.modules import bypassed, find_layers
from interlace_cli.healing.trainable import to_bytes
from interlace_cli.io.models import choose_auto_class, import_transformers
from interlace_cli.io.surgery import copy_config, select_tensors, write_tensors


def load_plainly(folder: Path) -> Any:
    transformers = import_transformers()
    auto = getattr(transformers, choose_auto_class(transformers.AutoConfig.from_pretrained(folder).model_type))
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def choose_drops(folder: Path, out: Path, layers: int, rng: random.Random) -> list[int]:
    """Layers that can be dropped, drawn at random; they have been, into `out`."""
    for _ in range(100):
        drop = sorted(rng.sample(range(layers), rng.randint(1, layers // 2)))
        try:
            make_cut(folder, drop, out, force=True)
        except UnsupportedModelError:
            continue
        return drop
    raise AssertionError("no drop was allowed")


@pytest.mark.parametrize("name", [*zoo.NAMES, *zoo.TEXT_NAMES])
def test_every_architecture_is_cut_exactly(name: str, tmp_path: Path) -> None:
    config = zoo.build_config(name)
    cut_and_compare(config, zoo.build_inputs(name, config), name, tmp_path)


@pytest.mark.parametrize("name", zoo.INSIDE)
def test_a_llava_around_another_language_model_is_cut_exactly(name: str, tmp_path: Path) -> None:
    cut_and_compare(zoo.build_llava_around(name), zoo.build_inputs("llava", None), name, tmp_path)


def cut_and_compare(config: Any, inputs: dict[str, torch.Tensor], seed: str, folder: Path) -> None:
    """Two cuts at random, each compared with the dense model."""
    zoo.build_model(config).save_pretrained(folder / "dense")
    dense = load_plainly(folder / "dense")
    layers, rng = find_layers(dense), random.Random(seed)
    assert len(layers) == zoo.LAYERS
    with torch.inference_mode():
        whole = dense(**inputs, use_cache=False).logits
        for _ in range(2):
            drop = choose_drops(folder / "dense", folder / "pruned", len(layers), rng)
            with bypassed(dense, drop):
                wanted = dense(**inputs, use_cache=False).logits
            pruned = load_plainly(folder / "pruned")
            found = pruned(**inputs, use_cache=False).logits
            assert (wanted - whole).abs().max() > 1e-3, "the bypass must matter"
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, msg=f"dropped {drop}")
            # With indexers, generation differs with and without the cache in the dense model already.
            assert generates_the_same(pruned, inputs) or not generates_the_same(dense, inputs), f"dropped {drop}"


def generates_the_same(model: Any, inputs: dict[str, torch.Tensor]) -> bool:
    given = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    # A model that says the token which stands for an image would be asked for one.
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "suppress_tokens": list(range(60, 128))}
    if "blip" not in type(model).__name__.lower():
        options["pad_token_id"] = 0
    return torch.equal(
        model.generate(**given, **options, use_cache=True), model.generate(**given, **options, use_cache=False)
    )


@pytest.mark.parametrize("name", ["aria", "cosmos3_edge", "ernie4_5_vl_moe", "mistral_large4", "molmo2", "step3p7"])
def test_a_tuned_layer_is_stored_as_the_architecture_stores_it(name: str, tmp_path: Path) -> None:
    """Experts one by one, projections side by side or under other names: whatever `save_pretrained` makes of it."""
    zoo.build_model(zoo.build_config(name)).save_pretrained(tmp_path / "model")
    model = load_plainly(tmp_path / "model")
    layers = find_layers(model)
    with torch.no_grad():
        for parameter in layers[5].parameters():
            parameter.mul_(1.5)
    opened = open_model(tmp_path / "model")
    assert (
        collect_stored(opened, model, layers, [5], "meta").keys()
        == collect_stored(opened, model, layers, [5], "cpu").keys()
    )
    tuned = {name: to_bytes(value) for name, value in collect_stored(opened, model, layers, [5], "cpu").items()}
    names = {name: name for name in opened.checkpoint.tensors}
    (tmp_path / "healed").mkdir()
    write_tensors(opened.checkpoint, tmp_path / "healed", select_tensors(opened.checkpoint, names, tuned))
    copy_config(tmp_path / "model", tmp_path / "healed")
    healed = load_plainly(tmp_path / "healed").state_dict()
    assert all(torch.equal(value, healed[name]) for name, value in model.state_dict().items())
