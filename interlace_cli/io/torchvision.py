"""Lets transformers be used where torchvision is missing, or of another build than torch."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import cache
from typing import Any


@cache
def repair_torchvision() -> None:
    """Lets a torchvision whose compiled operators do not fit this torch be imported all the same.

    torchvision declares the schemas of `nms` in its compiled library and registers meta kernels for them in Python; a
    CUDA build beside a CPU torch fails at the second, and transformers, which only wants its transforms, with it.
    Declaring the missing schemas is enough. Needed as long as `import torchvision` raises there.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(  # type: ignore[no-untyped-call]
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        # The schemas live as long as the library object.
        torch.library._interlace_torchvision = library  # type: ignore[attr-defined]


def do_without_video_processors() -> None:
    """Lets processors with a video part work on images where torchvision, which only that part needs, is missing.

    `ProcessorMixin` builds every part that its constructor names, and fails on the video part. With `video_processor`
    off that list, and none given to the constructor, loading, chat templates, batches of images and saving work, also
    on folders that were written with torchvision. Some read settings of the part that they never use on images: each
    is None. `tests/unit/test_models.py` fails when this is no longer needed.
    """
    from transformers import ProcessorMixin

    original, part = ProcessorMixin.get_attributes.__func__, "video_processor"
    if getattr(original, "_without_video", False):
        return
    build, begin = ProcessorMixin.from_args_and_dict.__func__, ProcessorMixin.__init__

    def get_attributes(cls: type) -> list[str]:
        return [name for name in original(cls) if name != part]

    def from_args_and_dict(cls: type[Any], /, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        names, rest = original(cls), {name: value for name, value in processor_dict.items() if name != part}
        if part in names:
            place = names.index(part)
            args = [*args[:place], None, *args[place:]]
        return build(cls, args, rest, **kwargs)

    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop(part, None)
        begin(self, *[arg for name, arg in zip(original(type(self)), args, strict=False) if name != part], **kwargs)

    get_attributes._without_video = True  # type: ignore[attr-defined]
    ProcessorMixin.get_attributes = classmethod(get_attributes)
    ProcessorMixin.from_args_and_dict = classmethod(from_args_and_dict)
    ProcessorMixin.__init__ = initialize
    # Of the class, so that no processor is saved with it.
    ProcessorMixin.video_processor = _NoVideo()


class _NoVideo:
    """Stands where a processor has its video part; every setting of it is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
