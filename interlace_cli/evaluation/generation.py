"""How answers are generated: by greedy decoding from a config that holds nothing else, or by the model's own config.

`model.generate` fills each field that a call leaves open from the model's generation_config.json. So a greedy call is
made with a config built from nothing, and the model's own is put aside while it runs, also that of a language model
inside. Of the model's own there remain the tokens that belong to its prompts and ends.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from interlace_cli.data.batches import Batcher, Inputs, to_model
from interlace_cli.data.end_of_turn import count_answer_tokens, find_special_ids
from interlace_cli.data.padding import HALF_TOLERANCE, TOLERANCE, differ
from interlace_cli.domain.evaluation import Generation
from interlace_cli.domain.record import Settings
from interlace_cli.errors import CheckpointError, first_line
from interlace_cli.evaluation.thoughts import find_open_mark, is_thought_mark
from interlace_cli.options.evaluate import GREEDY, MODEL
from interlace_cli.runtime.accelerator import is_cuda
from interlace_cli.runtime.dispatch import find_devices
from interlace_cli.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

_TAIL = 16
"""Tokens at the end of a prompt that are searched for the mark that opens thoughts."""
_SHAPES = {"num_return_sequences": 1, "return_dict_in_generate": False, "output_scores": False, "output_logits": False}
"""Fields of a model's own config that change what `generate` returns, not what the model says."""

_OURS = {
    *("max_length", "max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache"),
    *("transformers_version", "_from_model_config", *_SHAPES),
}
"""Fields of a model's own config that we set, or that say nothing of how it decodes."""


@dataclass(frozen=True)
class Reply:
    """A reply without spaces at its ends. `is_cut`: it came to the limit of tokens before it ended."""

    text: str
    is_cut: bool


@dataclass(frozen=True)
class ModelFiles:
    """What a model's folder says of it, where the model itself is not loaded."""

    config: PretrainedConfig
    generation_config: GenerationConfig


class ReplyReader:
    """What tokens say. `stop_ids` end a reply."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        special = find_special_ids(tokenizer)
        marks = {index for index in special if is_thought_mark(str(tokenizer.convert_ids_to_tokens(index)))}
        self._hidden = special - marks

    def read(self, prompt: Sequence[int], tokens: list[int], limit: int) -> Reply:
        """The reply of which the new `tokens` are all that was generated behind `prompt`, at most `limit`."""
        said = tokens[: count_answer_tokens(tokens, self.stop_ids)]
        ends = {*self.stop_ids, self.tokenizer.pad_token_id}
        is_cut = len(tokens) >= limit and not ends & set(tokens)
        shown = [token for token in said if token not in self._hidden and token not in self.stop_ids]
        opened = find_open_mark(self.tokenizer.decode(prompt[-_TAIL:]))
        return Reply((opened + self.tokenizer.decode(shown)).strip(), is_cut)

    def describe(self, way: str, fields: Settings) -> Generation:
        """How replies were generated, for the artifact."""
        tokens = [str(token) for token in self.tokenizer.convert_ids_to_tokens(list(self.stop_ids))]
        return Generation(config=way, stop_ids=list(self.stop_ids), stop_tokens=tokens, fields=fields)


class Generator:
    """Generates one model's replies. `way` is `greedy` or `model`; `seed` counts where the model's own way samples."""

    def __init__(self, model: PreTrainedModel, batcher: Batcher, way: str = GREEDY, seed: int = 0) -> None:
        self.model = model
        self.tokenizer = batcher.tokenizer
        self.way = way
        self.seed = seed
        self.stop_ids = find_stop_set(model, batcher.tokenizer, batcher.stop_ids)
        self.reader = ReplyReader(batcher.tokenizer, self.stop_ids)

    def describe(self) -> Generation:
        """What is used, for the artifact."""
        own = self.model.generation_config.to_diff_dict() if self.way == MODEL else {}
        used = {name: value for name, value in own.items() if value not in (None, False) and name not in _OURS}
        return self.reader.describe(self.way, json.loads(json.dumps(used, default=str)))

    @torch.inference_mode()
    def reply(self, prompts: Inputs, max_new_tokens: int) -> list[Reply]:
        """The reply to each prompt of a batch from `Batcher.build_prompts`.

        Raises CheckpointError if transformers cannot generate by the model's own config.
        """
        inputs = to_model(prompts, self.model)
        build = build_greedy_config if self.way == GREEDY else build_own_config
        config = build(self.model, self.stop_ids, self.tokenizer.pad_token_id, max_new_tokens)
        generated = generate(self.model, inputs, config) if self.way == GREEDY else self._generate_own(inputs, config)
        new = cut_prompt(generated.cpu(), prompts["input_ids"].cpu(), self.model.config.is_encoder_decoder).tolist()
        asked = prompts["input_ids"].tolist()
        return [self.reader.read(prompt, tokens, max_new_tokens) for prompt, tokens in zip(asked, new, strict=True)]

    def _generate_own(self, inputs: Inputs, config: GenerationConfig) -> torch.Tensor:
        devices = [device for device in find_devices(self.model) if is_cuda(device)]
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            try:
                return generate(self.model, inputs, config, tokenizer=self.tokenizer)
            # What transformers says of configs it cannot follow.
            except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
                if is_out_of_memory(error):
                    raise
                raise CheckpointError(
                    f"transformers cannot generate by this model's generation_config.json: {first_line(error)}",
                    "Correct the file, try --batch-size 1, or leave --generation-config model out.",
                ) from error


def find_stop_set(model: PreTrainedModel | ModelFiles, tokenizer: Any, stop_ids: Sequence[int] = ()) -> tuple[int, ...]:
    """Ids of all tokens at which a reply ends: `stop_ids` (`find_stop_ids`), then the model's own.

    Config classes have default ids, which may be ordinary words of another tokenizer. So an id of config.json counts
    if the tokenizer takes it for no text; one of generation_config.json always does.
    """
    own = model.generation_config
    text = model.config.get_text_config(decoder=True)
    configured = [getattr(config, "eos_token_id", None) for config in (model.config, text)]
    is_default = bool(getattr(own, "_from_model_config", False))
    special = find_special_ids(tokenizer)
    sure = [] if is_default else _to_ids(own.eos_token_id)
    likely = [index for value in (own.eos_token_id, *configured) for index in _to_ids(value) if index in special]
    return tuple(dict.fromkeys([*stop_ids, *sure, *likely]))


def build_greedy_config(
    model: PreTrainedModel,
    stop_ids: Sequence[int],
    pad: int | None,
    max_new_tokens: int,
    min_new_tokens: int | None = None,
) -> GenerationConfig:
    """Greedy decoding and no other field of the model's generation config.

    An encoder-decoder keeps the tokens that its replies begin with: they are its decoder's prompt.
    """
    from transformers import GenerationConfig

    own, config = model.generation_config, model.config
    begins = {}
    if config.is_encoder_decoder:
        names = ("decoder_start_token_id", "forced_bos_token_id")
        values = {name: getattr(own, name, None) for name in names}
        begins = {name: getattr(config, name, None) if value is None else value for name, value in values.items()}
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        bos_token_id=own.bos_token_id,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=pad,
        **begins,
    )


def build_own_config(
    model: PreTrainedModel,
    stop_ids: Sequence[int],
    pad: int | None,
    max_new_tokens: int,
    min_new_tokens: int | None = None,
) -> GenerationConfig:
    """The model's own generation config, with our limit of tokens and all tokens that end a reply.

    With `min_new_tokens` nothing else may end it: no text and no clock.
    """
    config = copy.deepcopy(model.generation_config)
    fields = {**_SHAPES, "max_new_tokens": max_new_tokens, "max_length": None, "pad_token_id": pad}
    if min_new_tokens is not None:
        fields |= {"min_new_tokens": min_new_tokens, "min_length": None, "stop_strings": None, "max_time": None}
    for name, value in fields.items():
        setattr(config, name, value)
    config.eos_token_id = list(stop_ids) or None
    return config


def build_timed_config(model: PreTrainedModel, way: str, new_tokens: int) -> GenerationConfig:
    """The config of `way` by which exactly `new_tokens` tokens are generated."""
    stop_ids = _to_ids(model.generation_config.eos_token_id)
    build = build_greedy_config if way == GREEDY else build_own_config
    return build(model, stop_ids, stop_ids[0] if stop_ids else 0, new_tokens, new_tokens)


def generate(model: PreTrainedModel, inputs: Inputs, config: GenerationConfig, tokenizer: Any = None) -> torch.Tensor:
    """`model.generate` by `config` alone: token ids [B, T]. `inputs` lie on the model's device."""
    more = {"tokenizer": tokenizer} if config.stop_strings else {}
    with replaced(model, config):
        generated: torch.Tensor = model.generate(**inputs, generation_config=config, **more)
    return generated


