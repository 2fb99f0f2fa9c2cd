"""Where a model's weights go: to one device, or, by accelerate, to several, and what they do not hold to the host's
memory and the disk. What such a model asks of the code that runs it is in `runtime/dispatch.py`."""

from __future__ import annotations

import logging
import shutil
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace_cli.errors import UsageError
from interlace_cli.io.files import name_scratch
from interlace_cli.options.shared import BETWEEN_PROCESSES, HOST, ONE_DEVICE, parse_memory
from interlace_cli.runtime.accelerator import is_cpu, is_cuda, read_free, read_total
from interlace_cli.runtime.dispatch import keep_on_host
from interlace_cli.runtime.memory import read_available
from interlace_cli.runtime.processes import find_processes

SHARE = 0.9
"""Of what is free, for weights where nothing is said: the rest is for activations, and on the host for loading."""
OFFLOADED = "offloaded"
"""Name of the folder for weights that go to the disk."""
TINY = 2 << 30
"""Bytes of a GPU that is too small for transformers' own loading."""


@dataclass(frozen=True)
class Placement:
    """The options of these names. `folder`: where weights go that the disk has to hold, unless the checkpoint's own
    files do; used with a `device_map` alone."""

    device: str = "auto"
    device_map: str = ONE_DEVICE
    max_memory: tuple[str, ...] = ()
    folder: Path | None = None

    @classmethod
    def of(cls, options: Any) -> Placement:
        """From the options of a step."""
        if options.device_map == BETWEEN_PROCESSES:
            from interlace_cli.io.shards import Shards

            return Shards(options.device)
        if options.device_map == ONE_DEVICE:
            return cls(options.device)
        return cls(options.device, options.device_map, options.max_memory, options.offload_folder or options.workspace)

    @property
    def is_dispatched(self) -> bool:
        """Whether the model may be on several devices."""
        return self.device_map != ONE_DEVICE

    def advise(self, used: str) -> str:
        """What to do where the model does not fit. `used` is the device that is short of memory."""
        if self.is_dispatched:
            return "Say less by --max-memory."
        other = "" if is_cpu(used) else ", or --device cpu"
        return f"Take --device-map auto, which spreads it over GPUs, the host and the disk{other}."

    def find_limits(self) -> dict[int | str, int]:
        """Bytes that weights may take of each GPU, by its number, and of the host. Raises UsageError for a GPU that is
        not there."""
        import torch

        count = torch.cuda.device_count() if self.device != HOST and torch.cuda.is_available() else 0
        free = {gpu: read_free(f"cuda:{gpu}") for gpu in range(count)}
        return limit_memory(free, read_available(), parse_memory(self.max_memory))

    def count_gpus(self) -> int:
        """GPUs that may hold the model."""
        return len(self.find_limits()) - 1 if self.is_dispatched else 1

    def count_bytes(self) -> int:
        """Bytes that weights may take of all GPUs and of the host together."""
        return sum(self.find_limits().values())

    def announce(self, path: Path, dtype: str, attention: str | None) -> None:
        """Before a model is loaded. The arguments are those of `load_model`."""

    @contextmanager
    def loading(self, device: str) -> Iterator[Loading]:
        """What `from_pretrained` is given beside the rest. `device` is what the placement's own came to."""
        if not self.is_dispatched:
            # Straight from the file to a GPU, tensor by tensor; not to a tiny one: transformers first takes up to all
            # of a GPU but 1.2 GiB.
            is_tiny = is_cuda(device) and read_total(device) < TINY
            yield Loading({} if device == HOST or is_tiny else {"device_map": {"": device}})
            return
        assert self.folder is not None
        if find_processes().size > 1:
            raise UsageError(
                f"--device-map {self.device_map} takes all GPUs for one process, and this is one of several.",
                "Start one process.",
            )
        # What it warns of is asked for here: that weights are on `meta`.
        logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
        scratch = name_scratch(self.folder / OFFLOADED)
        where = {"device_map": self.device_map, "max_memory": self.find_limits(), "offload_folder": scratch}
        loading = Loading(where)
        try:
            with warnings.catch_warnings():
                # Parameters beside modules (LLaVA-NeXT's image_newline), which it places all the same.
                warnings.filterwarnings("ignore", message="The following device_map keys do not match")
                yield loading
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        keep_on_host(loading.model)
        with suppress(OSError):
            # Empty, where the checkpoint's files hold all weights of the disk as they are needed.
            scratch.rmdir()
        if scratch.exists():
            weakref.finalize(loading.model, shutil.rmtree, scratch, ignore_errors=True)


@dataclass
class Loading:
    """`arguments` of `from_pretrained`; `model` is what came of it, which the files on the disk live as long as."""

    arguments: dict[str, Any]
    model: Any = None


def limit_memory(free: Mapping[int, int], host: int, given: Mapping[int | str, int]) -> dict[int | str, int]:
    """Bytes that weights may take: of the GPUs what is given, at most what is free, and nothing of the others; of all
    GPUs, where none is given, most of what is free; of the host (`cpu`) likewise. Raises UsageError for a GPU that is
    not there."""
    named = {gpu: size for gpu, size in given.items() if isinstance(gpu, int)}
    missing = min(set(named) - set(free), default=None)
    if missing is not None:
        there = f"the GPUs here are 0 to {len(free) - 1}" if free else "there is no GPU here"
        raise UsageError(f"--max-memory names GPU {missing}, and {there}.", "Give one size for each GPU.")
    limits = {gpu: min(size, free[gpu]) for gpu, size in named.items()} or {gpu: int(SHARE * free[gpu]) for gpu in free}
    used: dict[int | str, int] = {gpu: size for gpu, size in sorted(limits.items()) if size}
    return {**used, HOST: given.get(HOST, int(SHARE * host))}
