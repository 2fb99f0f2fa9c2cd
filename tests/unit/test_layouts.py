"""Which attention a packed row gets, and that the row is then what its samples are alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from packed_samples import split_inputs, take_gradients
from tiny import TINY

from interlace_cli.data.rows import Encoded, build_rows, pad
from interlace_cli.domain.dataset import Sample
from interlace_cli.healing.layout import Layout, choose_layout, choose_probe, choose_trial


def check(model: Any, samples: list[Encoded], tolerance: float = 1e-5) -> Layout:
    """Logits and gradients of packed rows, if the model is packed, against those of the samples alone."""
    wanted, plain = take_gradients(model, [pad([sample]) for sample in samples])
    layout = choose_layout(model, samples, torch.float32)
    if layout.is_packed:
        (row,) = build_rows(samples, True, 10_000, 4, lengths=layout.lengths)
        found, ours = take_gradients(model, [row])
        assert (found - wanted).norm() <= tolerance * wanted.norm()
        assert ours.keys() == plain.keys()
        for name, gradient in plain.items():
            assert (ours[name] - gradient).norm() <= 10 * tolerance * gradient.norm() + tolerance, name
    return layout


@pytest.mark.parametrize("name", list(TINY))
def test_models_are_packed_with_the_lengths_given_once(name: str) -> None:
    """Windows of 6 tokens in Qwen2-VL and Qwen2.5-VL: samples are longer."""
    model = TINY[name].build_model(4)
    layout = check(model, split_inputs(model, TINY[name].build_inputs()))
    assert (layout.attention, layout.lengths) == ("segments", "host")
    assert set(layout.implementations.values()) == {"interlace_segments", "sdpa"}


@pytest.mark.zoo
@pytest.mark.parametrize("name", zoo.NAMES + zoo.TEXT_NAMES)
def test_every_architecture_is_packed_exactly_or_not_at_all(name: str) -> None:
    """The tolerance is for the rounding of MoE routers: in float64 they agree to the last bit."""
    try:
        config = zoo.build_config(name)
        model = zoo.build_model(config)
        samples = split_inputs(model, zoo.build_inputs(name, config))
    except ImportError as error:
        pytest.skip(str(error))
    except (KeyError, TypeError):
        pytest.skip("its inputs here are too few for its own position ids, or it reads no text")
    if not config.is_encoder_decoder:
        check(model, samples, 1e-4)


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_model_that_takes_no_lengths_does_without(is_silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises, or it hands them on to nobody."""
    model = TINY["qwen3_vl"].build_model(4)
    forward = model.forward

    def refuse(cu_seq_lens_q: Any = None, **inputs: Any) -> Any:
        if cu_seq_lens_q is not None and not is_silent:
            raise TypeError("got an unexpected keyword argument")
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", refuse)
    layout = check(model, split_inputs(model, TINY["qwen3_vl"].build_inputs()))
    assert (layout.attention, layout.lengths) == ("segments", None)


def test_the_trial_has_pictures_if_any_sample_has_and_more_than_one_sample() -> None:
    model = TINY["qwen3_vl"].build_model(4)
    first, second = split_inputs(model, TINY["qwen3_vl"].build_inputs())
    words = replace(first, whole={})
    assert choose_probe([words, words, first]) == [first, first]
    assert choose_probe([words, first, words, second]) == [first, second]
    assert choose_probe([words]) == [words, words]


def test_pictures_of_later_steps_are_in_the_trial_too() -> None:
    words, picture = (
        Sample.model_validate({"id": str(images), "image": images, "conversations": [], "source": ""})
        for images in ([], ["x.png"])
    )
    assert choose_trial([words, words, picture], [1, 0]) == [1, 0, 2]
    assert choose_trial([words, picture, picture], [0, 2]) == [0, 2]
    assert choose_trial([words, words], [1]) == [1]
