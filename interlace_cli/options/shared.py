"""Options that several steps have, each with one meaning, one spelling of its values and one default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError
from interlace_cli.options.option import Option

DTYPES = ("auto", "float32", "bfloat16", "float16")
OLD_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
STACKS = ("language", "vision", "text", "decoder", "encoder")
ONE_DEVICE = "none"
BETWEEN_PROCESSES = "fsdp"
DEVICE_MAPS = (ONE_DEVICE, BETWEEN_PROCESSES, "auto", "balanced", "balanced_low_0", "sequential")
"""As transformers' `from_pretrained(device_map=...)` has them; `auto` is `balanced`; `fsdp` is our own."""
HOST = "cpu"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}

PLACES, MACHINE, DATA, IMPORTANCE = "Where", "Machine", "Data", "Importance"
SELECTION, HEALING, EVALUATION, PUBLISHING = "Selection of layers", "Healing", "Evaluation", "Publishing"
"""Headings of help."""


def parse_layers(text: str, flag: str) -> tuple[int, ...]:
    """`"0-2,15"` -> (0, 1, 2, 15). Raises UsageError for anything else."""
    layers: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part, re.ASCII)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UsageError(
                f"{flag} does not take {part!r}.", "Give 0-based layer indices and ranges, such as 3,6 or 0-2,15."
            )
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(layers))


def parse_weights(text: str, flag: str) -> tuple[tuple[str, float], ...]:
    """`"text=2,chartqa=1"` -> names and weights, sorted. Raises UsageError for anything else."""
    weights: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, sign, value = part.rpartition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            sign = ""
        if not sign or not name or not 0 <= weights.get(name.strip(), -1.0) < float("inf"):
            raise UsageError(f"{flag} does not take {part!r}.", "Give names and weights, such as text=2,chartqa=1.")
    return tuple(sorted(weights.items()))


def parse_memory(texts: Sequence[str]) -> dict[int | str, int]:
    """`["20GiB", "1:10GiB", "cpu:60GiB"]` -> bytes by GPU, and of the host by `cpu`. Sizes without a name are those of
    the GPUs in order. Raises UsageError for anything else."""
    found: dict[int | str, int] = {}
    for number, text in enumerate(texts):
        match = re.fullmatch(r"(?:(cpu|\d{1,3}):)?(0|\d{1,12}(?:\.\d{1,6})?([KMGT]i?B))", text, re.ASCII | re.I)
        if match is None:
            raise UsageError(f"--max-memory does not take {text!r}.", "Such as 20GiB,20GiB,cpu:60GiB.")
        name = (match[1] or str(number)).lower()
        key = HOST if name == HOST else int(name)
        if key in found:
            raise UsageError(f"--max-memory says twice how much of {name} to take.", "Such as 20GiB,20GiB,cpu:60GiB.")
        found[key] = int(float(match[2].removesuffix(match[3])) * _UNITS[match[3].upper()]) if match[3] else 0
    return found


