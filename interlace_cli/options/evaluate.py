"""`eval`: what checkpoints are asked, how, and by which harness."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from interlace_cli.errors import UsageError
from interlace_cli.options.option import Options, describe, option
from interlace_cli.options.shared import (
    ALLOW_MISMATCH,
    ATTENTION,
    DATASET,
    DEVICE,
    DEVICE_MAP,
    DTYPE,
    EVALUATION,
    FORCE,
    LOCAL_WORKSPACES,
    MAX_MEMORY,
    OFFLOAD_FOLDER,
    ONE_DEVICE,
    OUT,
    PROCESSES,
    SEED,
    WORKSPACE,
    check_pixels,
    check_placement,
)

GREEDY, MODEL = "greedy", "model"
"""Ways to generate an answer: greedy decoding, or by the model's own generation config."""
TRANSFORMERS, VLLM = "transformers", "vllm"
"""What generates answers."""
HARNESSES = ("lmms-eval", "vlmevalkit")
_HARNESS = "Outside harnesses"
OWN = (
    *(
        "max_new_tokens",
        "generation_config",
        "backend",
        "min_pixels",
        "max_pixels",
        "speed",
        "repeats",
        "allow_overlap",
    ),
    *(
        "dtype",
        "device",
        "device_map",
        "max_memory",
        "offload_folder",
        "attention",
        "processes",
        "local_workspaces",
        "dataset",
        "seed",
    ),
)
"""Options of our own evaluation alone."""


