"""Train the demo model from scratch: `python -m interlace_cli.demo_training.train --out DIR`.

What makes an hour on one or two CPU cores enough:

- every picture is new, drawn from the seven eighths of the world that are not held out;
- several questions share one picture: a row holds the picture's tokens once and then all its questions. An attention
  mask hides the questions from each other, and each has the positions that it would have alone;
- kinds of question with a higher loss are asked more often;
- Muon trains the matrices, AdamW the rest, with a linear warm-up and a linear decay to zero.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from interlace_cli.demo.model import build_config, build_processor, save_processor
from interlace_cli.demo.questions import KINDS
from interlace_cli.demo.world import FAMILIES, Picture, build_picture, draw, is_heldout
from interlace_cli.io.models import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

IGNORE = -100


@dataclass
class Curriculum:
    """Asks kinds with a high loss more often: a kind's weight is `floor` + min(running mean loss, 1)."""

    floor: float = 0.08
    decay: float = 0.98
    loss: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))

    def update(self, kind: str, loss: float) -> None:
        """Updates the kind's running mean: decay * old + (1 - decay) * loss."""
        self.loss[kind] = self.decay * self.loss[kind] + (1 - self.decay) * loss

    def weight(self, kind: str) -> float:
        """The kind's weight: how often it is asked, relative to other kinds."""
        return self.floor + min(self.loss[kind], 1.0)

    def sample_family(self, rng: random.Random) -> str:
        """A random family of pictures; its probability is proportional to the summed weights of its kinds."""
        weights = [sum(self.weight(k.name) for k in KINDS.values() if k.family == family) for family in FAMILIES]
        return rng.choices(FAMILIES, weights)[0]

    def sample_kinds(self, family: str, count: int, rng: random.Random) -> list[str]:
        """`count` kinds of the family, drawn with replacement by weight."""
        kinds = [kind.name for kind in KINDS.values() if kind.family == family]
        return rng.choices(kinds, [self.weight(kind) for kind in kinds], k=count)


@dataclass
class Batch:
    """Rows of one picture each with its questions (shape legend: B rows, T tokens, Q answer tokens in all).

    `inputs` are the model's keyword arguments. For each answer token: `rows` and `columns` [Q] are the position whose
    logits predict it, `targets` [Q] its id, `kinds` [Q] its kind of question as an index into KINDS.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    columns: Tensor
    targets: Tensor
    kinds: Tensor


class Packer:
    """Builds batches of pictures with several questions to each picture."""

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor: Any = processor
        tokenizer = self.processor.tokenizer
        image = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
        text = self.processor.apply_chat_template(image, add_generation_prompt=True)
        before, after = text.split("?")
        head, tail = before.split(tokenizer.image_token)
        encode = cache(lambda s: tokenizer.encode(s, add_special_tokens=False))
        self.encode, self.after = encode, after
        self.head, self.tail = encode(head), encode(tail)

    def build(self, pictures: list[Picture], questions: list[list[tuple[str, str, str]]]) -> Batch:
        """A batch with one row per picture; `questions[i]` are the `(kind, question, answer)` about picture i."""
        images = self.processor.image_processor(images=[draw(picture) for picture in pictures], return_tensors="pt")
        merge = self.processor.image_processor.merge_size
        _, height, width = (int(n) for n in images["image_grid_thw"][0])
        height, width = height // merge, width // merge
        prefix = self.head + [self.processor.image_token_id] * (height * width) + self.tail
        prefix_positions = _prefix_positions(len(self.head), height, width, len(self.tail))
        kind_index = {name: index for index, name in enumerate(KINDS)}

        tokens_rows, groups_rows, positions_rows, entries = [], [], [], []
        for row, asked in enumerate(questions):
            tokens, groups, positions = list(prefix), [0] * len(prefix), list(prefix_positions)
            start = max(max(p) for p in prefix_positions) + 1
            for group, (kind, question, answer) in enumerate(asked, start=1):
                prompt = self.encode(question + self.after)
                reply = [*self.encode(answer), self.processor.tokenizer.eos_token_id]
                first = len(tokens) + len(prompt) - 1
                entries += [(row, first + i, token, kind_index[kind]) for i, token in enumerate(reply)]
                length = len(prompt) + len(reply)
                tokens += prompt + reply
                groups += [group] * length
                positions += [(start + i,) * 3 for i in range(length)]
            tokens_rows.append(tokens)
            groups_rows.append(groups)
            positions_rows.append(positions)

        longest = max(map(len, tokens_rows))
        input_ids = torch.tensor([t + [0] * (longest - len(t)) for t in tokens_rows])
        groups_BT = torch.tensor([g + [-1] * (longest - len(g)) for g in groups_rows])
        positions_BT3 = torch.tensor([p + [(0, 0, 0)] * (longest - len(p)) for p in positions_rows])
        rows, columns, targets, kinds = (torch.tensor(column) for column in zip(*entries, strict=True))
        inputs = {
            "input_ids": input_ids,
            "attention_mask": build_group_mask(groups_BT),
            "position_ids": positions_BT3.permute(2, 0, 1),
            "pixel_values": images["pixel_values"],
            "image_grid_thw": images["image_grid_thw"],
        }
        return Batch(inputs, rows, columns, targets, kinds)


def build_group_mask(groups_BT: Tensor) -> Tensor:
    """Additive causal attention mask [B, 1, T, T], float32.

    A token sees the earlier tokens of the prefix (group 0, the picture) and of its own group (its question). Example:
    groups 0 0 1 1 2 2: the last token sees tokens 0, 1, 4 and 5.
    """
    same = groups_BT[:, :, None] == groups_BT[:, None, :]
    prefix = groups_BT[:, None, :] == 0
    causal = torch.ones(groups_BT.shape[1], groups_BT.shape[1], dtype=torch.bool).tril()
    allowed = ((same | prefix) & causal)[:, None]
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


def _prefix_positions(head: int, height: int, width: int, tail: int) -> list[tuple[int, int, int]]:
    """M-RoPE positions (time, height, width) of the text before the image, the image, and the text after it."""
    positions = [(i, i, i) for i in range(head)]
    positions += [(head, head + y, head + x) for y in range(height) for x in range(width)]
    start = head + max(height, width)
    return positions + [(start + i,) * 3 for i in range(tail)]


def sample_batch(packer: Packer, curriculum: Curriculum, rng: random.Random, pictures: int, questions: int) -> Batch:
    """A batch of new random pictures that are not held out, each with `questions` questions."""
    chosen: list[Picture] = []
    asked = []
    while len(chosen) < pictures:
        family = curriculum.sample_family(rng)
        picture = build_picture(family, rng)
        if is_heldout(picture):
            continue
        chosen.append(picture)
        kinds = curriculum.sample_kinds(family, questions, rng)
        asked.append([(kind, *KINDS[kind].ask(picture, rng)) for kind in kinds])
    return packer.build(chosen, asked)


def compute_losses(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Cross-entropy of each answer token in nats, [Q]. The head is computed at these positions only."""
    hidden_BTH = model.model(**batch.inputs, use_cache=False).last_hidden_state
    logits_QV = model.lm_head(hidden_BTH[batch.rows, batch.columns])
    return functional.cross_entropy(logits_QV.float(), batch.targets, reduction="none")


