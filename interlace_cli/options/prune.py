"""`prune`: what is cut, and what makes up for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlace_cli.errors import UsageError
from interlace_cli.options.option import Options, option
from interlace_cli.options.shared import (
    ALLOW_MISMATCH,
    CALIBRATION_BATCH_SIZE,
    DATASET,
    DEVICE,
    DEVICE_MAP,
    DTYPE,
    FORCE,
    MAX_MEMORY,
    MAX_PIXELS,
    MIN_PIXELS,
    OFFLOAD_FOLDER,
    OUT,
    PLACES,
    PROCESSES,
    SELECTION,
    STACK,
    WORKSPACE,
    check_pixels,
    check_placement,
    check_processes,
    join_flags,
    parse_layers,
)

COMPENSATIONS = ("none", "linear")
METHODS = ("wanda", "magnitude")
CALIBRATION_SETTINGS = ("samples", "batch_size", "min_pixels", "max_pixels", "dtype", "device")
"""The options that what is calibrated depends on."""


@dataclass(frozen=True, kw_only=True)
class PruneOptions(Options):
    """`model` None: the plan's. `method` drops weights by the N:M pattern `sparsity`, and no layers."""

    model: str | None = option(
        None,
        "demo, a checkpoint folder, or a Hub id.",
        is_argument=True,
        is_alone=True,
        shown_default="the plan's model",
        decides=False,
    )
    plan: Path | None = option(None, "A plan, instead of the workspace's.", is_alone=True, decides=False, group=PLACES)
    drop_layers: tuple[int, ...] | None = option(
        None,
        "Drop exactly these, such as 3,6, with no plan.",
        parse=parse_layers,
        metavar="LAYERS",
        is_alone=True,
        decides=False,
    )
    stack: str | None = option(
        None, f"{STACK.help} For --drop-layers.", choices=STACK.choices, shown_default="language", is_alone=True
    )
    compensate: str = option(
        "none",
        "linear folds a least-squares map into the layer in front of each gap.",
        choices=COMPENSATIONS,
        group=SELECTION,
    )
    method: str | None = option(
        None, "Drop weights instead of layers, by --sparsity: a baseline.", choices=METHODS, is_alone=True
    )
    sparsity: str = option("2:4", "N:M pattern: keep N of every M weights. For --method.", metavar="N:M", is_alone=True)
    samples: int = option(
        128,
        "Calibrate --compensate and wanda on this many samples.",
        low=1,
        run_name="compensation_samples",
        group=SELECTION,
    )
    batch_size: int = CALIBRATION_BATCH_SIZE.field()
    min_pixels: int = MIN_PIXELS.field()
    max_pixels: int = MAX_PIXELS.field()
    verify: bool = option(False, "Load both models and compare them, the dropped layers being bypassed.", decides=False)
    dry_run: bool = option(False, "Say what would be written, and write nothing.", is_alone=True, decides=False)
    processes: int = PROCESSES.field()
    dtype: str = DTYPE.field()
    device: str = DEVICE.field()
    device_map: str = DEVICE_MAP.field()
    max_memory: tuple[str, ...] = MAX_MEMORY.field()
    offload_folder: Path | None = OFFLOAD_FOLDER.field()
    dataset: Path | None = DATASET.field()
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    allow_mismatch: bool = ALLOW_MISMATCH.field()
    force: bool = FORCE.field()

    @property
    def is_compensated(self) -> bool:
        """Whether weights change."""
        return self.compensate != "none"

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        check_processes(self.processes, self.device)
        check_pixels(self.min_pixels, self.max_pixels)
        check_placement(self.device, self.device_map, self.max_memory, self.offload_folder)
        layers = {
            "--plan": self.plan,
            "--drop-layers": self.drop_layers is not None,
            "--stack": self.stack,
            "--verify": self.verify,
            "--dry-run": self.dry_run,
            "--compensate": self.is_compensated,
        }
        if self.method is not None and any(layers.values()):
            given = join_flags(layers)
            verb = "belong" if " and " in given else "belongs"
            raise UsageError(
                f"--method drops weights, and {given} {verb} to dropping layers.",
                "Give one or the other.",
            )
        if self.is_compensated and (self.verify or self.dry_run):
            given = join_flags({"--verify": self.verify, "--dry-run": self.dry_run})
            raise UsageError(f"--compensate changes weights, and {given} is about a plain cut.", "Leave one out.")
        if self.drop_layers is not None and self.plan is not None:
            raise UsageError("--plan and --drop-layers both say what to drop.", "Give one of them.")
        if self.drop_layers is None and self.stack is not None:
            raise UsageError("--stack belongs to --drop-layers; a plan says its stack itself.", "Leave it out.")
        if self.drop_layers is not None and self.model is None:
            raise UsageError("--drop-layers needs a MODEL.", "Such as `interlace prune demo --drop-layers 3,6`.")
