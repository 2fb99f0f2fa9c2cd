"""What a way of healing takes of a GPU's memory and of the host's."""

from __future__ import annotations

from pydantic import Field

from interlace_cli.domain.record import Record


class WayNeed(Record):
    """One way of healing: `engine`, `gradient_checkpointing` and `optim` as `finetune` takes them, and the bytes that
    it needs at its peak, computed and not measured (`healing/memory_need.py`): on the device, and on the host what lies
    there beside what every way takes. `fits`: whether the free memory of both is enough; None where there is no GPU."""

    engine: str
    gradient_checkpointing: bool
    optim: str
    device_bytes: int = Field(ge=0)
    host_bytes: int = Field(ge=0)
    fits: bool | None = None

    @property
    def flags(self) -> str:
        """The options that ask for it."""
        checkpointing = " --gradient-checkpointing" if self.gradient_checkpointing else ""
        return f"--engine {self.engine}{checkpointing} --optim {self.optim}"


def describe_bytes(count: int, digits: int = 1) -> str:
    """In GiB with so many digits behind the point, or in MiB with one less if it is less than a quarter of one."""
    if count >= 2**28:
        return f"{count / 2**30:,.{digits}f} GiB"
    return f"{count / 2**20:,.{digits - 1}f} MiB"