@torch.inference_mode()
def generates_alike(model: PreTrainedModel, alone: Sequence[Inputs], together: Inputs) -> bool:
    """Whether the logits of two generated tokens are in a batch what they are for each prompt alone. Some models' own
    `generate` counts padding though their forward can be told not to (GIT behind its first token, BLIP)."""
    config = build_timed_config(model, GREEDY, 2)
    config.return_dict_in_generate = config.output_logits = True

    def run(prompts: Inputs) -> torch.Tensor:
        made: Any = generate(model, to_model(prompts, model), config)
        return torch.stack(made.logits, 1).float()

    wanted_B2V = torch.cat([run(prompts) for prompts in alone])
    tolerance = TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
    return differ(run(together), wanted_B2V) <= tolerance


def cut_prompt(generated: torch.Tensor, prompt: torch.Tensor, is_encoder_decoder: bool) -> torch.Tensor:
    """The new tokens of each row.

    A decoder gives them behind the prompt (BLIP's without its last token), an encoder-decoder behind its start token,
    and models that hand embeddings to a language model inside may give them alone.
    """
    if is_encoder_decoder:
        return generated[:, 1:]
    length = min(prompt.shape[1], generated.shape[1])
    same = (generated[:, :length] == prompt[:, :length]).all(0)
    shared = int(same.cumprod(0).sum())
    return generated[:, shared:] if shared >= prompt.shape[1] - 1 else generated


@contextmanager
def replaced(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """The model, and every model inside it, with `config` as its own generation config. `generate` has to be given it
    all the same: it refuses a config.json with fields of generation otherwise."""
    owners = [part for part in model.modules() if getattr(part, "generation_config", None) is not None]
    before = [part.generation_config for part in owners]
    for part in owners:
        part.generation_config = config
    try:
        yield
    finally:
        for part, own in zip(owners, before, strict=True):
            part.generation_config = own


def _to_ids(value: Any) -> list[int]:
    """An eos field as a list: it is a number, a list of them or None. Numbers below 0 stand for none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [int(index) for index in values if index is not None and index >= 0]
