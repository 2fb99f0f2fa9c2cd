"""Options that several commands share, each written once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from interlace_cli.cli.console import output
from interlace_cli.domain.scores import Assign, Rank, Tune
from interlace_cli.errors import UsageError

WorkspaceOption = Annotated[
    Path,
    typer.Option("--workspace", "-w", envvar="INTERLACE_WORKSPACE", help="Folder that the steps share."),
]
DEFAULT_WORKSPACE = Path("interlace-out")


def _set_json(value: bool) -> bool:
    output.as_json = value
    return value


def _set_quiet(value: bool) -> bool:
    output.quiet = value
    return value


def _set_debug(value: bool) -> bool:
    output.debug = value
    return value


JsonOption = Annotated[
    bool, typer.Option("--json", callback=_set_json, help="Print the resulting record as JSON on stdout.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Say nothing but errors.")]
DebugOption = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there, and go on despite a mismatch.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn at random.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
AttentionOption = Annotated[
    str | None, typer.Option("--attn", help="Attention: sdpa, eager, flash_attention_2. Default: transformers' choice.")
]
RatioOption = Annotated[float | None, typer.Option("--ratio", help="Share of the layers to drop, between 0 and 1.")]
DropOption = Annotated[int | None, typer.Option("--drop", help="Number of layers to drop, instead of --ratio.")]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="interlace (the default), interlace_oa, interlace_tn, random, consecutive, shortgpt, angular, sleb or"
        " taylor.",
    ),
]
StackOption = Annotated[
    str | None,
    typer.Option("--stack", help="Whose layers: language (the default), vision, text, decoder or encoder."),
]
ProtectOption = Annotated[
    str | None,
    typer.Option("--protect", help="Layers to leave alone, such as 0-2,15. Default: DeepStack layers and the last."),
]
RankOption = Annotated[Rank, typer.Option("--rank", help="What `interlace` ranks triplets by.")]
AssignOption = Annotated[
    Assign, typer.Option("--assign", help="`interlace`: the best triplet each time, or the best set of triplets.")
]
TuneOption = Annotated[
    Tune | None,
    typer.Option(
        "--tune", help="Which layers to tune for the dropped ones. Default: as the strategy says, or nearest."
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold", help="S2 that a pair needs to be taken. Default: the lowest S3 of the triplets that are taken."
    ),
]
WeightOption = Annotated[
    str | None,
    typer.Option("--weight", help="Plan for these tokens, sources or kinds alone, such as text=2,chartqa=1."),
]
ImportanceOption = Annotated[
    str, typer.Option("--importance", help="What to measure: similarity, loss, taylor, with commas between.")
]
PaperOption = Annotated[bool, typer.Option("--paper", help="The released rules to the letter: nothing is protected.")]
PortionOption = Annotated[
    float | None,
    typer.Option("--portion", min=0.0, max=1.0, help="Share of the source to take. Default: all; of finevision 0.01."),
]
DataRevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Commit, branch or tag of a Hub dataset. Default: its newest commit.")
]
MirrorOption = Annotated[
    Path | None, typer.Option("--mirror", help="A local copy of the Hub dataset's repository, to read instead.")
]
MaxSamplesOption = Annotated[int | None, typer.Option("--max-samples", min=1, help="Take at most this many.")]
CalibrationOption = Annotated[
    float, typer.Option("--calibration", min=0.0, max=0.9, help="Share of what is not held out for `analyze`.")
]
ImageRootOption = Annotated[
    Path | None, typer.Option("--image-root", help="Folder that image paths are relative to. Default: the file's.")
]
HELP_HOLDOUT = "Share of the samples to hold out for `eval`."
HoldoutOption = Annotated[float | None, typer.Option("--holdout", min=0.0, max=0.9, help=HELP_HOLDOUT)]
HealEpochsOption = Annotated[float | None, typer.Option("--epochs", min=0.0, help="Of healing.")]
HealRateOption = Annotated[
    float | None, typer.Option("--lr", min=0.0, help="Of healing. Default: the paper's; the demo's own.")
]
HealBatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Of healing.")]
HealAccumOption = Annotated[int | None, typer.Option("--grad-accum", min=1, help="Of healing.")]
HealObjectiveOption = Annotated[
    str | None,
    typer.Option(
        "--objective",
        help="Of healing: ce (the default), distill, anchor or local; terms are joined by +, a first stage local by a"
        " comma, as in local,distill+anchor.",
    ),
]
FigureOption = Annotated[
    Path | None, typer.Option("--figure", help="Also save the pictures, as this .svg or .png file.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Where to write, instead of the workspace.")]

ProcessesOption = Annotated[
    int, typer.Option("--processes", min=1, help="Processes on this machine, one for each GPU.")
]


def spread(processes: int, is_needed: bool = False) -> None:
    """Starts the command anew in several processes (also in one, if `is_needed`), and ends with their exit code. Inside
    of them, or of a launcher's own, only the first one speaks."""
    from interlace_cli.runtime.launch import run_processes, show_life
    from interlace_cli.runtime.processes import find_processes

    here = find_processes()
    show_life()
    if not here.is_launched and (processes > 1 or is_needed):
        raise typer.Exit(run_processes(sys.argv[1:], processes, output.find_stdout()))
    output.quiet = output.quiet or not here.is_main


def split_names(text: str) -> tuple[str, ...]:
    """`"similarity,loss"` -> its parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    """`["dense=a.json"]` -> names and values. Raises UsageError."""
    pairs = []
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"{option} does not take {text!r}.", "Give NAME=PATH, such as dense=results.json.")
        pairs.append((name, value))
    return pairs


def parse_weights(text: str | None) -> tuple[tuple[str, float], ...]:
    """`"text=2,chartqa=1"` -> names and weights, sorted. Raises UsageError for anything else."""
    weights: dict[str, float] = {}
    for part in split_names(text or ""):
        name, sign, value = part.rpartition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            sign = ""
        if not sign or not name or not 0 <= weights.get(name.strip(), -1.0) < float("inf"):
            raise UsageError(f"--weight does not take {part!r}.", "Give names and weights, such as text=2,chartqa=1.")
    return tuple(sorted(weights.items()))