def _parse_results(text: str, flag: str) -> tuple[tuple[str, Path], ...]:
    """`"dense=a.json"` -> its name and path. Raises UsageError."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise UsageError(f"{flag} does not take {text!r}.", "Give NAME=PATH, such as dense=results.json.")
    return ((name, Path(os.path.expanduser(path))),)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """`checkpoints` empty: the workspace's dense, pruned and healed. For `speed` all of them are in memory at once, if
    they fit."""

    checkpoints: tuple[str, ...] = option(
        (),
        "Checkpoints, the dense one first; NAME=CHECKPOINT names one in the table.",
        is_argument=True,
        is_alone=True,
        shown_default="the workspace's dense, pruned and healed",
        separator="",
        decides=False,
    )
    tasks: str | None = option(
        None,
        "A YAML, TOML or JSON file of tasks, instead of the held-out split; with --harness: paper, or benchmarks with"
        " commas between.",
        decides=False,
        group=EVALUATION,
    )
    samples: int | None = option(
        None, "Evaluate at most this many samples.", low=1, run_name="eval_samples", group=EVALUATION
    )
    batch_size: int | None = option(
        None,
        "Samples in a batch.",
        low=1,
        shown_default="32; of a harness 1",
        run_name="eval_batch_size",
        group=EVALUATION,
    )
    max_new_tokens: int = option(32, "Tokens of an answer, at most.", low=1, group=EVALUATION)
    generation_config: str = option(
        GREEDY,
        "greedy: greedy decoding, whatever the model's generation_config.json says; model: as that file says.",
        choices=(GREEDY, MODEL),
        group=EVALUATION,
    )
    backend: str = option(
        TRANSFORMERS,
        "What generates the answers: transformers, or vllm; vllm=PYTHON is the vLLM of another interpreter. Loss and"
        " speed are transformers' always.",
        decides=False,
        metavar="BACKEND",
        group=EVALUATION,
    )
    min_pixels: int | None = option(
        None,
        "Smaller images are enlarged to this area.",
        low=1,
        shown_default="the processor's",
        run_name="eval_min_pixels",
        group=EVALUATION,
    )
    max_pixels: int | None = option(
        None,
        "Larger images are reduced to this area.",
        low=1,
        shown_default="the processor's",
        run_name="eval_max_pixels",
        group=EVALUATION,
    )
    speed: bool = option(
        True,
        "Time the checkpoints, in turns if all fit into the memory at once.",
        negative="--no-speed",
        group=EVALUATION,
    )
    repeats: int = option(7, "How many times each is timed.", low=1, group=EVALUATION)
    allow_overlap: bool = option(
        False,
        "Evaluate also on samples that a checkpoint was trained or calibrated on; the card says so.",
        group=EVALUATION,
    )
    harness: str | None = option(
        None, "Run an outside harness, beside what is there.", choices=HARNESSES, is_alone=True, group=_HARNESS
    )
    harness_model: str | None = option(None, "The harness's class for the model.", is_alone=True, group=_HARNESS)
    harness_arg: tuple[str, ...] = option(
        (), "name=value for that class; may be repeated.", separator="", is_alone=True, group=_HARNESS
    )
    include_path: Path | None = option(None, "A folder of lmms-eval tasks.", is_alone=True, group=_HARNESS)
    import_results: tuple[tuple[str, Path], ...] = option(
        (),
        "NAME=PATH: results of a harness that are there already, the dense model's first; may be repeated.",
        flag="--import",
        parse=_parse_results,
        metavar="NAME=PATH",
        is_alone=True,
        decides=False,
        group=_HARNESS,
    )
    dtype: str = DTYPE.field()
    device: str = DEVICE.field()
    device_map: str = DEVICE_MAP.field()
    max_memory: tuple[str, ...] = MAX_MEMORY.field()
    offload_folder: Path | None = OFFLOAD_FOLDER.field()
    attention: str | None = ATTENTION.field()
    processes: int = PROCESSES.field()
    local_workspaces: bool = LOCAL_WORKSPACES.field()
    dataset: Path | None = DATASET.field()
    seed: int = SEED.field()
    workspace: Path = WORKSPACE.field()
    out: Path | None = OUT.field()
    allow_mismatch: bool = ALLOW_MISMATCH.field()
    force: bool = FORCE.field()

    @property
    def engine(self) -> str:
        """What generates the answers, without where it lies."""
        return self.backend.partition("=")[0]

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        check_pixels(self.min_pixels, self.max_pixels)
        self._check_backend()
        check_placement(self.device, self.device_map, self.max_memory, self.offload_folder)
        if self.local_workspaces and self.tasks is not None:
            raise UsageError(
                "--local-workspaces sends prepared samples, and each host would prepare those of --tasks by itself.",
                "Give all of them one folder of a shared file system, or leave one of the two out.",
            )
        if self.harness == "vlmevalkit" and (self.samples is not None or self.include_path is not None):
            raise UsageError("VLMEvalKit takes neither --samples nor --include-path.", "They are lmms-eval's.")
        if self.harness and self.import_results:
            raise UsageError("--harness runs benchmarks, and --import reads results.", "Give one of them.")
        own = {"--harness-model": self.harness_model, "--harness-arg": self.harness_arg}
        wrong = next((flag for flag, value in own.items() if value), None)
        if wrong is not None and self.harness is None:
            raise UsageError(f"{wrong} belongs to --harness.", "Name the harness, or leave it out.")
        self._check_outside()

    def _check_backend(self) -> None:
        known = self.backend in (TRANSFORMERS, VLLM) or (self.engine == VLLM and not self.backend.endswith("="))
        if not known:
            raise UsageError(f"--backend does not take {self.backend!r}.", "Give transformers, vllm, or vllm=PYTHON.")
        if self.engine == TRANSFORMERS:
            return
        if self.generation_config != GREEDY:
            raise UsageError(
                "--backend vllm decodes greedily, and --generation-config model asks for the model's own way.",
                "Leave one of them out.",
            )
        if self.device_map != ONE_DEVICE:
            raise UsageError(
                f"--device-map {self.device_map} places a model of transformers, and vLLM has ways of its own.",
                "Leave --backend out: transformers answers then.",
            )

    def _check_outside(self) -> None:
        """An outside harness decides by itself what only our own evaluation is asked for."""
        if not self.harness and not self.import_results:
            return
        unused = (*OWN, *(("tasks", "samples", "batch_size", "include_path") if self.import_results else ()))
        slots = [slot for slot in describe(type(self)) if slot.name in unused]
        given = next((slot for slot in slots if getattr(self, slot.name) != slot.option.default), None)
        if given is not None:
            other = "--harness" if self.harness else "--import"
            raise UsageError(f"{given.flag} does nothing beside {other}.", "Leave it out.")
