"""`analyze`: what is measured of each layer, on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.options.option import Options, option
from interlace_cli.options.shared import (
    ATTENTION,
    CALIBRATION_BATCH_SIZE,
    DATASET,
    DEVICE,
    DEVICE_MAP,
    DTYPE,
    FIGURE,
    FORCE,
    IMPORTANCE,
    LOCAL_WORKSPACES,
    MAX_MEMORY,
    MAX_PIXELS,
    MIN_PIXELS,
    OFFLOAD_FOLDER,
    OUT,
    PROCESSES,
    PROTECT,
    STACK,
    WORKSPACE,
    check_figure,
    check_pixels,
    check_placement,
    check_processes,
)

IMPORTANCES = ("similarity", "loss", "taylor")
GROUPINGS = ("modality", "source", "kind")
SIMILARITY_SETTINGS = (*("samples", "text", "dtype", "device", "attention", "batch_size", "min_pixels", "max_pixels"),)
"""The options that the similarities depend on; the batch size moves them by rounding alone."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(Options):
    """`model` None: the workspace's; `protect` None: DeepStack layers and the last."""

    model: str | None = option(
        None,
        "demo, a checkpoint folder, or a Hub id.",
        is_argument=True,
        is_alone=True,
        shown_default="the workspace's; demo in an empty one",
        decides=False,
    )
    samples: int | None = option(
        None, "Calibrate on at most this many.", low=1, run_name="calibration_samples", group=IMPORTANCE
    )
    batch_size: int = CALIBRATION_BATCH_SIZE.field()
    min_pixels: int = MIN_PIXELS.field()
    max_pixels: int = MAX_PIXELS.field()
    text: str = option(
        "prompt",
        "What of a sample is measured: the first user turn with the generation prompt, as the released scripts do, or"
        " the whole conversation.",
        choices=("prompt", "conversation"),
        run_name="calibration_text",
        group=IMPORTANCE,
    )
    importance: tuple[str, ...] = option(
        ("similarity",),
        "What to measure: similarity, loss, taylor; several with commas between.",
        choices=IMPORTANCES,
        group=IMPORTANCE,
    )
    by: tuple[str, ...] = option(
        ("modality",),
        "Also for groups of samples: by source, kind; several with commas between.",
        choices=GROUPINGS,
        run_name="importance_by",
        group=IMPORTANCE,
    )
    loss_samples: int = option(256, "Measure loss and gradients on at most this many.", low=1, group=IMPORTANCE)
    search_ratio: float = option(
        0.5,
        "How many of the layers the greedy search by loss drops, as a share; 0 measures each layer alone.",
        low=0,
        high=1,
        group=IMPORTANCE,
    )
    stack: str | None = STACK.field()
    protect: tuple[int, ...] | None = PROTECT.field()
    processes: int = PROCESSES.field()
    local_workspaces: bool = LOCAL_WORKSPACES.field()
    dtype: str = DTYPE.field()
    device: str = DEVICE.field()
    device_map: str = DEVICE_MAP.field()
    max_memory: tuple[str, ...] = MAX_MEMORY.field()
    offload_folder: Path | None = OFFLOAD_FOLDER.field()
    attention: str | None = ATTENTION.field()
    write_scores: Path | None = option(
        None, "Also write the three released score files into this folder.", is_alone=True, decides=False
    )
    figure: Path | None = FIGURE.field()
    dataset: Path | None = DATASET.field()
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    force: bool = FORCE.field()

    def check(self) -> None:
        """Raises UsageError for a picture of a kind that cannot be written, for bounds that leave no image, and for one
        GPU for several processes."""
        check_figure(self.figure)
        check_processes(self.processes, self.device)
        check_pixels(self.min_pixels, self.max_pixels)
        check_placement(self.device, self.device_map, self.max_memory, self.offload_folder)
