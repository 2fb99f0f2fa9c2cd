"""Words that tell the parts of a model apart, in names of tensors and in keys of its config. Pure."""

from __future__ import annotations

import re

TOWERS = """
    vision visual image img audio speech vq vqmodel sam qformer perceiver resampler projector projectors merger
    connector aligner mm talker token2wav code2wav vit vpm apm tts
"""
"""Words in the names of modules beside the language model. To add a tower or projector of an architecture, add its word
here."""
LANGUAGE_WORDS = {"text", "language", "llm", "lm", "thinker"}
"""Words in the keys of a config that describe the language model, where it is not called `text_config`."""
VISION_WORDS = {"vision", "visual", "vit", "image"}
"""The same for the vision tower, where it is not called `vision_config`."""


def split_words(name: str) -> set[str]:
    """The words of a name. Example: `visual_tokenizer.layers` -> visual, tokenizer, layers."""
    return set(re.findall(r"[A-Za-z0-9]+", name))


def is_tower(name: str) -> bool:
    """Whether a name belongs to something beside the language model (a vision or audio tower, a projector): one of its
    words is in TOWERS. Example: `model.visual.blocks` does, `model.language_model.layers` does not."""
    return not split_words(name).isdisjoint(TOWERS.split())
