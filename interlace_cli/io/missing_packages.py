"""Which package an ImportError asks for: the model's own files need it, and interlace does not."""

from __future__ import annotations

import re

_PIP = re.compile(r"pip3? install (?:-\S+ )*([A-Za-z0-9][\w.\-]*)")
_LIBRARY = re.compile(r"requires the (\S+) library")


def find_missing_package(error: BaseException) -> str | None:
    """The package to install, from what the library says (`pip install num2words`, "requires the Torchvision library")
    or from the module that was not found; None if this is not about a package."""
    if not isinstance(error, ImportError):
        return None
    text = str(error)
    if found := _PIP.search(text):
        return found[1].rstrip(".")
    if found := _LIBRARY.search(text):
        return found[1].lower()
    return error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else None


def advise(error: BaseException) -> str:
    """What to do; empty if it is not about a package."""
    package = find_missing_package(error)
    return f"Install what this model needs: pip install {package}." if package else ""
