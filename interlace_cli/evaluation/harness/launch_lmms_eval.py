"""Runs lmms-eval's own command line: `python -m interlace_cli.evaluation.harness.launch_lmms_eval ...`.

Before that, it makes torchvision importable (`import_transformers` in `io/models.py`), which lmms-eval needs.
"""

from __future__ import annotations


def main() -> None:
    """Runs lmms-eval with the command-line arguments of this process."""
    import runpy

    from interlace_cli.io.models import import_transformers

    import_transformers()
    runpy.run_module("lmms_eval", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