WORKSPACE = Option(
    help="Folder that the steps share.",
    default=Path("interlace-out"),
    short="-w",
    environment="INTERLACE_WORKSPACE",
    group=PLACES,
    decides=False,
)
OUT = Option(help="Where to write, instead of the workspace.", group=PLACES, is_alone=True, decides=False)
DATASET = Option(help="A prepared dataset, instead of the workspace's.", group=PLACES, is_alone=True, decides=False)
FIGURE = Option(help="Also save the picture, as this .svg or .png file.", is_alone=True, decides=False, group=PLACES)
FORCE = Option(
    help="Replace what is there, also where it was made from something else.",
    default=False,
    group=PLACES,
    decides=False,
)
ALLOW_MISMATCH = Option(
    help="Go on although two results do not belong together (another model, another cut).",
    default=False,
    group=PLACES,
    decides=False,
)
ANEW = Option(help="Also make again what is up to date.", default=False, group=PLACES, decides=False)
SEED = Option(help="Seed of everything that is drawn at random.", default=0, low=0)
DEVICE = Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1 ...", default="auto", group=MACHINE)
DEVICE_MAP = Option(
    help="For a model larger than one GPU: auto spreads its layers over all GPUs, then the host's memory, then the"
    " disk, as transformers' device_map does; fsdp divides each weight between --processes; none is one device.",
    default=ONE_DEVICE,
    choices=DEVICE_MAPS,
    group=MACHINE,
    decides=False,
)
MAX_MEMORY = Option(
    help="With --device-map: memory for weights, GPU by GPU, and of the host, such as 20GiB,20GiB,cpu:60GiB.",
    default=(),
    shown_default="what is free",
    metavar="SIZES",
    group=MACHINE,
    decides=False,
)
OFFLOAD_FOLDER = Option(
    help="With --device-map: folder for weights that go to the disk and cannot stay in the checkpoint's files.",
    shown_default="the workspace, for as long as the model is loaded",
    group=MACHINE,
    decides=False,
)
DTYPE = Option(
    help="What to compute in; auto is bfloat16 on a GPU that has it, float16 on an older one with tensor cores, else"
    " float32. Tuned weights are float32 always.",
    default="auto",
    choices=DTYPES,
    spellings=OLD_DTYPES,
    older=("precision",),
    group=MACHINE,
)
ATTENTION = Option(
    help="Attention: sdpa, eager, flash_attention_2.",
    flag="--attn",
    older=("attention",),
    shown_default="transformers' choice",
    group=MACHINE,
)
PROCESSES = Option(help="Processes on this machine, one for each GPU.", default=1, low=1, group=MACHINE, decides=False)
LOCAL_WORKSPACES = Option(
    help="Each of several hosts has a workspace of its own: inputs that one lacks are sent to it; the first host gets"
    " the result.",
    default=False,
    group=MACHINE,
    decides=False,
)
STACK = Option(
    help="Which list of layers: language is the language model, vision the vision tower; text, decoder and encoder are"
    " those of models that have them.",
    choices=STACKS,
    shown_default="language",
    group=SELECTION,
)
PROTECT = Option(
    help="Layers to leave alone, such as 0-2,15.",
    parse=parse_layers,
    shown_default="DeepStack layers and the last",
    metavar="LAYERS",
    group=SELECTION,
)
PAPER = Option(
    help="The paper and its released code to the letter: nothing is protected, and the recipe is the paper's.",
    default=False,
    group=SELECTION,
)
CALIBRATION_BATCH_SIZE = Option(
    help="Samples in a forward pass of calibration.",
    default=8,
    low=1,
    run_name="calibration_batch_size",
    group=IMPORTANCE,
)
MIN_PIXELS = Option(
    help="Smaller images are enlarged to this area, in calibration as in healing.",
    default=784,
    low=1,
    run_name="heal_min_pixels",
    group=HEALING,
)
MAX_PIXELS = Option(
    help="Larger images are reduced to this area, in calibration as in healing.",
    default=50176,
    low=1,
    run_name="heal_max_pixels",
    group=HEALING,
)


def check_pixels(smallest: int | None, largest: int | None) -> None:
    """Raises UsageError for bounds on the area of images that leave none."""
    if smallest and largest and smallest > largest:
        raise UsageError(f"--min-pixels {smallest} is more than --max-pixels {largest}.")


def check_processes(processes: int, device: str) -> None:
    """Raises UsageError for one GPU for several processes."""
    if processes > 1 and ":" in device:
        raise UsageError(
            f"--device {device} is one GPU, and --processes {processes} needs one for each.",
            "Give --device cuda; CUDA_VISIBLE_DEVICES says which GPUs there are.",
        )


def check_placement(device: str, device_map: str, max_memory: Sequence[str], offload_folder: Path | None) -> None:
    """Raises UsageError for options of --device-map without it, and for a device that contradicts it."""
    if device_map in (ONE_DEVICE, BETWEEN_PROCESSES):
        given = join_flags({"--max-memory": max_memory, "--offload-folder": offload_folder})
        if given:
            verb = "belong" if " and " in given else "belongs"
            whose = "--device-map" if device_map == ONE_DEVICE else "a --device-map of one process"
            raise UsageError(f"{given} {verb} to {whose}.", "Such as --device-map auto.")
        return
    parse_memory(max_memory)
    if device.startswith("cuda:"):
        raise UsageError(
            f"--device-map {device_map} takes all GPUs, and --device {device} is one.",
            "Leave out --device; --max-memory says how much of each GPU to take, 0 for none.",
        )


def check_figure(path: Path | None) -> None:
    """Raises UsageError for a picture that is neither SVG nor PNG."""
    if path is not None and path.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--figure {path} is neither an .svg nor a .png file.", "Name one of them.")


def join_flags(given: dict[str, Any]) -> str:
    """The flags of those that are given: `"--plan and --drop-layers"`."""
    flags = [flag for flag, value in given.items() if value]
    return " and ".join([", ".join(flags[:-1]), flags[-1]]) if len(flags) > 1 else "".join(flags)
