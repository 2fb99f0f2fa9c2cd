"""A row of a padded batch is what it is alone, or samples are run one by one."""

from __future__ import annotations

import pytest
import torch
import zoo
from zoo_chain import ZooProcessor

from interlace_cli.data.padding import HARMLESS, Padding, choose_padding
from interlace_cli.families.architectures import NEEDS

QUICK = {
    "llava": HARMLESS,
    "qwen3_vl": HARMLESS,
    "git": Padding(needs_positions=True),
    "hunyuan_vl": Padding(needs_positions=True),
    "mistral_large4": Padding(is_harmless=False),
}
"""An indexer that chooses tokens counts padding, whatever the positions say."""
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.zoo) for name in zoo.NAMES]


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_in_a_batch_what_it_is_alone(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    config = zoo.build_config(name)
    if config.is_encoder_decoder:
        pytest.skip("its decoder's rows are not padded")
    model, processor = zoo.build_model(config), ZooProcessor(name, config)
    texts = [f"<user><image> {' '.join(f'w{10 + i * 3 % 40}' for i in range(n))}<end><assistant>" for n in (17, 6)]
    alone, together = [processor(text=[text]) for text in texts], processor(text=texts)
    found = choose_padding(model, alone, together)
    assert found == QUICK.get(name, found)
    if not found.is_harmless:
        return
    with torch.inference_mode():
        logits = model(**found.complete(together), use_cache=False).logits
        for row, inputs in enumerate(alone):
            wanted = model(**found.complete(inputs), use_cache=False).logits[0]
            torch.testing.assert_close(logits[row, -len(wanted) :], wanted, atol=1e-4, rtol=1e-4)
            plain = model(**inputs, use_cache=False).logits[0]
            torch.testing.assert_close(wanted, plain, atol=1e-4, rtol=1e-4)