def init_weights(model: PreTrainedModel) -> None:
    """Sets random normal weights; projections into the residual stream are divided by sqrt(2 depth), as in GPT-2."""
    depth = model.config.text_config.num_hidden_layers
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            fan_in = parameter[0].numel()
            std = 0.05 if "embed" in name and "patch" not in name else fan_in**-0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * depth)
            parameter.normal_(0.0, std)


def build_optimizers(model: PreTrainedModel, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = ("layers." in name or "blocks." in name or "merger" in name) and parameter.ndim == 2
        (matrices if inner else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.6 * lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Sets the learning rate of each group to `factor` times its initial one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = group["base_lr"] * factor


def schedule(done: float) -> float:
    """Factor on the learning rate after a share `done` of the steps: warm-up to 2%, flat, linear to 0 from 45% on."""
    return min(done / 0.02, 1.0, (1.0 - done) / 0.55)


def train(out: Path, steps: int, pictures: int, questions: int, lr: float, seed: int, threads: int) -> None:
    """Trains for `steps` steps and writes a Hugging Face checkpoint to `out`.

    Each step has `pictures` pictures with `questions` questions each. Every 1000 steps the state is saved to
    `out/training_state.pt`; a later call resumes from it.
    """
    transformers = import_transformers()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    processor = build_processor()
    # On CPU, eager attention under bf16 autocast takes half the time of sdpa with a mask, in bf16 or in fp32.
    model = transformers.AutoModelForImageTextToText.from_config(build_config(), attn_implementation="eager")
    init_weights(model)
    optimizers = build_optimizers(model, lr)
    packer, curriculum = Packer(processor), Curriculum()
    start, state_file = 0, out / "training_state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        curriculum.loss, start = state["loss"], state["step"]
    out.mkdir(parents=True, exist_ok=True)
    model.train()
    names, began = list(KINDS), time.monotonic()
    for step in range(start, steps):
        rng = random.Random(f"{seed}/{step}")
        batch = sample_batch(packer, curriculum, rng, pictures, questions)
        set_learning_rate(optimizers, schedule((step + 1) / steps))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = compute_losses(model, batch)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for index in set(batch.kinds.tolist()):
            curriculum.update(names[index], losses.detach()[batch.kinds == index].mean().item())
        if (step + 1) % 100 == 0:
            seconds = (time.monotonic() - began) / (step + 1 - start)
            worst = sorted(curriculum.loss.items(), key=lambda item: -item[1])[:7]
            print(
                f"{step + 1}/{steps} loss {losses.mean().item():.3f} {seconds:.3f} s/step,"
                f" {seconds * (steps - step - 1) / 60:.0f} min left; " + " ".join(f"{k} {v:.2f}" for k, v in worst),
                flush=True,
            )
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "loss": curriculum.loss,
                "step": step + 1,
            }
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(out)
    save_processor(out)


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--pictures", type=int, default=32, help="pictures per step")
    parser.add_argument("--questions", type=int, default=6, help="questions per picture")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    train(args.out, args.steps, args.pictures, args.questions, args.lr, args.seed, args.threads)


if __name__ == "__main__":
    main()
