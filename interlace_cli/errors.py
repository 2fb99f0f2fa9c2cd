"""What can go wrong, said so that one can act on it.

Every error a user may meet is an `InterlaceError`: one sentence on what is wrong and where, one on what to do.
Anything else that reaches the command line is a bug and is reported as one.
"""

from __future__ import annotations


class InterlaceError(Exception):
    """A step could not be done. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what} {fix}".strip())
        self.what = what
        self.fix = fix


class UsageError(InterlaceError):
    """The call is wrong: an option's value, or options that contradict each other."""

    exit_code = 2


class MissingInputError(InterlaceError):
    """Something a step needs is not there yet."""


class ArtifactError(InterlaceError):
    """A file that passes between the steps cannot be read, or says something impossible."""


class CheckpointError(InterlaceError):
    """A model folder is incomplete or broken."""


class UnsupportedModelError(InterlaceError):
    """An architecture, or a drop in it, that cannot be expressed exactly."""


class DatasetError(InterlaceError):
    """A source has no record that can be used, or a dataset folder is broken."""


class UnusableSampleError(DatasetError):
    """A sample that a model's chat template or processor cannot take. `reason` is short enough to count by."""

    def __init__(self, sample: str, reason: str) -> None:
        super().__init__(
            f"sample {sample} cannot be given to this model: {reason}.",
            "Leave it out of the data and run `interlace prepare` again.",
        )
        self.reason = reason


class ShortageError(InterlaceError):
    """Memory did not do, and nothing that the command could do itself helped. `is_on_host`: it was not a device's."""

    def __init__(self, what: str, fix: str = "", is_on_host: bool = False) -> None:
        super().__init__(what, fix)
        self.is_on_host = is_on_host


class UnusableRecordError(Exception):
    """A record of a source cannot be used; the message is the reason, short enough to count by, and `place` says where
    in the record that is. Never reaches a user: what reads records turns it into an entry of the manifest."""

    def __init__(self, reason: str = "", place: str = "") -> None:
        super().__init__(reason)
        self.place = place


class ExistsError(InterlaceError):
    """Something lies where the result would go, and nobody said that it may be replaced."""


class OverlapError(InterlaceError):
    """A checkpoint would be judged on samples that it was trained or calibrated on."""


class ChildError(InterlaceError):
    """A command that another one started has failed, and has said why itself."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code
        # For who calls from Python; the command line shows `what`.
        self.args = (f"a process that was started for this has failed with exit code {exit_code}, and has said why.",)


class AgreedError(InterlaceError):
    """What all processes of one command know, and say alike: none has to tell the others."""


class DisagreementError(AgreedError):
    """The processes of one command are about to do different things."""


class RefusedError(AgreedError):
    """The first process has refused what all were about to do; it says why."""

    def __init__(self, what: str, fix: str = "", exit_code: int = 1) -> None:
        super().__init__(what, fix)
        self.exit_code = exit_code


class LostPeerError(AgreedError):
    """Another process of this command has failed, or is gone."""


class RatioError(UsageError):
    """A plan cannot drop as many layers as was asked for."""


class PlanMismatchError(InterlaceError):
    """A plan, analysis or checkpoint was made from something else than what is at hand."""


class NotFiniteError(InterlaceError):
    """A model computes NaN or infinity."""


class TrainableSetError(InterlaceError):
    """What would train, or what has moved, is not what the plan says."""


def first_line(error: BaseException) -> str:
    """What a library says, in one line; its name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
